//! Messages with something in every field, as daemons and clients send them.

use prost::Message;

use super::NAMES;
use crate::v1::{self, op, query};

/// An input that is this message.
fn seed<W: Message>(wire: &W) -> Vec<u8> {
    let kind = NAMES.iter().position(|name| std::any::type_name::<W>().ends_with(&format!("::{name}")));
    let kind = kind.and_then(|at| u8::try_from(at).ok()).expect("a kind of message that is fed");
    [&[kind][..], &wire.encode_to_vec()].concat()
}

fn time() -> Option<v1::Time> {
    Some(v1::Time { secs: -5, nanos: 7 })
}

fn chunk() -> v1::ChunkRef {
    v1::ChunkRef { id: vec![7; 32], len: 64 << 20, slot: 3 }
}

fn order() -> Option<v1::OrderNo> {
    Some(v1::OrderNo { incarnation: 1, index: 300 })
}

fn ack() -> v1::Ack {
    v1::Ack { store: vec![1; 16], start: 4, orders: order(), losses: 2 }
}

fn extent(at: u64) -> v1::Extent {
    v1::Extent { start: at, end: at + 100, chunk: Some(chunk()), offset: 9 }
}

fn dentry() -> Option<v1::Dentry> {
    Some(v1::Dentry { parent: 1, name: b"name".to_vec() })
}

fn range() -> Option<v1::Range> {
    Some(v1::Range { start: 5, end: 1 << 40 })
}

fn lock() -> v1::Lock {
    v1::Lock { ino: 2, owner: 9, pid: 77, range: range(), kind: v1::LockKind::LockWrite.into() }
}

fn ops() -> Vec<v1::Op> {
    let piece = v1::MovePiece { from: Some(extent(0)), to: Some(extent(0)) };
    let all = [
        op::Op::Create(v1::Create {
            ino: 5,
            at: dentry(),
            kind: v1::Kind::Symlink.into(),
            mode: 0o777,
            target: b"there".to_vec(),
            umask: 0o22,
            ..Default::default()
        }),
        op::Op::Link(v1::Link { ino: 5, at: dentry() }),
        op::Op::Unlink(dentry().unwrap_or_default()),
        op::Op::Rmdir(dentry().unwrap_or_default()),
        op::Op::Rename(v1::Rename {
            from: dentry(),
            to: dentry(),
            mode: v1::RenameMode::RenameNoReplace.into(),
            whiteout: Some(v1::Whiteout { ino: 8, uid: 1, gid: 2 }),
        }),
        op::Op::SetAttr(v1::SetAttr {
            ino: 5,
            mode: Some(0o640),
            size: Some(1 << 40),
            atime: time(),
            ..Default::default()
        }),
        op::Op::Cleaned(v1::Cut { ino: 5, cut: 2 }),
        op::Op::Expect(v1::Link { ino: 5, at: dentry() }),
        op::Op::CutIsGood(v1::GoodCut { at: Some(v1::Cut { ino: 5, cut: 2 }), data: 3 }),
        op::Op::DropSetgid(5),
        op::Op::Atime(v1::SetAtime { ino: 5, atime: time() }),
        op::Op::SetXattr(v1::SetXattr { ino: 5, name: b"user.a".to_vec(), value: vec![0; 9], mode: 1 }),
        op::Op::RemoveXattr(v1::RemoveXattr { ino: 5, name: b"user.a".to_vec() }),
        op::Op::Write(v1::Write {
            ino: 5,
            extents: vec![extent(0), extent(200)],
            holes: range().into_iter().collect(),
            mtime: time(),
            kill_priv: true,
        }),
        op::Op::Move(v1::Move { ino: 5, pieces: vec![piece; 2] }),
        op::Op::Clone(v1::CloneRange {
            src: 5,
            src_offset: 4096,
            dst: 6,
            dst_offset: 0,
            len: 1 << 30,
            mtime: time(),
            kill_priv: false,
        }),
        op::Op::Space(v1::Space { ino: 5, hole: range(), at_least: 99, mtime: time(), kill_priv: false }),
        op::Op::Lock(lock()),
        op::Op::SetAcl(v1::SetAcl { ino: 5, which: 1, acl: vec![2, 0, 0, 0], kill_setgid: true }),
    ];
    all.into_iter().map(|op| v1::Op { op: Some(op) }).collect()
}

fn commit() -> v1::Commit {
    let group = |needs, ops| v1::Group { time: time(), needs, ops };
    let put = v1::Put { chunk: Some(chunk()), acks: vec![ack(); 3] };
    v1::Commit {
        session: 4,
        lane: 1,
        seq: 2,
        puts: vec![put],
        groups: vec![group(vec![], ops()), group(vec![0], vec![])],
    }
}

