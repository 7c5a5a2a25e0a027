//! The engine as a whole, on a real directory.

use std::time::{Duration, Instant};

use dfs_core::attr::FileKind;
use dfs_core::id::{Ino, LaneId, Seq, SessionId};
use dfs_core::name::Name;
use dfs_core::op::{Commit, Create, Group, Op};
use dfs_core::time::Timestamp;

use super::*;

fn start(dir: &std::path::Path) -> (Engine, EngineThread) {
    let options = EngineOptions { dir: dir.join("m"), replicas: 1, min_replicas: 1, cache_bytes: 8 << 20 };
    open(&options).unwrap()
}

async fn finish(thread: EngineThread) {
    tokio::task::spawn_blocking(move || thread.stop()).await.unwrap();
}

fn create(session: SessionId, seq: u64, ino: Ino) -> Command {
    let create = Create {
        ino,
        parent: Ino::ROOT,
        name: Name::new(format!("f{seq}").as_bytes()).unwrap(),
        kind: FileKind::File,
        mode: 0o644,
        umask: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: Vec::new(),
    };
    let group = Group { time: Timestamp::default(), needs: Vec::new(), ops: vec![Op::Create(create)] };
    Command::Commit(Commit { session, lane: LaneId(0), seq: Seq(seq), puts: Vec::new(), groups: vec![group] })
}

async fn session(engine: &Engine) -> (SessionId, Ino) {
    let Ok(Ok(Reply::Session(session))) = engine.submit(Command::OpenSession { client: "test".into() }).await else {
        panic!("no session");
    };
    let Ok(Ok(Reply::Inos { start, .. })) = engine.submit(Command::GrantInos { session, count: 10 }).await else {
        panic!("no numbers");
    };
    (session, start)
}

#[tokio::test]
async fn commands_that_weigh_more_than_was_guessed_go_in_several_frames() {
    let tmp = tempfile::tempdir().unwrap();
    let (engine, thread) = start(tmp.path());
    // Each fits into the log by itself; while the first is synced, the others gather.
    let large = || Command::NotHeld { session: SessionId(1), inos: vec![Ino(u64::MAX); 600_000] };
    let sent: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn({
                let (engine, command) = (engine.clone(), large());
                async move { engine.submit(command).await }
            })
        })
        .collect();
    for outcome in sent {
        assert_eq!(outcome.await.unwrap().unwrap(), Err(Refusal::OverLimit));
    }
    session(&engine).await;
    finish(thread).await;
}

#[tokio::test]
async fn without_space_a_commit_that_was_done_gets_its_answer_again() {
    let tmp = tempfile::tempdir().unwrap();
    let (engine, thread) = start(tmp.path());
    let (id, ino) = session(&engine).await;
    let first = engine.submit(create(id, 1, ino)).await.unwrap().unwrap();
    engine.set_low_space(true);
    assert_eq!(engine.submit(create(id, 1, ino)).await.unwrap(), Ok(first));
    assert_eq!(engine.submit(create(id, 2, Ino(ino.0 + 1))).await.unwrap(), Err(Refusal::NoSpace));
    engine.set_low_space(false);
    assert!(engine.submit(create(id, 2, Ino(ino.0 + 1))).await.unwrap().is_ok());
    finish(thread).await;
}

#[tokio::test]
async fn an_order_is_told_only_when_its_tombstones_can_be_read() {
    let tmp = tempfile::tempdir().unwrap();
    let (engine, thread) = start(tmp.path());
    let watcher = std::thread::spawn({
        let engine = engine.clone();
        move || {
            while engine.applied().0 < 300 {
                let last = engine.last_order();
                let seen = engine.snapshot().applied().unwrap();
                assert!(last <= seen, "order {last} is told, the tables are at {seen}");
            }
        }
    });
    while engine.applied().0 < 300 {
        engine.submit(Command::Condemn { chunks: Vec::new() }).await.unwrap().unwrap();
    }
    tokio::task::spawn_blocking(move || watcher.join().unwrap()).await.unwrap();
    assert_eq!(engine.last_order(), engine.applied());
    finish(thread).await;
}

#[tokio::test]
async fn the_clock_does_not_go_back_over_a_start() {
    let tmp = tempfile::tempdir().unwrap();
    let (engine, thread) = start(tmp.path());
    session(&engine).await;
    drop(engine);
    finish(thread).await;
    let home = home::take(&tmp.path().join("m"), || unreachable!()).unwrap();
    let disk = Arc::new(dfs_disk::real::RealDisk);
    let dir = tmp.path().join("m/log");
    let mut log = crate::log::Log::open(disk, &dir, crate::log::LogOptions::new(home.cluster)).unwrap();
    // An entry from a clock that was far ahead, and a clean end: nothing is left to replay.
    let now = Timestamp { secs: 1 << 40, nanos: 0 };
    let index = LogIndex(log.last_index().0 + 1);
    let payload =
        entry::encode(&machine::command::Entry { now, command: Command::Start { start: StartId(9) } }).unwrap();
    log.append(&[crate::log::Entry { term: 1, index, payload }]).unwrap();
    log.sync().unwrap();
    drop((log, home));
    for _ in 0..2 {
        let (engine, thread) = start(tmp.path());
        let (id, _) = session(&engine).await;
        let row = machine::read::session(&*engine.snapshot(), id).unwrap().unwrap();
        assert!(row.opened >= now, "{:?}", row.opened);
        drop(engine);
        finish(thread).await;
    }
}

