//! Files without a name that somebody holds open, and what becomes of them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};

use anyhow::Result;
use dfs_integration::cluster::Options;
use dfs_integration::tool::bytes;

use crate::{Scene, soon};

/// All that is gone is freed by then.
const FREED: Duration = Duration::from_secs(40);

/// docs/semantics.md: "A file that was removed on another mount is saved as before while it is open here".
#[test]
fn a_file_removed_elsewhere_lives_while_it_is_open() -> Result<()> {
    const LEN: usize = 400_000;
    let scene = Scene::new()?;
    let inodes = scene.count("inodes")?;
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(scene.on_a("file"))?;
    let mut model = bytes(0, LEN);
    file.write_all_at(&model, 0)?;
    file.sync_all()?;
    let reader = File::open(scene.on_b("file"))?;
    // The name goes on a mount that has it open itself; the other holds it as well.
    fs::remove_file(scene.on_b("file"))?;
    soon("links", || file.metadata().map(|m| m.nlink()).ok(), |n| *n == Some(0))?;
    let until = Instant::now() + Duration::from_secs(15);
    for n in 1.. {
        let at = usize::try_from(n * 7919)? % (LEN - 1000);
        model[at..at + 1000].copy_from_slice(&bytes(n, 1000));
        file.write_all_at(&model[at..at + 1000], at as u64)?;
        if n % 3 == 0 {
            file.sync_all()?;
        }
        let mut found = vec![0; LEN];
        file.read_exact_at(&mut found, 0)?;
        assert!(found == model, "step {n}");
        assert_eq!(file.metadata()?.len(), LEN as u64);
        if Instant::now() > until {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    file.set_len(350_000)?;
    model.truncate(350_000);
    file.sync_all()?;
    let look = || {
        let mut found = vec![0; 400_000];
        let mut len = 0;
        while let Ok(n @ 1..) = reader.read_at(&mut found[len..], len as u64) {
            len += n;
        }
        found.truncate(len);
        found == model
    };
    soon("the other one that has it open", look, |same| *same)?;
    drop(file);
    // One has closed it, the other has not.
    std::thread::sleep(Duration::from_secs(6));
    assert!(look(), "it went while it was open");
    drop(reader);
    scene.wait_count("orphans", 0, FREED)?;
    scene.wait_count("inodes", inodes, FREED)?;
    scene.wait_count("chunks", 0, FREED)?;
    scene.finish()
}

/// A mount that is killed does not keep what it held for longer than its session lasts.
#[test]
fn what_a_killed_mount_held_is_freed_when_its_session_ends() -> Result<()> {
    let options = Options { metad: vec!["--session-end-s".into(), "5".into()], ..Options::default() };
    let mut scene = Scene::with(options)?;
    let inodes = scene.count("inodes")?;
    let mut held = Vec::new();
    for name in ["removed-here", "removed-there", "removed-later", "never-saved"] {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(scene.on_a(name))?;
        file.write_all_at(&bytes(1, 100_000), 0)?;
        if name != "never-saved" {
            file.sync_all()?;
        }
        held.push(file);
    }
    fs::remove_file(scene.on_a("removed-here"))?;
    fs::remove_file(scene.on_a("never-saved"))?;
    fs::remove_file(scene.on_b("removed-there"))?;
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(scene.count("orphans")?, 3, "held open, so still there");
    scene.a.kill9()?;
    drop(held);
    fs::remove_file(scene.on_b("removed-later"))?;
    scene.wait_count("orphans", 0, FREED)?;
    scene.wait_count("inodes", inodes, FREED)?;
    scene.wait_count("chunks", 0, FREED)?;
    let sessions = scene.cluster.status()?["sessions"].as_array().map(Vec::len);
    assert_eq!(sessions, Some(1));
    scene.a = scene.cluster.mount("a")?;
    scene.finish()
}
