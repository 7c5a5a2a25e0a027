//! Fuzz target: what comes on the stream of a session, at a client that waits for answers of every kind.

use std::task::{Context, Waker};

use dfs_core::extent::{Extent, ExtentMap};
use dfs_core::id::{Ino, SessionId};
use dfs_core::op::CommitReply;
use dfs_core::query::Answer;
use dfs_core::range::ByteRange;
use dfs_fuzz_kit::{Input, Target};
use dfs_proto::v1::call::Body;
use dfs_proto::v1::call_result::Body as Told;
use dfs_proto::{Message, codec, v1};
use tokio::sync::oneshot;

use super::calls::{Reply, Submitted};
use super::session::{Stop, take};
use super::{Shared, weight};
use crate::config::ClientConfig;
use crate::lock::lock;

/// The input is messages, each behind its length in two bytes.
pub const SESSION: Target = Target { name: "client_session", target: session, seeds, base: 1 << 20, per_byte: 8 << 10 };

/// Messages of one input.
const MESSAGES: usize = 16;

fn session(data: &[u8]) {
    let shared = Shared::new(&ClientConfig::default());
    drop(shared.on_held.set(Box::new(<[Ino]>::to_vec)));
    let outbox = lock(&shared.calls).connecting(v1::Hello::default());
    lock(&shared.calls).welcomed(SessionId(1));
    let mut input = Input::new(data);
    let mut waiting = ask(&shared);
    for _ in 0..MESSAGES {
        if input.is_empty() {
            break;
        }
        let mut cx = Context::from_waker(Waker::noop());
        let _sent = lock(&shared.calls).poll_request(outbox, &mut cx);
        let bytes = input.piece();
        if codec::check::<v1::SessionResponse>(bytes).is_err() {
            continue;
        }
        let Ok(message) = v1::SessionResponse::decode(bytes) else { continue };
        let mut later = Vec::new();
        match take(&shared, message, &mut later) {
            None => later.into_iter().for_each(|id| lock(&shared.calls).again(id)),
            Some(Stop::SessionSpoilt) => lock(&shared.calls).abandon(),
            Some(_) => drop(lock(&shared.calls).welcomed(SessionId(2))),
        }
        waiting.retain_mut(|reply| match reply.try_recv() {
            Ok(reply) => {
                reply.into_iter().for_each(|body| told(&shared, body));
                false
            }
            Err(e) => e == oneshot::error::TryRecvError::Empty,
        });
    }
    lock(&shared.calls).beat();
    lock(&shared.calls).close();
}

/// A question, a wish for numbers, a lock to wait for, and two commits; their numbers are 1 to 5.
fn ask(shared: &Shared) -> Vec<oneshot::Receiver<Reply>> {
    let mut calls = lock(&shared.calls);
    let mut waiting = Vec::new();
    for body in [Body::Query(v1::Query::default()), Body::GrantInos(1), Body::WaitLock(v1::Lock::default())] {
        waiting.extend(calls.submit(body, weight::QUESTION).map(|(_, reply)| reply));
    }
    for ino in [3, 4] {
        let submitted = calls.submit_commit(None, v1::Commit::default(), 9, &[Ino(ino)]);
        if let Ok(Submitted::Sent(id, reply)) = submitted {
            waiting.push(reply);
            calls.give_up(id);
        }
    }
    waiting
}

/// What callers do with an answer.
fn told(shared: &Shared, body: Told) {
    match body {
        Told::Answer(answer) => {
            if let Ok(answer) = Answer::try_from(answer) {
                keep(answer);
            }
        }
        Told::Commit(reply) => drop(CommitReply::try_from(reply)),
        Told::Inos(range) => {
            let session = shared.session();
            let mut inos = lock(&shared.inos);
            inos.take(session);
            inos.granted(session, Some((range.start, range.end)));
            inos.granted(session, Some((range.start, range.end)));
            for _ in 0..3 {
                inos.take(session);
            }
        }
        other => drop(super::unfit(&other)),
    }
}

/// Extents that were told are kept, and read by.
fn keep(answer: Answer) {
    let extents: Vec<Extent> = match answer {
        Answer::Node(node) => node.extents.unwrap_or_default(),
        Answer::Extents { extents, .. } => extents,
        Answer::Dir { entries, .. } => {
            entries.into_iter().filter_map(|e| e.node).flat_map(|node| node.extents.unwrap_or_default()).collect()
        }
        _ => return,
    };
    let mut map = ExtentMap::default();
    for extent in &extents {
        map.insert(*extent);
    }
    for extent in &extents {
        let around = ByteRange { start: extent.range.start / 2, end: extent.range.end.saturating_add(9) };
        drop(map.plan(around));
        map.punch(ByteRange { start: extent.range.start, end: extent.range.start + extent.range.len().div_ceil(2) });
    }
    map.truncate(extents.first().map_or(0, |e| e.range.end));
}

fn seeds() -> Vec<Vec<u8>> {
    let attr = |ino| {
        let time = Some(v1::Time { secs: 5, nanos: 6 });
        let (kind, mode) = (v1::Kind::File.into(), 0o644);
        v1::Attr { ino, kind, mode, atime: time, mtime: time, ctime: time, btime: time, ..Default::default() }
    };
    let chunk = v1::ChunkRef { id: vec![7; 32], len: 300, slot: 1 };
    let extent = |start| v1::Extent { start, end: start + 300, chunk: Some(chunk.clone()), offset: 0 };
    let extents = v1::Extents { data: 1, extents: vec![extent(0), extent(300), extent(1 << 40)], end: true };
    let node = v1::NodeInfo { attr: Some(attr(5)), extents: Some(v1::InlineExtents { extents: vec![extent(9)] }) };
    let answer = |answer| Told::Answer(v1::Answer { answer: Some(answer) });
    let done = v1::OpReply { attrs: vec![attr(3)], data_before: 1, reached: 2 };
    let reply = v1::CommitReply { puts: vec![], groups: vec![v1::GroupReply { refusal: None, ops: vec![done] }] };
    let refused = |code: v1::RefusalCode| Told::Refusal(v1::Refusal { code: code.into(), group: 0 });
    let message = |results: Vec<(u64, Told)>| {
        let results = results.into_iter().map(|(id, body)| v1::CallResult { id, body: Some(body) }).collect();
        let mut out = Vec::new();
        Input::put_piece(&mut out, &v1::SessionResponse { results, ..Default::default() }.encode_to_vec());
        out
    };
    let map = v1::ClusterMap { cluster: vec![9; 16], epoch: 4, replicas: 3, min_replicas: 2, ..Default::default() };
    let load = v1::StoreLoad { store: vec![1; 16], free: 5, total: 9, missed: 1 };
    let pulse = v1::SessionResponse { map: Some(map), loads: vec![load], held: vec![3, 5], ..Default::default() };
    let mut told = message(vec![
        (1, answer(v1::answer::Answer::Extents(extents))),
        (2, Told::Inos(v1::InoRange { start: 100, end: 200 })),
        (3, Told::LockFree(v1::LockFree {})),
        (4, Told::Commit(reply)),
        (5, Told::Fault("once more".into())),
    ]);
    Input::put_piece(&mut told, &pulse.encode_to_vec());
    vec![
        told,
        message(vec![(1, answer(v1::answer::Answer::Node(node)))]),
        message(vec![(4, refused(v1::RefusalCode::RefusalLaneOrder)), (1, refused(v1::RefusalCode::RefusalNotFound))]),
        message(vec![(5, refused(v1::RefusalCode::RefusalNoSession))]),
    ]
}
