//! Messages that are on their way: what has come of them lies in memory until the rest is there.
//!
//! A message is read whole before anybody looks at it, and a connection may have hundreds of streams. Who sends the
//! beginnings of long messages on all of them, and then nothing, would take as much memory as it likes. So a long
//! message needs room, in the order in which they come, and has to be there within a deadline; while it waits, the
//! windows of its connection hold its sender back.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::Request;
use tonic::codegen::{BoxFuture, Bytes};
use tower::util::MapRequestLayer;

/// Bytes of long messages that are on their way to a daemon, all together: 256 MiB. Beside it each stream may have brought
/// a frame of one that waits for room.
const ROOM: usize = 256 << 20;
/// Messages up to this length need no room, so that long ones do not keep them waiting: 64 KiB. Those of all streams of
/// a connection are no more than what its window lets in anyhow.
const SHORT: usize = 64 << 10;
/// The unit in which room is counted: a semaphore has too few permits on small machines to count bytes.
const UNIT: usize = 1 << 10;
/// The length of a message is in four bytes, after one that says whether it is compressed.
const PREFIX: usize = 5;

/// A layer around all services of a daemon. `deadline`: for a message to come, once it has begun.
pub fn layer(deadline: Duration) -> MapRequestLayer<impl Fn(Request<Body>) -> Request<Body> + Clone> {
    let room = Arc::new(Semaphore::new(ROOM / UNIT));
    MapRequestLayer::new(move |request: Request<Body>| request.map(|body| watch(body, room.clone(), deadline)))
}

fn watch(body: Body, room: Arc<Semaphore>, deadline: Duration) -> Body {
    Body::new(Incoming { body, room, deadline, framing: Framing::default(), held: Held::Nothing, until: None })
}

/// A request's body.
struct Incoming {
    body: Body,
    room: Arc<Semaphore>,
    deadline: Duration,
    framing: Framing,
    held: Held,
    /// By when a long message that has begun has to be there.
    until: Option<Pin<Box<Sleep>>>,
}

/// What the message that is on its way has.
enum Held {
    /// It is short, there is none, or nobody has asked for the rest of it.
    Nothing,
    /// It waits for room.
    Waits(BoxFuture<OwnedSemaphorePermit, AcquireError>),
    /// It has room, which is given back when this is dropped.
    Room { _permit: OwnedSemaphorePermit },
}

impl Incoming {
    /// Finds room for the rest of a long message. Not when its beginning came, behind the end of another: that one may
    /// be waiting for a disk.
    fn find_room(&mut self, len: usize, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if matches!(self.held, Held::Nothing) {
            // What is longer than all room is refused where lengths are.
            let units = u32::try_from(len.min(ROOM) / UNIT).expect("of less than 4 GiB");
            self.held = match self.room.clone().try_acquire_many_owned(units) {
                Ok(permit) => Held::Room { _permit: permit },
                Err(_) => Held::Waits(Box::pin(self.room.clone().acquire_many_owned(units))),
            };
        }
        if let Held::Waits(room) = &mut self.held {
            let permit = ready!(room.as_mut().poll(cx)).map_err(|_| Status::unavailable("shutting down"))?;
            self.held = Held::Room { _permit: permit };
        }
        Poll::Ready(Ok(()))
    }

