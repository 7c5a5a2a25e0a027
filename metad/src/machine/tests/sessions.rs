//! Sessions, lanes, groups, orphans and what is freed.

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::id::{Ino, LaneId, Seq, SessionId, SlotId};
use dfs_core::limits::INO_RANGES;
use dfs_core::op::{Commit, Group, Op};
use dfs_core::query::Query;

use crate::machine::command::{Command, Reply};
use crate::machine::read;
use crate::machine::tests::rig::{Rig, at, chunk, create, extent, group, name, put, write};

const ROOT: Ino = Ino::ROOT;

#[test]
fn nothing_works_before_format_and_format_works_once() {
    let mut rig = Rig::empty();
    assert_eq!(rig.apply(Command::OpenSession { client: String::new() }), Err(Refusal::Invalid));
    let format = |replicas, min_replicas| Command::Format {
        cluster: dfs_core::id::ClusterId(1),
        replicas,
        min_replicas,
        uid: 5,
        gid: 6,
    };
    for (r, m) in [(0, 0), (17, 1), (3, 0), (2, 3)] {
        assert_eq!(rig.apply(format(r, m)), Err(Refusal::Invalid));
    }
    rig.ok(format(3, 2));
    assert_eq!(rig.apply(format(3, 2)), Err(Refusal::Exists));
    assert_eq!((rig.attr(ROOT).uid, rig.attr(ROOT).mode), (5, 0o755));
}

#[test]
fn a_lane_does_each_number_once_and_repeats_its_last_reply() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    let make = |seq, n: u64| Commit {
        session: s,
        lane: LaneId(3),
        seq: Seq(seq),
        puts: vec![],
        groups: vec![group(1, vec![create(Ino(a.0 + n), ROOT, &format!("f{n}"), FileKind::File)])],
    };
    assert_eq!(rig.apply(Command::Commit(make(2, 0))), Err(Refusal::LaneOrder));
    assert_eq!(rig.apply(Command::Commit(make(0, 0))), Err(Refusal::LaneOrder));
    let first = rig.ok(Command::Commit(make(1, 0)));
    let before = rig.attr(ROOT);
    assert_eq!(rig.ok(Command::Commit(make(1, 0))), first);
    assert_eq!(rig.attr(ROOT), before);
    rig.ok(Command::Commit(make(2, 1)));
    assert_eq!(rig.apply(Command::Commit(make(1, 0))), Err(Refusal::LaneOrder));
    assert_eq!(rig.apply(Command::Commit(Commit { lane: LaneId(64), ..make(1, 2) })), Err(Refusal::OverLimit));
    assert_eq!(rig.apply(Command::Commit(Commit { session: SessionId(99), ..make(1, 2) })), Err(Refusal::NoSession));
    rig.ok(Command::EndSession { session: s });
    assert_eq!(rig.apply(Command::Commit(make(3, 2))), Err(Refusal::NoSession));
    assert_eq!(rig.apply(Command::EndSession { session: s }), Err(Refusal::NoSession));
}

#[test]
fn groups_are_whole_and_needs_are_kept() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    let ino = |n: u64| Ino(a.0 + n);
    let half = vec![create(ino(0), ROOT, "x", FileKind::File), Op::Unlink { parent: ROOT, name: name("none") }];
    let with = |needs: Vec<u16>, ops| Group { time: at(1), needs, ops };
    let reply = rig.commit(
        s,
        vec![],
        vec![
            with(vec![], half),
            with(vec![0], vec![create(ino(1), ROOT, "y", FileKind::File)]),
            with(vec![1], vec![create(ino(2), ROOT, "z", FileKind::File)]),
            with(vec![], vec![create(ino(0), ROOT, "w", FileKind::File)]),
            with(vec![3], vec![create(ino(4), ROOT, "v", FileKind::File)]),
            with(vec![9], vec![]),
        ],
    );
    let outcomes: Vec<_> = reply.groups.iter().map(|g| g.as_ref().map(|_| ()).map_err(Clone::clone)).collect();
    let needed = |n| Err(Refusal::Needed(n));
    assert_eq!(outcomes, [Err(Refusal::NotFound), needed(0), needed(1), Ok(()), Ok(()), Err(Refusal::Invalid)]);
    assert_eq!(rig.attr(ROOT).size, 2);
    assert_eq!(rig.lookup(ROOT, "x"), Err(Refusal::NotFound));
}

#[test]
fn limits_refuse_the_whole_commit() {
    let mut rig = Rig::new();
    let (s, _) = rig.session();
    let many = Commit { session: s, lane: LaneId(0), seq: Seq(1), puts: vec![], groups: vec![group(1, vec![]); 1025] };
    assert_eq!(rig.apply(Command::Commit(many)), Err(Refusal::OverLimit));
    assert_eq!(rig.apply(Command::GrantInos { session: s, count: 4097 }), Err(Refusal::OverLimit));
    assert_eq!(rig.apply(Command::OpenSession { client: "x".repeat(256) }), Err(Refusal::OverLimit));
    assert_eq!(rig.apply(Command::MakeSlots { first: SlotId(4), members: vec![] }), Err(Refusal::OverLimit));
}

