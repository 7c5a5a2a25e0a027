# One of several writers of one sqlite database. Prints the number of each transaction that was committed.
import sqlite3
import sys

path, mode, writer, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
db = sqlite3.connect(path, timeout=120, isolation_level=None)
db.execute(f"pragma journal_mode={mode}")
db.execute("pragma synchronous=full")
first = db.execute("select coalesce(max(n), -1) + 1 from entry where writer = ?", (writer,)).fetchone()[0]
for n in range(first, first + count):
    db.execute("begin immediate")
    db.execute("update total set n = n + 1")
    db.execute("insert into entry(writer, n, payload) values (?, ?, randomblob(?))", (writer, n, n * 397 % 9000))
    db.execute("update entry set payload = randomblob(100) where writer = ? and n = ?", (writer, n // 2))
    db.execute("commit")
    print(n, flush=True)
