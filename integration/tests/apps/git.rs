//! git with several worktrees that commit at once while the repository is packed.

use std::time::Duration;

use anyhow::Result;
use dfs_integration::suite::{Stage, long};
use dfs_integration::tree;

use crate::script;

const SETUP: &str = r#"
    export GIT_CONFIG_COUNT=4
    export GIT_CONFIG_KEY_0=user.name GIT_CONFIG_VALUE_0=t
    export GIT_CONFIG_KEY_1=user.email GIT_CONFIG_VALUE_1=t@example.org
    export GIT_CONFIG_KEY_2=init.defaultBranch GIT_CONFIG_VALUE_2=main
    export GIT_CONFIG_KEY_3=gc.auto GIT_CONFIG_VALUE_3=0
"#;

const WORK: &str = r#"
    git init -q repo && cp -r source/. repo/ && cd repo
    git add . && git commit -qm first
    for w in 1 2 3 4; do git worktree add -q -b branch$w ../tree$w; done
    # git gc removes directories of loose objects, and packs refs, under the feet of who is about to use them. That
    # race is git's own: on a local disk, too, three runs of ten meet it. Whoever loses it is told, and tries again.
    commit() {
        for try in $(seq 1 10); do
            if git add -A && git commit -qm "$1"; then return 0; fi
        done
        return 1
    }
    work() {
        cd ../tree$1
        for i in $(seq 1 $COMMITS); do
            echo $i > d000/f000.txt; echo $1.$i > new$1.$i
            commit "$1.$i"
        done
    }
    for w in 1 2 3 4; do work $w & pids[$w]=$!; done
    git gc -q; git repack -qad
    for w in 1 2 3 4; do wait ${pids[$w]}; done
    git fsck --full --strict --no-dangling
    for w in 1 2 3 4; do
        test "$(git rev-list --count branch$w)" = $((COMMITS + 1))
        test -z "$(git -C ../tree$w status --porcelain)"
        git merge -q -X theirs -m merge branch$w
    done
    git gc -q --prune=now
    git clone -q --local . ../copy
    git clone -q --no-local --mirror . ../mirror.git
    git bundle create -q ../bundle --all && git bundle verify -q ../bundle
    git worktree remove ../tree1 && rm -rf ../tree2 && git worktree prune
    test "$(git worktree list | wc -l)" = 3
"#;

const CHECK: &str = r#"
    for repository in repo copy mirror.git; do
        git -C $repository fsck --full --strict --no-dangling
        test "$(git -C $repository rev-list --count main)" -gt $((4 * COMMITS))
    done
    test -z "$(git -C repo status --porcelain)"
    test -z "$(git -C tree3 status --porcelain)"
    test -z "$(git -C copy status --porcelain)"
    test "$(cat copy/new4.$COMMITS)" = 4.$COMMITS
    git clone -q bundle unbundled && diff -r --exclude=.git unbundled repo
"#;

#[test]
fn git_worktrees_commit_at_once() -> Result<()> {
    let mut stage = Stage::start()?;
    tree::small_files(&stage.path("source"), 10, 20)?;
    let commits = if long() { 60 } else { 8 };
    let setup = format!("{SETUP}\nexport COMMITS={commits}\n");
    let within = Duration::from_secs(900);
    script(&stage, &stage.mount.path, &format!("{setup}{WORK}"), within)?;
    stage.remount()?;
    script(&stage, &stage.mount.path, &format!("{setup}{CHECK}"), within)?;
    stage.finish()
}