    /// An error if a long message is not there in time.
    fn late(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let deadline = self.deadline;
        let until = self.until.get_or_insert_with(|| Box::pin(tokio::time::sleep(deadline)));
        ready!(until.as_mut().poll(cx));
        self.held = Held::Nothing;
        Poll::Ready(Some(Err(Status::deadline_exceeded("a long message did not come whole in time"))))
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let long = this.framing.begun().filter(|len| *len > SHORT);
        if let Some(len) = long {
            match this.find_room(len, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Some(Err(e))),
                Poll::Pending => return this.late(cx),
            }
        }
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if frame.is_pending() && long.is_some() {
            return this.late(cx);
        }
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && frame.data_ref().is_some_and(|data| this.framing.see(data))
        {
            (this.held, this.until) = (Held::Nothing, None);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where in a message a body is.
#[derive(Debug, Default)]
struct Framing {
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that have come.
    has: usize,
    /// Bytes of the message, and those of them that have not come.
    len: usize,
    left: usize,
}

impl Framing {
    /// The length of a message that has begun and is not whole.
    fn begun(&self) -> Option<usize> {
        (self.left > 0).then_some(self.len)
    }

    /// Whether these bytes end a message.
    fn see(&mut self, mut data: &[u8]) -> bool {
        let mut ended = false;
        while !data.is_empty() {
            if self.left > 0 {
                let n = self.left.min(data.len());
                (self.left, data) = (self.left - n, &data[n..]);
                ended |= self.left == 0;
            } else {
                let n = (PREFIX - self.has).min(data.len());
                self.prefix[self.has..self.has + n].copy_from_slice(&data[..n]);
                (self.has, data) = (self.has + n, &data[n..]);
                if self.has == PREFIX {
                    let [_, length @ ..] = self.prefix;
                    self.len = usize::try_from(u32::from_be_bytes(length)).expect("32 bits");
                    (self.has, self.left) = (0, self.len);
                    ended |= self.len == 0;
                }
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body::Body as _;
    use tokio::sync::mpsc;

    use super::*;

    fn message(len: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(len).unwrap().to_be_bytes());
        bytes.resize(PREFIX + len, 7);
        bytes
    }

    #[test]
    fn ends_and_beginnings_are_found_however_the_bytes_come() {
        let lens = [0, 1, 100, 0, 70_000, 5];
        let all: Vec<u8> = lens.iter().flat_map(|len| message(*len)).collect();
        for step in [1, 2, 3, 7, 64, 1000, all.len()] {
            let (mut framing, mut begun) = (Framing::default(), Vec::new());
            for data in all.chunks(step) {
                let before = framing.begun();
                let ended = framing.see(data);
                assert!(ended || before.is_none() || before == framing.begun(), "{step}");
                begun.extend(framing.begun().filter(|len| ended || before != Some(*len)));
            }
            assert_eq!((framing.begun(), framing.has), (None, 0), "{step}");
            assert!(begun.iter().all(|len| lens.contains(len)), "{step}: {begun:?}");
            assert_eq!(begun.contains(&70_000), step < all.len(), "{step}");
        }
        let mut framing = Framing::default();
        assert!(framing.see(&message(0)) && !framing.see(&message(9)[..13]) && framing.see(&[7, 0, 0, 0]));
        assert_eq!((framing.begun(), framing.has), (None, 3));
    }

    /// A body that is written to by hand.
    struct Channel(mpsc::UnboundedReceiver<Bytes>);

    impl http_body::Body for Channel {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data))))
        }
    }

    fn open(room: &Arc<Semaphore>) -> (mpsc::UnboundedSender<Bytes>, Body) {
        let (tx, rx) = mpsc::unbounded_channel();
        (tx, watch(Body::new(Channel(rx)), room.clone(), Duration::from_secs(2)))
    }

    async fn next(body: &mut Body) -> Option<Result<usize, tonic::Code>> {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
        Some(frame.map(|frame| frame.data_ref().map_or(0, Bytes::len)).map_err(|e| e.code()))
    }

    /// What comes next, or a while in which nothing does.
    async fn soon(body: &mut Body) -> Option<Option<Result<usize, tonic::Code>>> {
        tokio::time::timeout(Duration::from_millis(50), next(body)).await.ok()
    }

    #[tokio::test]
    async fn a_long_message_waits_for_room_and_short_ones_do_not() {
        let room = Arc::new(Semaphore::new(1000));
        let ((one, mut first), (two, mut second), (three, mut third)) = (open(&room), open(&room), open(&room));
        let long = Bytes::from(message(600 * UNIT));
        one.send(long.slice(..100)).unwrap();
        assert_eq!((next(&mut first).await, room.available_permits()), (Some(Ok(100)), 1000));
        assert_eq!((soon(&mut first).await, room.available_permits()), (None, 400));
        two.send(long.slice(..100)).unwrap();
        two.send(long.slice(100..200)).unwrap();
        assert_eq!((next(&mut second).await, soon(&mut second).await), (Some(Ok(100)), None));
        three.send(message(SHORT).into()).unwrap();
        assert_eq!(next(&mut third).await, Some(Ok(PREFIX + SHORT)));
        // The first is whole, and another has begun that nobody asks for: the room is the second's.
        one.send([&long[100..], &long[..100]].concat().into()).unwrap();
        assert_eq!(next(&mut first).await, Some(Ok(long.len())));
        assert_eq!((next(&mut second).await, room.available_permits()), (Some(Ok(100)), 400));
        // Nothing more comes of it.
        assert_eq!(next(&mut second).await, Some(Err(tonic::Code::DeadlineExceeded)));
        assert_eq!(room.available_permits(), 1000);
        drop((one, two, three));
        assert_eq!(next(&mut third).await, None);
    }

    #[tokio::test]
    async fn who_waits_too_long_for_room_is_told_and_gives_up_its_place() {
        let room = Arc::new(Semaphore::new(100));
        let taken = room.clone().try_acquire_many_owned(50).unwrap();
        let (tx, mut body) = open(&room);
        tx.send(Bytes::from(message(80 * UNIT)).slice(..10)).unwrap();
        assert_eq!(next(&mut body).await, Some(Ok(10)));
        assert_eq!(next(&mut body).await, Some(Err(tonic::Code::DeadlineExceeded)));
        drop(taken);
        assert_eq!(room.available_permits(), 100);
    }
}
