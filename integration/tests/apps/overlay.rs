//! A container's root: overlayfs whose upper layer is on the mount.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use dfs_integration::job::Job;
use dfs_integration::suite::Stage;
use dfs_integration::tree;

/// Runs a script in the merged directory. The overlay is mounted in a mount namespace of the script's own, so it
/// goes with the script, whatever happens.
fn inside(stage: &Stage, lower: &Path, text: &str) -> Result<String> {
    let merged = stage.local("merged");
    fs::create_dir_all(&merged)?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        stage.path("upper").display(),
        stage.path("work").display()
    );
    let merged = merged.display();
    let text = format!("mount -t overlay overlay -o {options} {merged}\ncd {merged}\n{text}\n");
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-xeuo", "pipefail", "-c", &text]);
    Job::run(&mut command, &stage.log("overlay"), Duration::from_secs(120))
}

fn fill(lower: &Path) -> Result<()> {
    tree::small_files(&lower.join("many"), 5, 20)?;
    for dir in ["etc", "gone", "replaced"] {
        fs::create_dir(lower.join(dir))?;
        fs::write(lower.join(dir).join("file"), format!("{dir} from below\n"))?;
    }
    fs::write(lower.join("removed"), "below")?;
    File::create(lower.join("large"))?.set_len(3 << 20)?;
    Ok(())
}

const CHANGE: &str = r"
    echo above >> etc/file
    echo new > etc/new
    rm removed
    rm -r gone
    rm -r replaced && mkdir replaced && echo other > replaced/other
    printf x | dd of=large bs=1 seek=2000000 conv=notrunc status=none
    chmod 600 many/d000/f000.txt
    mv many/d001/f001.txt many/d001/moved
    ln etc/new etc/linked
    ln -s etc/new soft
    mkfifo pipe
    setfattr -n user.colour -v blue etc/new
    for i in $(seq 1 200); do echo $i > many/d002/n$i; done
    rm many/d002/n1*
    sync .
";

const CHECK: &str = r#"
    test "$(cat etc/file)" = "etc from below
above"
    test "$(cat etc/new)" = new
    test ! -e removed
    test ! -e gone
    test "$(ls replaced)" = other
    test "$(tail -c +2000001 large | head -c 1)" = x
    test "$(stat -c %s large)" = 3145728
    test "$(stat -c %a many/d000/f000.txt)" = 600
    test ! -e many/d001/f001.txt
    test -s many/d001/moved
    test "$(stat -c %h etc/linked)" = 2
    test "$(readlink soft)" = etc/new
    test -p pipe
    test "$(getfattr -n user.colour --only-values etc/new)" = blue
    test "$(ls many/d002 | grep -c ^n)" = 89
"#;

fn works_over(stage: &mut Stage, lower: &Path) -> Result<()> {
    inside(stage, lower, &format!("{CHANGE}\n{CHECK}"))?;
    stage.remount()?;
    inside(stage, lower, CHECK)?;
    let whiteout = fs::symlink_metadata(stage.path("upper/removed"))?;
    ensure!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0, "no whiteout: {whiteout:?}");
    // What is removed above can come back, and a directory that hides one below stays empty.
    inside(stage, lower, "echo again > removed; test \"$(cat removed)\" = again; mkdir gone; test -z \"$(ls gone)\"")?;
    inside(stage, lower, "test \"$(cat removed)\" = again; rm removed; rmdir gone; test ! -e gone")?;
    fs::remove_dir_all(stage.path("upper"))?;
    fs::remove_dir_all(stage.path("work"))?;
    Ok(())
}

#[test]
fn an_overlay_has_its_upper_layer_on_the_mount() -> Result<()> {
    let mut stage = Stage::start()?;
    for lower in [stage.local("lower"), stage.path("lower")] {
        fs::create_dir(&lower)?;
        fill(&lower)?;
        stage.dir("upper")?;
        stage.dir("work")?;
        works_over(&mut stage, &lower)?;
    }
    stage.finish()
}
