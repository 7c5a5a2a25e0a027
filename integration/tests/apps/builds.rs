//! Builds of real projects: thousands of small files unpacked, compiled, linked and run on the mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_integration::job::Job;
use dfs_integration::suite::{Stage, say};
use dfs_integration::tool;

use crate::script;

/// A crate that `scripts/tools` has installed, so all of it is in cargo's cache.
const PROJECT: &str = "fsx-0.3.2";

fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// The names `NAME-VERSION` of all packages that a lock file lists.
fn locked(text: &str) -> Vec<String> {
    let value =
        |line: &str, key: &str| Some(line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"')?.to_owned());
    let mut names = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let (Some(name), Some(next)) = (value(line, "name"), lines.peek())
            && let Some(version) = value(next, "version")
        {
            names.push(format!("{name}-{version}"));
        }
    }
    names
}

/// A home of cargo on the mount, with the project's packages still packed and nothing else; gives the registry's name.
fn packed_home(home: &Path) -> Result<String> {
    let cache = cargo_home().join("registry/cache");
    let registries = fs::read_dir(&cache).with_context(|| format!("{} is missing", cache.display()))?;
    for registry in registries {
        let from = registry?.path();
        let package = from.join(format!("{PROJECT}.crate"));
        let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !package.exists() {
            continue;
        }
        let to = home.join("registry/cache").join(&name);
        fs::create_dir_all(&to)?;
        fs::create_dir_all(home.join("registry/index"))?;
        let index = cargo_home().join("registry/index").join(&name);
        tool::sh(home, &format!("cp -r {} registry/index/ && tar xf {} -C ..", index.display(), package.display()))?;
        let lock = fs::read_to_string(home.join("..").join(PROJECT).join("Cargo.lock"))?;
        for file in locked(&lock).iter().map(|n| format!("{n}.crate")) {
            // Those for other systems were never fetched.
            if from.join(&file).exists() {
                fs::copy(from.join(&file), to.join(&file))?;
            }
        }
        return Ok(name);
    }
    anyhow::bail!("{PROJECT} is not in {}; `make tools` fetches it", cache.display())
}

#[test]
#[ignore = "compiles for a minute; make apps"]
fn cargo_builds_a_project_on_the_mount() -> Result<()> {
    let mut stage = Stage::start()?;
    let home = stage.dir("cargo-home")?;
    packed_home(&home)?;
    let project = stage.path(PROJECT);
    let target = stage.path("target");
    let begin = Instant::now();
    let cargo = |stage: &Stage| {
        let mut command = Command::new("cargo");
        command.args(["build", "--offline", "--locked", "--jobs", "2"]).current_dir(&project);
        command.env("CARGO_HOME", &home).env("CARGO_TARGET_DIR", &target);
        // rustup finds its toolchains by HOME; the tests' own settings do not belong into another's build.
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        Job::run(&mut command, &stage.log("cargo"), Duration::from_secs(1200))
    };
    cargo(&stage)?;
    say(format!("cargo: {PROJECT} built in {:.0?}", begin.elapsed()));
    stage.remount()?;
    let again = cargo(&stage)?;
    ensure!(!again.contains("Compiling"), "something was compiled again after a remount:\n{again}");
    // The program runs from the mount, against the mount.
    let run = "target/debug/fsx -N 300 -S 7 -P . on-the-mount";
    script(&stage, &stage.mount.path, run, Duration::from_secs(120))?;
    tool::sh(&project, "touch src/main.rs")?;
    let again = cargo(&stage)?;
    ensure!(again.matches("Compiling").count() == 1, "a touched source is compiled, and no more:\n{again}");
    stage.finish()
}

/// Packages of our own making, so that no registry is needed: npm unpacks, links and checks them all the same.
const NPM: &str = r#"
    export npm_config_cache=$PWD/cache npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false
    mkdir packages project
    for p in $(seq 1 40); do
        mkdir -p make/package/lib; cd make/package
        printf '{"name":"part%s","version":"1.0.0","bin":{"part%s":"run.js"},"main":"index.js"}' $p $p > package.json
        printf '#!/usr/bin/env node\nconsole.log(require("./index.js"))\n' > run.js
        for f in $(seq 1 40); do echo "module.exports = $f;" > lib/f$f.js; done
        echo "module.exports = $p;" > index.js
        cd ..; tar czf ../packages/part$p.tgz package; cd ..; rm -r make
    done
    cd project
    { printf '{"name":"whole","version":"1.0.0","dependencies":{'
      for p in $(seq 1 40); do
          [ $p = 1 ] || printf ,
          printf '"part%s":"file:../packages/part%s.tgz"' $p $p
      done; printf '}}'; } > package.json
    npm install --offline
    cp -r node_modules ../first
    npm ci --offline
    diff -r node_modules ../first
    test "$(node_modules/.bin/part17)" = 17
    test "$(find node_modules -name '*.js' | wc -l)" = 1680
    npm ls --offline | grep -q part40
"#;

#[test]
#[ignore = "needs npm; make apps"]
fn npm_installs_packages_on_the_mount() -> Result<()> {
    let mut stage = Stage::start()?;
    let begin = Instant::now();
    script(&stage, &stage.mount.path, NPM, Duration::from_secs(600))?;
    say(format!("npm: 40 packages installed twice in {:.0?}", begin.elapsed()));
    stage.remount()?;
    let again = "diff -r project/node_modules first && test \"$(project/node_modules/.bin/part40)\" = 40";
    script(&stage, &stage.mount.path, again, Duration::from_secs(120))?;
    stage.finish()
}