/// A commit that is refused, and logged as any other.
fn refused(id: SessionId) -> Command {
    Command::Commit(Commit { session: id, lane: LaneId(0), seq: Seq(77), puts: Vec::new(), groups: Vec::new() })
}

/// Submits as `submit_alone` does, on a runtime of one thread. The outcome, and whether it was done here.
async fn alone(engine: &Engine, command: Command) -> (Outcome, bool) {
    let (tx, rx) = oneshot::channel();
    let done = move |outcome| drop(tx.send((outcome, std::thread::current().id())));
    engine.submit_alone(command, Box::new(done)).await.unwrap();
    let (outcome, thread) = rx.await.unwrap();
    (outcome, thread == std::thread::current().id())
}

#[tokio::test]
async fn a_lone_command_is_done_where_it_is_brought() {
    let tmp = tempfile::tempdir().unwrap();
    let (engine, thread) = start(tmp.path());
    let (id, _) = session(&engine).await;
    // The first of a session is never alone, and a sync that takes long sends the next to the thread.
    let (mut at_once, mut quick) = (0, 0);
    for _ in 0..200 {
        let began = Instant::now();
        let (outcome, was_here) = alone(&engine, refused(id)).await;
        assert!(outcome.unwrap().is_err());
        at_once += u32::from(was_here);
        quick += u32::from(began.elapsed() < Duration::from_micros(700));
    }
    assert!(at_once > 10 || quick < 100, "{at_once} of {quick} quick ones");
    finish(thread).await;
    let late = engine.submit_alone(refused(id), Box::new(|_| panic!("nobody writes any more"))).await;
    assert!(late.is_err());
}

#[tokio::test]
async fn sessions_that_take_turns_do_not_write_alone() {
    let tmp = tempfile::tempdir().unwrap();
    let (engine, thread) = start(tmp.path());
    let (one, _) = session(&engine).await;
    let (two, _) = session(&engine).await;
    for _ in 0..20 {
        for id in [one, two] {
            let began = Instant::now();
            let (_, was_here) = alone(&engine, refused(id)).await;
            assert!(!was_here || began.elapsed() > Duration::from_millis(5), "they share no sync");
        }
    }
    finish(thread).await;
}

#[tokio::test]
async fn a_panic_ends_the_engine_wherever_it_happens() {
    for is_alone in [false, true] {
        let tmp = tempfile::tempdir().unwrap();
        let (engine, _thread) = start(tmp.path());
        let (id, _) = session(&engine).await;
        for _ in 0..20 {
            drop(alone(&engine, refused(id)).await);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let panics: Done = Box::new(|_| panic!("as a test"));
        let send = tokio::spawn({
            let (engine, command) = (engine.clone(), refused(id));
            async move {
                if is_alone {
                    engine.submit_alone(command, panics).await
                } else {
                    engine.submit_with(command, panics).await
                }
            }
        });
        drop(send.await);
        let stopped = tokio::time::timeout(Duration::from_secs(20), engine.stopped()).await;
        assert!(stopped.expect("it goes on as if nothing had happened").is_some());
        assert!(engine.submit(refused(id)).await.is_err());
    }
}

#[tokio::test]
async fn commands_from_many_sides_are_all_done_once_and_last() {
    let tmp = tempfile::tempdir().unwrap();
    let (engine, thread) = start(tmp.path());
    let (id, ino) = session(&engine).await;
    let writers = (0..4_u32).map(|lane| {
        let engine = engine.clone();
        tokio::spawn(async move {
            for seq in 1..=50_u64 {
                let Command::Commit(mut commit) = create(id, seq, Ino(ino.0 + u64::from(lane))) else { unreachable!() };
                commit.lane = LaneId(u16::try_from(lane).unwrap());
                if let Op::Create(create) = &mut commit.groups[0].ops[0] {
                    create.name = Name::new(format!("{lane}-{seq}").as_bytes()).unwrap();
                }
                let command = Command::Commit(commit);
                let Ok(Ok(Reply::Commit(reply))) = alone(&engine, command.clone()).await.0 else { panic!("{seq}") };
                // Sent again, as after a lost answer, it has the same one.
                let Ok(Ok(again)) = alone(&engine, command).await.0 else { panic!("{seq}") };
                assert_eq!(again, Reply::Commit(reply.clone()));
                // A number is used once.
                assert_eq!(reply.groups[0].is_ok(), seq == 1, "{reply:?}");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let names = |engine: &Engine| {
        let query = Query::Lookup { parent: Ino::ROOT, name: Name::new(b"3-1").unwrap() };
        engine.query(&query).unwrap().is_ok()
    };
    assert!(names(&engine));
    drop(engine);
    finish(thread).await;
    let (engine, thread) = start(tmp.path());
    assert!(names(&engine));
    finish(thread).await;
}

#[tokio::test]
async fn the_state_is_flushed_also_when_all_commands_are_alone() {
    let tmp = tempfile::tempdir().unwrap();
    let (engine, thread) = start(tmp.path());
    let (id, _) = session(&engine).await;
    let flushed = || {
        let files = std::fs::read_dir(tmp.path().join("m/kv")).unwrap();
        files.filter(|f| f.as_ref().unwrap().path().extension().is_some_and(|e| e == "sst")).count()
    };
    while flushed() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let at_start = flushed();
    // Each takes a unit of the log on the disk, of which so many are too much.
    let mut count = 0;
    while flushed() == at_start {
        count += 1;
        assert!(count < 20_000, "nothing was flushed");
        drop(alone(&engine, refused(id)).await);
    }
    finish(thread).await;
}
