//! Test suites that others wrote, on a real mount. The long form, with `DFS_LONG=1`, is `make conformance`.

mod fio;
mod fsx;
mod pjdfstest;
mod stress;
