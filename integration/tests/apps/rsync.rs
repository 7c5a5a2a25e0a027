//! rsync, changing files where they are.

use std::time::Duration;

use anyhow::Result;
use dfs_integration::suite::{Stage, long};

use crate::script;

const INPLACE: &str = r#"
    make() { head -c $1 /dev/urandom > $2; }
    mkdir source
    make $SIZE source/big; make 300000 source/middle; make 10 source/small; : > source/empty
    rsync -a --inplace source/ $MNT/inplace/
    change() {
        head -c 5000 /dev/urandom | dd of=source/big bs=1 seek=$1 conv=notrunc status=none
    }
    for round in 1 2 3 4; do
        change $((round * 777777)); change $((SIZE - 100))
        # A part moves, so that blocks of the old file are found elsewhere.
        { head -c 100000 source/middle; echo in between; tail -c +100001 source/middle; } > moved
        mv moved source/middle
        truncate -s $((SIZE - round * 10000)) source/big
        rsync -a --inplace --no-whole-file --checksum source/ $MNT/inplace/
        diff -r source $MNT/inplace
    done
    # From the mount to the mount, and a deleted file.
    rm source/small
    rsync -a --inplace --no-whole-file --delete source/ $MNT/inplace/
    rsync -a --inplace --no-whole-file $MNT/inplace/ $MNT/second/
    diff -r source $MNT/second
"#;

const APPEND: &str = r#"
    mkdir log
    head -c $SIZE /dev/urandom > log/a
    rsync -a log/ $MNT/log/
    for round in 1 2 3; do
        head -c 1234567 /dev/urandom >> log/a
        rsync -a --append-verify log/ $MNT/log/
        cmp log/a $MNT/log/a
    done
    # A broken transfer leaves a part, which goes on; a part that differs is sent anew.
    truncate -s 3000000 $MNT/log/a
    rsync -a --append-verify log/ $MNT/log/ && cmp log/a $MNT/log/a
    truncate -s 3000000 $MNT/log/a
    printf wrong | dd of=$MNT/log/a bs=1 seek=1000 conv=notrunc status=none
    rsync -a --append-verify log/ $MNT/log/ && cmp log/a $MNT/log/a
    # Sparse files stay sparse.
    truncate -s 50M log/sparse && printf end >> log/sparse
    rsync -a --sparse log/ $MNT/log/ && cmp log/sparse $MNT/log/sparse
    test "$(stat -c %b $MNT/log/sparse)" -lt 1000
"#;

#[test]
fn rsync_changes_files_in_place_and_appends() -> Result<()> {
    let mut stage = Stage::start()?;
    let size = if long() { 200 << 20 } else { 20 << 20 };
    let here = stage.local("here");
    std::fs::create_dir(&here)?;
    let set = format!("export MNT={} SIZE={size}\n", stage.mount.path.display());
    script(&stage, &here, &format!("{set}{INPLACE}{APPEND}"), Duration::from_secs(600))?;
    stage.remount()?;
    let same = "diff -r source $MNT/inplace; diff -r source $MNT/second; diff -r log $MNT/log";
    script(&stage, &here, &format!("{set}{same}"), Duration::from_secs(600))?;
    stage.finish()
}
