//! What a session may rely on, without sockets.

use super::*;
use crate::service::testing::shared;

#[tokio::test]
async fn a_client_that_goes_away_while_it_opens_leaves_a_session_that_is_known() {
    let tmp = tempfile::tempdir().unwrap();
    let shared = shared(tmp.path());
    let hello = v1::Hello { protocol: PROTOCOL, client: "hasty".into(), ..Default::default() };
    let mut opening = Box::pin(open(&shared, &hello));
    assert!(futures::poll!(&mut opening).is_pending());
    drop(opening);
    let known = async {
        while shared.sessions.view(now()).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), known).await.unwrap();
}

#[tokio::test]
async fn who_does_not_read_gets_one_pulse_and_who_was_replaced_none() {
    let tmp = tempfile::tempdir().unwrap();
    let shared = shared(tmp.path());
    let (mut serving, mut results) = serving(&shared).await;
    let session = serving.session;
    for _ in 0..3 {
        assert!(serving.pulse());
    }
    assert_eq!(results.len(), 1);
    drop(results.recv().await);
    assert!(serving.pulse());
    assert_eq!(results.len(), 1);
    shared.sessions.ask(session, Ino(5));
    let later = shared.sessions.attach(session, now()).unwrap();
    assert!(later != serving.stream && !serving.pulse());
    assert_eq!(shared.sessions.take_questions(session), [Ino(5)]);
}

#[tokio::test]
async fn calls_wait_for_room_and_give_it_back() {
    let tmp = tempfile::tempdir().unwrap();
    let shared = shared(tmp.path());
    let (serving, mut results) = serving(&shared).await;
    let call = |id| v1::Call { id, body: Some(v1::call::Body::GrantInos(1)) };
    // Whoever else has all there is.
    let others: Vec<Share> = (0..64).map(|_| shared.engine.room().share()).collect();
    let mut held = Vec::new();
    for other in &others {
        held.extend(other.take(usize::MAX).now_or_never());
    }
    let mut waits = Box::pin(serving.call(call(1), false));
    assert!(futures::poll!(&mut waits).is_pending());
    assert!(results.try_recv().is_err());
    held.clear();
    assert!(waits.await.is_ok());
    assert!(results.recv().await.is_some());
    for id in 2..100 {
        assert!(serving.call(call(id), id % 2 == 0).await.is_ok());
        assert!(matches!(results.recv().await, Some(Out::Done { outcome: Ok(Ok(_)), .. })));
    }
    // What is done holds nothing: all of it can be had again.
    drop((serving, results));
    for other in &others {
        held.extend(other.take(usize::MAX).now_or_never());
    }
    assert!(shared.engine.room().take(1).now_or_never().is_none());
}

#[test]
fn large_results_do_not_travel_in_one_message() {
    let large = |id| v1::CallResult { id, body: Some(v1::call_result::Body::Fault("x".repeat(700_000))) };
    let small = |id| v1::CallResult { id, body: Some(v1::call_result::Body::Fault("x".into())) };
    let results: Vec<_> = (0..64).map(|id| if id < 32 { large(id) } else { small(id) }).collect();
    let messages: Vec<_> = merge(results.clone()).collect();
    assert!(messages.iter().all(|m| m.encoded_len() < META_MESSAGE_BYTES / 2));
    assert!(messages.len() < 20, "{}", messages.len());
    assert_eq!(messages.into_iter().flat_map(|m| m.results).collect::<Vec<_>>(), results);
    assert_eq!(merge(Vec::new()).count(), 0);
    // As many parts as its reader takes, too.
    let leased = |id| {
        let leased = v1::LeasedNames { granted: true, names: vec![b"ab".to_vec(); LEASED_NAMES] };
        v1::CallResult { id, body: Some(v1::call_result::Body::Leased(leased)) }
    };
    for message in merge((0..64).map(leased).collect()) {
        let parts: usize = message.results.iter().map(|_| 4 + LEASED_NAMES).sum();
        assert!(parts <= dfs_core::limits::MESSAGE_PARTS + message.encoded_len() / MESSAGE_PART_BYTES);
    }
}