fn attr() -> v1::Attr {
    let (kind, mode) = (v1::Kind::File.into(), 0o644);
    let (atime, mtime, ctime, btime) = (time(), time(), time(), time());
    v1::Attr { ino: 5, kind, mode, nlink: 1, size: 300, atime, mtime, ctime, btime, change: 9, ..Default::default() }
}

fn node() -> v1::NodeInfo {
    let extents = Some(v1::InlineExtents { extents: vec![extent(0), extent(100)] });
    v1::NodeInfo { attr: Some(attr()), extents }
}

fn reply() -> v1::CommitReply {
    let outcome = v1::PutOutcome::Accepted.into();
    let done = v1::OpReply { attrs: vec![attr()], data_before: 3, reached: 4 };
    let refusal = v1::Refusal { code: v1::RefusalCode::RefusalNeeded.into(), group: 1 };
    v1::CommitReply {
        puts: vec![v1::PutVerdict { outcome, chunk: Some(chunk()) }],
        groups: vec![
            v1::GroupReply { refusal: None, ops: vec![done] },
            v1::GroupReply { refusal: Some(refusal), ops: vec![] },
        ],
    }
}

fn map() -> v1::ClusterMap {
    let state = v1::NodeState::Up.into();
    let member = |store| v1::MapMember { store: vec![store; 16], full: true };
    v1::ClusterMap {
        cluster: vec![9; 16],
        epoch: 12,
        replicas: 3,
        min_replicas: 2,
        nodes: vec![v1::MapNode { id: vec![1; 16], addr: "h:1".into(), zone: "z".into(), state, draining: true }],
        stores: vec![v1::MapStore { id: vec![1; 16], node: vec![1; 16], capacity: 1 << 40, start: 3 }],
        slots: vec![v1::MapSlot { id: 3, members: vec![member(1), member(2), member(3)] }],
    }
}

fn answers() -> Vec<v1::Answer> {
    use v1::answer::Answer;
    let held = v1::HeldLock { session: 4, pid: 5, range: range(), kind: v1::LockKind::LockRead.into() };
    let (kind, name) = (v1::Kind::File.into(), b"name".to_vec());
    let entry = v1::DirEntry { name, ino: 5, kind, node: Some(node()) };
    let all = [
        Answer::Node(node()),
        Answer::Dir(v1::Dir { attr: Some(attr()), entries: vec![entry; 2], end: true }),
        Answer::Extents(v1::Extents { data: 4, extents: vec![extent(0), extent(100)], end: false }),
        Answer::Value(b"value".to_vec()),
        Answer::Names(v1::Names { names: vec![b"user.a".to_vec(), b"user.b".to_vec()] }),
        Answer::StatFs(v1::StatFs { total_bytes: 3, free_bytes: 2, inodes: 1 }),
        Answer::Chunk(v1::FoundChunk { chunk: Some(chunk()) }),
        Answer::Lock(v1::FoundLock { lock: Some(held) }),
    ];
    all.into_iter().map(|answer| v1::Answer { answer: Some(answer) }).collect()
}

fn queries() -> Vec<v1::Query> {
    let get_lock = v1::GetLock { ino: 5, session: 4, owner: 3, range: range(), kind: v1::LockKind::LockRead.into() };
    let all = [
        query::Query::Lookup(dentry().unwrap_or_default()),
        query::Query::ReadDir(v1::ReadDir { ino: 1, after: b"a".to_vec(), limit: 1000, plus: true }),
        query::Query::Extents(v1::GetExtents { ino: 5, from: 1 << 30, limit: 4096 }),
        query::Query::GetXattr(v1::GetXattr { ino: 5, name: b"user.a".to_vec() }),
        query::Query::FindChunk(vec![7; 32]),
        query::Query::GetLock(get_lock),
    ];
    all.into_iter().map(|query| v1::Query { query: Some(query) }).collect()
}

fn session() -> Vec<Vec<u8>> {
    use v1::call::Body;
    use v1::call_result::Body as Result;
    let hello = v1::Hello { protocol: 1, session: 0, client: "host".into(), cluster: vec![9; 16] };
    let bodies = [Body::Commit(commit()), Body::GrantInos(100), Body::WaitLock(lock()), Body::LeaseNames(5)];
    let calls = bodies.into_iter().enumerate().map(|(id, body)| v1::Call { id: id as u64, body: Some(body) });
    let leased = v1::LeasedNames { granted: true, names: vec![b"a".to_vec(), b"b".to_vec()] };
    let inos = v1::InoRange { start: 2, end: 9 };
    let results = [Result::Commit(reply()), Result::Inos(inos), Result::Fault("x".into()), Result::Leased(leased)];
    let results = results.into_iter().map(|body| v1::CallResult { id: 3, body: Some(body) });
    let load = v1::StoreLoad { store: vec![1; 16], free: 1 << 30, total: 1 << 40, missed: 2 };
    vec![
        seed(&v1::SessionRequest {
            hello: Some(hello),
            calls: calls.collect(),
            not_held: vec![5, 6],
            epoch: 3,
            close: false,
            cancel: vec![1],
            beat: 1_000_000,
            returned: vec![5],
        }),
        seed(&v1::SessionResponse {
            welcome: Some(v1::Welcome { session: 4, resumed: false, map: Some(map()) }),
            results: results.collect(),
            map: Some(map()),
            loads: vec![load],
            held: vec![5],
            clean: vec![v1::Cut { ino: 5, cut: 1 }],
            recall: vec![5],
            beat: 1_000_000,
        }),
    ]
}

