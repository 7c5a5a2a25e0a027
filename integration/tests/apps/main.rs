//! Programs that people run, on a real mount. The long form, with `DFS_LONG=1` and the ignored tests, is `make apps`.

mod builds;
mod git;
mod overlay;
mod postgres;
mod rsync;
mod sqlite;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use dfs_integration::job::Job;
use dfs_integration::suite::Stage;

/// Runs a shell script in `dir`, with a deadline.
fn script(stage: &Stage, dir: &Path, text: &str, within: Duration) -> Result<String> {
    let mut command = Command::new("bash");
    command.args(["-xeuo", "pipefail", "-c", text]).current_dir(dir);
    Job::run(&mut command, &stage.log("script"), within)
}