/// A session with its stream, and what comes out of it.
async fn serving(shared: &Arc<Shared>) -> (Serving, mpsc::UnboundedReceiver<Out>) {
    let Ok((session, _)) = open_new(shared.clone(), "c".into()).await else { panic!("a session can be opened") };
    let stream = shared.sessions.attach(session, now()).unwrap();
    let (out, results) = mpsc::unbounded_channel();
    shared.leases.attach(session, stream, tell(out.clone()));
    let (gate, pulses) = (Arc::new(Semaphore::new(IN_FLIGHT as usize)), Arc::new(Semaphore::new(1)));
    let share = shared.engine.room().share();
    (
        Serving {
            shared: shared.clone(),
            session,
            stream,
            epoch: Epoch(0),
            out,
            gate,
            waiting: Arc::new(Semaphore::new(8)),
            share,
            pulses,
            serves: watch::channel(()).0,
        },
        results,
    )
}

async fn ask(serving: &mut Serving, request: v1::SessionRequest) {
    assert!(serving.take(request, true).await.is_ok());
}

async fn call(serving: &mut Serving, id: u64, body: v1::call::Body) {
    let calls = vec![v1::Call { id, body: Some(body) }];
    ask(serving, v1::SessionRequest { calls, ..Default::default() }).await;
}

/// Makes a file of that name in the root.
async fn create(serving: &mut Serving, results: &mut mpsc::UnboundedReceiver<Out>, lane: u32, name: &str) {
    call(serving, 1, v1::call::Body::GrantInos(1)).await;
    let Some(Out::Done { outcome: Ok(Ok(Done::Reply(Reply::Inos { start, .. }))), .. }) = results.recv().await else {
        panic!("no inode number")
    };
    let at = v1::Dentry { parent: Ino::ROOT.0, name: name.into() };
    let kind = v1::Kind::File.into();
    let create = v1::Create { ino: start.0, at: Some(at), kind, mode: 0o644, ..Default::default() };
    let ops = vec![v1::Op { op: Some(v1::op::Op::Create(create)) }];
    let group = v1::Group { time: Some(v1::Time::default()), needs: Vec::new(), ops };
    let commit = v1::Commit { lane, seq: 1, groups: vec![group], ..Default::default() };
    call(serving, 2, v1::call::Body::Commit(commit)).await;
}

async fn next(results: &mut mpsc::UnboundedReceiver<Out>) -> Out {
    tokio::time::timeout(Duration::from_secs(20), results.recv()).await.unwrap().unwrap()
}

async fn leased(results: &mut mpsc::UnboundedReceiver<Out>) -> Option<usize> {
    match next(results).await {
        Out::Done { outcome: Ok(Ok(Done::Leased(names))), .. } => names.map(|names| names.len()),
        _ => panic!("no answer to a question for a lease"),
    }
}

fn is_done(out: &Out) -> bool {
    matches!(out, Out::Done { outcome: Ok(Ok(Done::Reply(Reply::Commit(reply)))), .. } if reply.groups[0].is_ok())
}

