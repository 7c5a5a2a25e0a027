//! Requests that no correct client sends.

use dfs_core::chunk::ChunkRef;
use dfs_core::id::SlotId;
use dfs_proto::v1::{self, put_request::Message};
use tonic::{Code, Status};

use crate::fixture::{Chunkd, bytes, chunk};
use crate::meta::Meta;

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.expect_err("refused").code()
}

fn part(len: usize) -> Message {
    Message::Part(vec![1; len].into())
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_uploads_are_refused_and_leave_nothing() {
    let (meta, dir) = (Meta::start(1).await, tempfile::tempdir().unwrap());
    let mut c = Chunkd::start(&meta, dir.path()).await;
    let name = |len| Message::Name(v1::PutName { id: vec![0; 32], len });
    let open = || Message::Open(c.open());
    let with = |change: &dyn Fn(&mut v1::PutOpen)| {
        let mut open = c.open();
        change(&mut open);
        vec![Message::Open(open), part(10), name(10)]
    };
    let to = |n: u128, addr: &str| v1::ForwardTo { store: n.to_be_bytes().to_vec(), addr: addr.to_owned() };
    let own = c.id();
    let cases: Vec<(Code, Vec<Message>)> = vec![
        (Code::InvalidArgument, vec![]),
        (Code::InvalidArgument, vec![part(10), name(10)]),
        (Code::InvalidArgument, vec![open(), open()]),
        (Code::InvalidArgument, vec![open(), part(0)]),
        (Code::InvalidArgument, vec![open(), part((1 << 20) + 1)]),
        (Code::InvalidArgument, vec![open(), part(100), part(100)]),
        (Code::InvalidArgument, vec![open(), part(100), name(99)]),
        (Code::InvalidArgument, vec![open(), part(10), Message::Name(v1::PutName { id: vec![0; 31], len: 10 })]),
        (Code::InvalidArgument, std::iter::once(open()).chain((0..65).map(|_| part(1 << 20))).collect()),
        (Code::Cancelled, vec![open(), part(100)]),
        (Code::FailedPrecondition, with(&|o| o.cluster = 2_u128.to_be_bytes().to_vec())),
        (Code::InvalidArgument, with(&|o| o.cluster = Vec::new())),
        (Code::NotFound, with(&|o| o.store = 5_u128.to_be_bytes().to_vec())),
        (Code::InvalidArgument, with(&|o| o.store = vec![1; 15])),
        (Code::InvalidArgument, with(&|o| o.forward = vec![to(5, "no address")])),
        (Code::InvalidArgument, with(&|o| o.forward = vec![to(5, "h:1"), to(5, "h:2")])),
        (Code::InvalidArgument, with(&|o| o.forward = vec![v1::ForwardTo { store: own.clone(), addr: "h:1".into() }])),
        (Code::InvalidArgument, with(&|o| o.forward = (0..16).map(|n| to(n + 1, "h:1")).collect())),
    ];
    for (i, (want, messages)) in cases.into_iter().enumerate() {
        let got = c.send(messages).await;
        assert_eq!(got.as_ref().map_err(Status::code).unwrap_err(), want, "case {i}");
    }
    // Nothing but a name: an empty chunk is the store's to refuse.
    let answers = c.send(vec![Message::Open(c.open()), name(0)]).await.unwrap();
    assert_eq!(answers, [(c.store, Err(Code::InvalidArgument))]);
    crate::fixture::until("removal of files", || c.temps() == 0).await;
    c.daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_a_limit_are_refused() {
    let (meta, dir) = (Meta::start(1).await, tempfile::tempdir().unwrap());
    let mut c = Chunkd::start(&meta, dir.path()).await;
    let data = bytes(1, 5 << 20);
    c.put(c.open(), &data).await.unwrap()[0].1.as_ref().unwrap();
    let of = chunk(&data);

    let new = |data: Vec<u8>| v1::NewChunk { id: vec![0; 32], data: data.into() };
    assert_eq!(code(c.put_chunks(vec![new(vec![1]); 1025]).await), Code::InvalidArgument);
    assert_eq!(code(c.put_chunks(vec![new(vec![1; 256 << 10])]).await), Code::InvalidArgument);
    assert_eq!(code(c.put_chunks(vec![new(vec![1; 255 << 10]); 17]).await), Code::InvalidArgument);
    assert_eq!(code(c.put_chunks(vec![new(Vec::new())]).await), Code::InvalidArgument);
    let short = v1::NewChunk { id: vec![0; 8], data: vec![1].into() };
    assert_eq!(code(c.put_chunks(vec![short]).await), Code::InvalidArgument);
    assert_eq!(c.put_chunks(Vec::new()).await.unwrap(), []);

    for (offset, len) in [(0, 0), (0, (4 << 20) + 1), (of.len, 1), (of.len - 1, 2), (u32::MAX, u32::MAX)] {
        let request = v1::ReadRequest { store: c.id(), chunk: Some(of.into()), offset, len, background: false };
        assert_eq!(code(c.client.read(request).await), Code::InvalidArgument, "{offset}+{len}");
    }
    let read =
        |chunk: Option<v1::ChunkRef>| v1::ReadRequest { store: c.id(), chunk, offset: 0, len: 1, background: false };
    let (none, empty) = (read(None), read(Some(v1::ChunkRef { len: 0, ..of.into() })));
    let longer = read(Some(v1::ChunkRef { len: of.len + 1, ..of.into() }));
    assert_eq!(code(c.client.read(none).await), Code::InvalidArgument);
    assert_eq!(code(c.client.read(empty).await), Code::InvalidArgument);
    assert_eq!(code(c.client.read(longer).await), Code::NotFound);
    assert_eq!(code(c.read(ChunkRef { slot: SlotId(8), ..of }, 0, 1).await), Code::NotFound);

    assert_eq!(code(c.read_batch(&[of]).await), Code::InvalidArgument);
    let tiny = ChunkRef { len: 1, ..of };
    assert_eq!(code(c.read_batch(&[tiny; 1025]).await), Code::InvalidArgument);
    let chunks = vec![tiny.into(); 10_001];
    assert_eq!(code(c.client.find(v1::FindRequest { store: c.id(), chunks }).await), Code::InvalidArgument);
    for limit in [0, 10_001] {
        let request = v1::ListRequest { store: c.id(), slot: 7, after: Vec::new(), limit };
        assert_eq!(code(c.client.list(request).await), Code::InvalidArgument);
    }
    let request = v1::ListRequest { store: c.id(), slot: 7, after: vec![1], limit: 1 };
    assert_eq!(code(c.client.list(request).await), Code::InvalidArgument);
    let request = v1::ListRequest { store: vec![9; 16], slot: 7, after: Vec::new(), limit: 1 };
    assert_eq!(code(c.client.list(request).await), Code::NotFound);
    c.daemon.stop().await.unwrap();
}