/// A file with one extent and an xattr, without a name.
fn orphan(rig: &mut Rig, s: SessionId, ino: Ino, c: u8) {
    let c = chunk(c, 100);
    let xattr = Op::SetXattr { ino, name: b"user.x".to_vec(), value: vec![1], mode: dfs_core::op::XattrMode::Set };
    let ops = vec![
        create(ino, ROOT, "o", FileKind::File),
        write(ino, vec![extent(0, 100, c, 0)]),
        xattr,
        Op::Unlink { parent: ROOT, name: name("o") },
    ];
    assert!(rig.commit(s, vec![put(c)], vec![group(1, ops)]).groups[0].is_ok());
}

#[test]
fn an_orphan_stays_until_all_sessions_of_its_time_let_go() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    let (other, _) = rig.session();
    orphan(&mut rig, s, a, 1);
    let (late, _) = rig.session();
    let waiting = |rig: &Rig| read::orphans(&rig.kv, None, 10).unwrap().0.pop().map(|o| o.waiting);
    assert_eq!(waiting(&rig), Some(vec![s, other]));
    rig.ok(Command::NotHeld { session: late, inos: vec![a] });
    rig.ok(Command::NotHeld { session: s, inos: vec![a, Ino(7777)] });
    rig.ok(Command::NotHeld { session: s, inos: vec![a] });
    assert_eq!(waiting(&rig), Some(vec![other]));
    assert_eq!(rig.ok(Command::ReapOrphans { inos: vec![a] }), Reply::Reaped { more: false });
    assert_eq!(rig.attr(a).size, 100);
    rig.ok(Command::EndSession { session: other });
    assert_eq!(waiting(&rig), Some(vec![]));
    assert_eq!(rig.ok(Command::ReapOrphans { inos: vec![a, Ino(7777)] }), Reply::Reaped { more: false });
    assert_eq!(rig.ask(&Query::GetAttr { ino: a }), Err(Refusal::NotFound));
    assert_eq!(waiting(&rig), None);
    // Its chunk has no references and is due.
    let due = read::reap_due(&rig.kv, u64::MAX, 10).unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!(read::reap_due(&rig.kv, due[0].0 - 1, 10).unwrap(), []);
    assert_eq!(due[0].0, 1_000_000 + 10_000);
}

#[test]
fn a_large_orphan_goes_in_steps_and_is_gone_for_everybody_at_once() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    rig.op(s, create(a, ROOT, "f", FileKind::File)).unwrap();
    rig.checks = false;
    let c = chunk(1, 10_000);
    for part in 0..3_u64 {
        let extents = (0..3000).map(|i| extent(2 * (part * 3000 + i), 1, c, 0)).collect();
        assert!(rig.commit(s, vec![put(c)], vec![group(5, vec![write(a, extents)])]).groups[0].is_ok());
    }
    rig.checks = true;
    rig.op(s, Op::Unlink { parent: ROOT, name: name("f") }).unwrap();
    rig.ok(Command::NotHeld { session: s, inos: vec![a] });
    assert_eq!(rig.ok(Command::ReapOrphans { inos: vec![a] }), Reply::Reaped { more: true });
    assert_eq!(rig.ask(&Query::GetAttr { ino: a }), Err(Refusal::NotFound));
    assert_eq!(rig.op(s, write(a, vec![extent(0, 1, c, 0)])), Err(Refusal::NotFound));
    assert_eq!(read::reap_due(&rig.kv, 1_000_000, 10).unwrap(), [(1_000_000, read::Reap::Inode(a))]);
    assert_eq!(rig.ok(Command::ReapInode { ino: a }), Reply::Reaped { more: true });
    assert_eq!(rig.ok(Command::ReapInode { ino: a }), Reply::Reaped { more: false });
    assert_eq!(rig.ok(Command::ReapInode { ino: a }), Reply::Reaped { more: false });
    assert_eq!(read::counters(&rig.kv).unwrap().inodes, 1);
}

#[test]
fn sessions_get_numbers_of_their_own() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    let (t, b) = rig.session();
    assert!(s < t && a < b);
    assert_eq!(rig.op(t, create(a, ROOT, "x", FileKind::File)), Err(Refusal::NotGranted));
    for _ in 0..INO_RANGES {
        rig.ok(Command::GrantInos { session: s, count: 10 });
    }
    // The oldest range was given up.
    assert_eq!(rig.op(s, create(a, ROOT, "x", FileKind::File)), Err(Refusal::NotGranted));
    assert_eq!(read::sessions(&rig.kv).unwrap().len(), 2);
    assert_eq!(read::session(&rig.kv, s).unwrap().unwrap().grants.len(), INO_RANGES);
}

#[test]
fn ten_thousand_sessions_are_open_and_no_more() {
    let mut rig = Rig { checks: false, ..Rig::new() };
    let open = |rig: &mut Rig| rig.apply(Command::OpenSession { client: "test".into() });
    let sessions: Vec<SessionId> = (0..10_000)
        .map(|_| match open(&mut rig) {
            Ok(Reply::Session(session)) => session,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(open(&mut rig), Err(Refusal::OverLimit));
    rig.ok(Command::EndSession { session: sessions[77] });
    assert!(open(&mut rig).is_ok());
    assert_eq!(open(&mut rig), Err(Refusal::OverLimit));
}