#[tokio::test]
async fn names_that_are_lent_are_not_added_to_before_they_are_given_back() {
    let tmp = tempfile::tempdir().unwrap();
    let shared = shared(tmp.path());
    let (mut holder, mut held) = serving(&shared).await;
    let (mut other, mut others) = serving(&shared).await;
    let lease = v1::call::Body::LeaseNames(Ino::ROOT.0);
    call(&mut holder, 7, lease.clone()).await;
    assert_eq!(leased(&mut held).await, Some(0));
    // What it adds itself does not wait.
    create(&mut holder, &mut held, 0, "own").await;
    assert!(is_done(&next(&mut held).await));
    assert_eq!(shared.leases.count(), 1);
    create(&mut other, &mut others, 0, "theirs").await;
    match next(&mut held).await {
        Out::Pulse { message, .. } => assert_eq!(message.recall, [Ino::ROOT.0]),
        _ => panic!("not a recall"),
    }
    // Its stream goes on meanwhile, and nobody is lent what somebody waits to change.
    call(&mut other, 3, v1::call::Body::GrantInos(1)).await;
    assert!(matches!(next(&mut others).await, Out::Done { id: 3, .. }));
    call(&mut holder, 8, lease.clone()).await;
    assert_eq!(leased(&mut held).await, None);
    // Only what it says is given back, not that it asked for another.
    let early = tokio::time::timeout(Duration::from_millis(300), others.recv());
    assert!(early.await.is_err());
    let returned = vec![Ino::ROOT.0];
    ask(&mut holder, v1::SessionRequest { returned, ..Default::default() }).await;
    assert!(is_done(&next(&mut others).await));
    call(&mut holder, 9, lease).await;
    assert_eq!(leased(&mut held).await, Some(2));
    create(&mut other, &mut others, 1, "third").await;
    let returned = vec![Ino::ROOT.0];
    ask(&mut holder, v1::SessionRequest { returned, ..Default::default() }).await;
    assert!(is_done(&next(&mut others).await));
}

#[tokio::test]
async fn a_lease_is_void_when_its_session_comes_back_or_ends_and_runs_out_when_it_does_not() {
    let tmp = tempfile::tempdir().unwrap();
    let shared = shared(tmp.path());
    let (mut other, mut others) = serving(&shared).await;
    for lane in 0..3 {
        let (mut holder, mut held) = serving(&shared).await;
        call(&mut holder, 7, v1::call::Body::LeaseNames(Ino::ROOT.0)).await;
        assert_eq!(leased(&mut held).await, Some(lane as usize));
        let session = holder.session;
        drop((holder, held));
        let began = tokio::time::Instant::now();
        create(&mut other, &mut others, lane, &format!("n{lane}")).await;
        match lane {
            0 => shared.leases.attach(session, u64::MAX, Box::new(|_| ())),
            1 => shared.leases.end(session),
            _ => {}
        }
        assert!(is_done(&next(&mut others).await));
        assert_eq!(began.elapsed() >= dfs_core::lease::LEASE / 2, lane == 2);
    }
}

