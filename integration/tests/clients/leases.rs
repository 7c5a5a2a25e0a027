//! A mount that knows which names are not in a directory never says so of one that another has made.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dfs_integration::cluster::Options;
use dfs_integration::sys::errno;
use libc::ENOENT;

use crate::Scene;

/// How long a change waits at most for a mount that cannot be reached, with room for a busy machine.
const CUT_OFF: Duration = Duration::from_secs(5);

fn queries(scene: &Scene) -> Result<f64> {
    scene.cluster.metric(0, "dfs_metad_queries_total")
}

/// Directory `n`, made and leased by the first mount: it knows what is not there.
fn lease(scene: &Scene, n: usize) -> Result<()> {
    fs::create_dir(scene.on_a(format!("d{n}")))?;
    let until = Instant::now() + Duration::from_secs(10);
    let mut name = 0;
    loop {
        // Once it has the lease, a row of questions costs metad none.
        let before = queries(scene)?;
        for _ in 0..20 {
            name += 1;
            let missing = scene.on_a(format!("d{n}/missing-{name}"));
            ensure!(errno(&fs::metadata(&missing)) == ENOENT);
        }
        if queries(scene)? - before < 10.0 {
            return Ok(());
        }
        ensure!(Instant::now() < until, "directory {n} is not leased");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn scene() -> Result<Scene> {
    Scene::with(Options { metrics: true, ..Options::default() })
}

fn is_there(path: &Path) -> Result<()> {
    fs::metadata(path).map(drop).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))
}

/// docs/semantics.md: "A name that another mount has made is there at once".
/// docs/semantics.md: "A mount may know what is missing in a directory without asking".
#[test]
fn a_name_is_there_for_all_mounts_as_soon_as_it_is_made() -> Result<()> {
    let scene = scene()?;
    fs::write(scene.on_a("source"), b"x")?;
    for n in 0..30 {
        lease(&scene, n)?;
        let (here, there) = (scene.on_a(format!("d{n}/name")), scene.on_b(format!("d{n}/name")));
        match n % 6 {
            0 => drop(File::create(&there)?),
            1 => fs::create_dir(&there)?,
            2 => fs::hard_link(scene.on_b("source"), &there)?,
            3 => std::os::unix::fs::symlink("source", &there)?,
            4 => {
                fs::write(scene.on_b("other"), b"y")?;
                fs::rename(scene.on_b("other"), &there)?;
            }
            _ => {
                // On the mount itself the same holds, and the lease stays.
                fs::write(&here, b"own")?;
                is_there(&here)?;
                fs::remove_file(&here)?;
                ensure!(errno(&fs::metadata(&here)) == ENOENT);
                fs::write(&there, b"other")?;
            }
        }
        ensure!(fs::symlink_metadata(&here).is_ok(), "directory {n}: the name is not there");
        let second = scene.on_a(format!("d{n}/second"));
        ensure!(errno(&fs::metadata(&second)) == ENOENT);
        fs::write(scene.on_b(format!("d{n}/second")), b"z")?;
        is_there(&second)?;
    }
    scene.finish()
}

/// docs/semantics.md: "in the directories that it has leased for 3 seconds at most".
#[test]
fn a_mount_that_stands_still_holds_nobody_up_for_long_and_believes_nothing_afterwards() -> Result<()> {
    let scene = scene()?;
    (0..3).try_for_each(|n| lease(&scene, n))?;
    scene.a.daemon.signal(libc::SIGSTOP);
    let made = (|| -> Result<_> {
        let began = Instant::now();
        File::create(scene.on_b("d0/name"))?;
        let first = began.elapsed();
        let began = Instant::now();
        for n in 1..3 {
            File::create(scene.on_b(format!("d{n}/name")))?;
        }
        Ok((first, began.elapsed()))
    })();
    scene.a.daemon.signal(libc::SIGCONT);
    for n in 0..3 {
        is_there(&scene.on_a(format!("d{n}/name")))?;
    }
    let (first, others) = made?;
    ensure!(first < CUT_OFF && others < Duration::from_secs(1), "the first took {first:?}, two others {others:?}");
    lease(&scene, 3)?;
    scene.finish()
}

fn restart_metad(scene: &mut Scene) -> Result<()> {
    if let Some(mut metad) = scene.cluster.metad.take() {
        metad.kill9()?;
    }
    scene.cluster.start_metad()
}

/// docs/semantics.md: "so does one that was cut off when metad was started anew".
#[test]
fn a_new_metad_waits_for_whoever_may_believe_in_what_the_old_one_lent() -> Result<()> {
    let mut scene = scene()?;
    (0..2).try_for_each(|n| lease(&scene, n))?;
    // While both mounts run, they come back at once.
    restart_metad(&mut scene)?;
    File::create(scene.on_b("d0/name"))?;
    is_there(&scene.on_a("d0/name"))?;
    lease(&scene, 2)?;
    scene.a.daemon.signal(libc::SIGSTOP);
    let made = (|| -> Result<_> {
        restart_metad(&mut scene)?;
        let began = Instant::now();
        File::create(scene.on_b("d2/name"))?;
        Ok(began.elapsed())
    })();
    scene.a.daemon.signal(libc::SIGCONT);
    is_there(&scene.on_a("d2/name"))?;
    let took = made?;
    ensure!(took < 2 * CUT_OFF, "it took {took:?}");
    scene.finish()
}
