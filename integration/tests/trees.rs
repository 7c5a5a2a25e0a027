//! Real trees and real tools on the mount.

use std::fs::{self, File};
use std::io::{Read, Write};

use anyhow::{Result, ensure};
use dfs_integration::cluster::{Cluster, Options};
use dfs_integration::mount::Mount;
use dfs_integration::tool::{bytes, sh};
use dfs_integration::tree;

fn scene() -> Result<(Cluster, Mount)> {
    let cluster = Cluster::start()?;
    let mount = cluster.mount("mnt")?;
    Ok((cluster, mount))
}

fn end(cluster: &Cluster, mut mount: Mount) -> Result<()> {
    mount.unmount()?;
    cluster.expect_whole()?;
    Ok(())
}

#[test]
fn a_tree_of_thousands_of_files() -> Result<()> {
    let cluster = Cluster::start_with(Options { metrics: true, ..Options::default() })?;
    let mut mount = cluster.mount("mnt")?;
    let library = tree::python_library()?;
    let tar = cluster.dir().join("tree.tar");
    let pack =
        format!("tar --exclude=site-packages --exclude=__pycache__ -cf {} -C {} .", tar.display(), library.display());
    sh(cluster.dir(), &pack)?;
    sh(cluster.dir(), "mkdir small")?;
    tree::small_files(&cluster.dir().join("small"), 50, 100)?;
    sh(cluster.dir(), &format!("tar -rf {} small && mkdir original && tar xf {0} -C original", tar.display()))?;
    let count: usize = sh(cluster.dir(), "find original -type f | wc -l")?.trim().parse()?;
    ensure!(count >= 5000, "only {count} files to try with");

    let before = cluster.uploads()?;
    sh(&mount.path, &format!("mkdir tree && tar xf {} -C tree && sync tree", tar.display()))?;
    let uploads = cluster.uploads()? - before;
    eprintln!("{count} files unpacked with {uploads} upload requests to chunkds");
    ensure!(uploads <= 600.0, "{uploads} upload requests for {count} files");

    mount.unmount()?;
    let mount = cluster.mount("mnt")?;
    sh(&mount.path, &format!("diff -r --no-dereference tree {}/original", cluster.dir().display()))?;
    sh(&mount.path, "cp -a tree copy && diff -r --no-dereference tree copy")?;
    let changed = sh(&mount.path, "rsync -aic --delete tree/ copy/")?;
    ensure!(changed.is_empty(), "rsync found something to do:\n{changed}");
    sh(&mount.path, "mv copy moved && test ! -e copy && diff -r --no-dereference tree moved")?;
    sh(&mount.path, "rm -rf moved tree && test -z \"$(ls -A)\"")?;
    end(&cluster, mount)
}

#[test]
fn git_works() -> Result<()> {
    let (cluster, mount) = scene()?;
    let git = "git -c user.name=t -c user.email=t@example.org -c init.defaultBranch=main -c protocol.file.allow=always";
    sh(cluster.dir(), "mkdir src")?;
    tree::small_files(&cluster.dir().join("src"), 20, 20)?;
    sh(&cluster.dir().join("src"), &format!("{git} init -q && git add . && {git} commit -qm one"))?;
    sh(
        &mount.path,
        &format!(
            r#"
        {git} clone -q {src} repo && cd repo
        test -z "$(git status --porcelain)"
        for i in $(seq 1 20); do
            git checkout -q -b b$i
            echo $i > d000/f000.txt; echo $i > new$i; git rm -q d001/f0${{i: -1}}1.txt || true
            git add -A && {git} commit -qm "change $i"
            git checkout -q main
        done
        git checkout -q b7; test "$(cat d000/f000.txt)" = 7; git checkout -q main
        git gc -q --aggressive --prune=now
        git fsck --full --strict
        for i in $(seq 1 20); do git checkout -q b$i && test "$(cat new$i)" = $i; done
        test -z "$(git status --porcelain)"
    "#,
            src = cluster.dir().join("src").display()
        ),
    )?;
    end(&cluster, mount)
}

#[test]
fn sqlite_works() -> Result<()> {
    let (cluster, mut mount) = scene()?;
    sh(
        &mount.path,
        r#"
        sqlite3 db "create table t(a integer primary key, b text); create index i on t(b);"
        for i in $(seq 1 30); do
            sqlite3 db "begin; insert into t(b) select hex(randomblob(100)) from generate_series(1,200); delete from t where a % 17 = $i % 17; commit;"
        done
        test "$(sqlite3 db 'pragma integrity_check')" = ok
        sqlite3 db 'select count(*), sum(a) from t' > count
    "#,
    )?;
    mount.unmount()?;
    let mount = cluster.mount("mnt")?;
    sh(
        &mount.path,
        r#"
        test "$(sqlite3 db 'pragma integrity_check')" = ok
        test "$(sqlite3 db 'select count(*), sum(a) from t')" = "$(cat count)"
        sqlite3 db vacuum; test "$(sqlite3 db 'pragma integrity_check')" = ok
    "#,
    )?;
    end(&cluster, mount)
}

#[test]
fn a_c_project_is_compiled_and_tested_on_the_mount() -> Result<()> {
    let (cluster, mount) = scene()?;
    fs::create_dir(mount.path.join("p"))?;
    let dir = mount.path.join("p");
    let mut objects = String::new();
    for n in 0..30 {
        fs::write(
            dir.join(format!("u{n}.c")),
            format!("#include \"p.h\"\nint u{n}(int x) {{ return x * {n} + 1; }}\n"),
        )?;
        objects.push_str(&format!(" u{n}.o"));
    }
    let decls: String = (0..30).map(|n| format!("int u{n}(int);\n")).collect();
    let asserts: String = (0..30).map(|n| format!("  if (u{n}(3) != {}) return {};\n", 3 * n + 1, n + 1)).collect();
    fs::write(dir.join("p.h"), decls)?;
    fs::write(dir.join("test.c"), format!("#include \"p.h\"\nint main(void) {{\n{asserts}  return 0;\n}}\n"))?;
    fs::write(
        dir.join("Makefile"),
        format!(
            "libp.a:{objects}\n\tar rcs $@ $^\n%.o: %.c p.h\n\t$(CC) -O2 -c -o $@ $<\ntest: test.c libp.a\n\t$(CC) -o $@ test.c libp.a\ncheck: test\n\t./test\n"
        ),
    )?;
    sh(&dir, "make -s -j4 check && touch p.h && make -s -j2 check && make -q test")?;
    end(&cluster, mount)
}

#[test]
fn a_file_of_five_gib() -> Result<()> {
    const LEN: u64 = 5 << 30;
    const BLOCK: usize = 1 << 20;
    let (cluster, mut mount) = scene()?;
    let path = mount.path.join("big");
    let mut written = blake3::Hasher::new();
    {
        let mut file = File::create(&path)?;
        let mut block = bytes(5, BLOCK);
        for n in 0..LEN / BLOCK as u64 {
            // Every block differs, so that no chunk equals another.
            block[..8].copy_from_slice(&n.to_le_bytes());
            written.update(&block);
            file.write_all(&block)?;
        }
        file.sync_all()?;
    }
    mount.unmount()?;
    let mut mount = cluster.mount("mnt")?;
    let mut read = blake3::Hasher::new();
    let mut file = File::open(mount.path.join("big"))?;
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block)? {
            0 => break,
            n => drop(read.update(&block[..n])),
        }
    }
    drop(file);
    ensure!(read.finalize() == written.finalize(), "what was read is not what was written");
    cluster.expect_whole()?;
    mount.unmount()
}