#[tokio::test]
async fn what_waits_for_a_lease_is_not_done_when_its_stream_has_ended() {
    let tmp = tempfile::tempdir().unwrap();
    let shared = shared(tmp.path());
    let (mut holder, mut held) = serving(&shared).await;
    call(&mut holder, 7, v1::call::Body::LeaseNames(Ino::ROOT.0)).await;
    assert_eq!(leased(&mut held).await, Some(0));
    let (mut gone, mut others) = serving(&shared).await;
    create(&mut gone, &mut others, 0, "name").await;
    assert!(matches!(next(&mut held).await, Out::Pulse { message, .. } if message.recall == [Ino::ROOT.0]));
    drop(others);
    gone.take(v1::SessionRequest { close: true, ..Default::default() }, true).await.unwrap_err();
    let (mut replaced, mut others) = serving(&shared).await;
    create(&mut replaced, &mut others, 0, "name").await;
    // Another stream serves the session: the command comes again there.
    shared.sessions.attach(replaced.session, now()).unwrap();
    let returned = vec![Ino::ROOT.0];
    ask(&mut holder, v1::SessionRequest { returned, ..Default::default() }).await;
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while shared.engine.room().take(usize::MAX).now_or_never().is_none() {
        assert!(tokio::time::Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(matches!(shared.engine.names(Ino::ROOT, 10), Ok(Ok(Some(names))) if names.is_empty()));
    call(&mut holder, 8, v1::call::Body::LeaseNames(Ino::ROOT.0)).await;
    assert_eq!(leased(&mut held).await, Some(0), "nobody changes it any more");
}

#[tokio::test]
async fn answers_end_with_the_stream_though_a_command_waits() {
    let tmp = tempfile::tempdir().unwrap();
    let shared = shared(tmp.path());
    let (mut holder, mut held) = serving(&shared).await;
    call(&mut holder, 7, v1::call::Body::LeaseNames(Ino::ROOT.0)).await;
    assert_eq!(leased(&mut held).await, Some(0));
    let (mut other, mut others) = serving(&shared).await;
    create(&mut other, &mut others, 0, "name").await;
    let began = tokio::time::Instant::now();
    drop(other);
    let ended = tokio::time::timeout(Duration::from_secs(20), others.recv()).await.unwrap();
    assert!(ended.is_none() && began.elapsed() < dfs_core::lease::LEASE);
}

#[tokio::test]
async fn a_directory_that_was_too_large_is_not_lent_again_at_once() {
    let tmp = tempfile::tempdir().unwrap();
    let shared = shared(tmp.path());
    let (serving, _results) = serving(&shared).await;
    let (session, stream) = (serving.session, serving.stream);
    assert!(shared.leases.lend(session, stream, Ino::ROOT));
    shared.leases.too_large(Ino::ROOT);
    assert!(!shared.leases.lend(session, stream, Ino::ROOT) && shared.leases.lend(session, stream, Ino(9)));
}

#[tokio::test]
async fn an_older_stream_that_comes_late_takes_nothing_away() {
    let tmp = tempfile::tempdir().unwrap();
    let shared = shared(tmp.path());
    let (mut holder, mut held) = serving(&shared).await;
    call(&mut holder, 7, v1::call::Body::LeaseNames(Ino::ROOT.0)).await;
    assert_eq!(leased(&mut held).await, Some(0));
    shared.leases.attach(holder.session, holder.stream - 1, Box::new(|_| panic!("it is not asked")));
    assert_eq!(shared.leases.count(), 1);
    let (mut other, mut others) = serving(&shared).await;
    create(&mut other, &mut others, 0, "name").await;
    assert!(matches!(next(&mut held).await, Out::Pulse { message, .. } if message.recall == [Ino::ROOT.0]));
}

#[tokio::test]
async fn beats_are_echoed_to_the_stream_that_brought_them() {
    let tmp = tempfile::tempdir().unwrap();
    let shared = shared(tmp.path());
    let (mut serving, mut results) = serving(&shared).await;
    ask(&mut serving, v1::SessionRequest { beat: 77, ..Default::default() }).await;
    assert!(serving.pulse());
    assert!(matches!(results.recv().await, Some(Out::Pulse { message, .. }) if message.beat == 77));
    shared.leases.attach(serving.session, serving.stream + 1, Box::new(|_| ()));
    assert!(serving.pulse());
    assert!(matches!(results.recv().await, Some(Out::Pulse { message, .. }) if message.beat == 0));
}

#[tokio::test]
async fn a_large_directory_and_what_is_none_are_not_lent() {
    let tmp = tempfile::tempdir().unwrap();
    let shared = shared(tmp.path());
    let (mut serving, mut results) = serving(&shared).await;
    create(&mut serving, &mut results, 0, "a").await;
    assert!(is_done(&next(&mut results).await));
    assert!(matches!(shared.engine.names(Ino::ROOT, 1), Ok(Ok(Some(names))) if names.len() == 1));
    assert!(matches!(shared.engine.names(Ino::ROOT, 0), Ok(Ok(None))));
    call(&mut serving, 5, v1::call::Body::LeaseNames(12_345)).await;
    assert!(matches!(next(&mut results).await, Out::Done { outcome: Ok(Err(Refusal::NotFound)), .. }));
    // What was not granted is given back by who asked.
    ask(&mut serving, v1::SessionRequest { returned: vec![12_345], ..Default::default() }).await;
    assert_eq!(shared.leases.count(), 0);
}