fn daemons() -> Vec<Vec<u8>> {
    let id = || vec![1; 16];
    let store = v1::RegisterStore { store: id(), capacity: 1 << 40, start: 3, free: 1 << 39, orders: order() };
    let beat = v1::StoreBeat {
        store: id(),
        start: 3,
        free: 1,
        total: 2,
        orders: order(),
        trouble: "slow".into(),
        untrusted: true,
    };
    let one = v1::Order { number: order(), chunk: Some(chunk()) };
    let orders = v1::StoreOrders { store: id(), orders: vec![one], complete_up_to: order(), floor: order() };
    let got = v1::GotChunk { chunk: Some(chunk()), orders: order(), losses: 1 };
    let known = v1::KnownChunk { id: vec![7; 32], len: 5, references: 1, missed: vec![id(); 2] };
    vec![
        seed(&v1::RegisterRequest {
            protocol: 1,
            node: id(),
            addr: "host:7410".into(),
            zone: "rack".into(),
            cluster: vec![9; 16],
            stores: vec![store],
            start_id: id(),
            index: 300,
            incarnation: 1,
        }),
        seed(&v1::HeartbeatRequest { node: id(), epoch: 3, stores: vec![beat] }),
        seed(&v1::HeartbeatResponse {
            map: Some(map()),
            orders: vec![orders],
            missed: vec![id()],
            start_id: id(),
            index: 9,
        }),
        seed(&v1::ReportRequest {
            store: id(),
            start: 3,
            got: vec![got],
            lost: vec![chunk()],
            as_of: 4,
            loss: Some(5),
        }),
        seed(&v1::SlotChunksResponse { chunks: vec![known; 2], end: true }),
    ]
}

fn chunks() -> Vec<Vec<u8>> {
    let forward = v1::ForwardTo { store: vec![2; 16], addr: "host:7411".into() };
    let open = v1::PutOpen { cluster: vec![9; 16], store: vec![1; 16], slot: 3, forward: vec![forward; 2] };
    let put = |message| seed(&v1::PutRequest { message: Some(message) });
    let new = v1::NewChunk { id: vec![7; 32], data: vec![5; 40].into() };
    let error = v1::PutError { code: 8, message: "no room".into() };
    let results = [v1::put_result::Result::Ack(ack()), v1::put_result::Result::Error(error.clone())];
    let results = results.into_iter().map(|result| v1::PutResult { result: Some(result) }).collect();
    let read = [v1::read_result::Result::Data(vec![3; 40].into()), v1::read_result::Result::Error(error)];
    let read = read.into_iter().map(|result| v1::ReadResult { result: Some(result) }).collect();
    vec![
        put(v1::put_request::Message::Open(open)),
        put(v1::put_request::Message::Part(vec![1; 100].into())),
        put(v1::put_request::Message::Name(v1::PutName { id: vec![7; 32], len: 100 })),
        seed(&v1::PutBatchRequest { cluster: vec![9; 16], store: vec![1; 16], slot: 3, chunks: vec![new; 2] }),
        seed(&v1::PutBatchResponse { results }),
        seed(&v1::ReadRequest { store: vec![1; 16], chunk: Some(chunk()), offset: 9, len: 1 << 20, background: true }),
        seed(&v1::ReadBatchRequest { store: vec![1; 16], chunks: vec![chunk(); 3], background: true }),
        seed(&v1::ReadBatchResponse { results: read }),
        seed(&v1::FindResponse { found: vec![v1::Found { ack: Some(ack()) }, v1::Found { ack: None }] }),
    ]
}

/// Each message once or more.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut all = vec![seed(&commit()), seed(&reply()), seed(&map()), seed(&attr()), seed(&ack())];
    all.extend(ops().iter().map(seed));
    all.extend(answers().iter().map(seed));
    all.extend(queries().iter().map(seed));
    all.extend(session());
    all.extend(daemons());
    all.extend(chunks());
    all
}
