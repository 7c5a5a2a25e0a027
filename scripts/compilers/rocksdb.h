// What nearly all of RocksDB's files include, one way or another.
#include "db/db_impl/db_impl.h"
#include "rocksdb/utilities/transaction_db.h"
#include "table/block_based/block_based_table_reader.h"
#include <iostream>
#include <sstream>
#include <unordered_map>
