//! Leases against a metad that does as it is told.

use std::time::{Duration, Instant};

use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::name::Name;
use dfs_core::op::Group;
use dfs_core::query::Query;
use dfs_core::time::Timestamp;
use dfs_proto::v1;

use super::MetaClient;
use super::fake::{FakeMeta, Step};

const DIR: Ino = Ino(1);

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn is_absent(client: &MetaClient, text: &str) -> bool {
    client.is_absent(DIR, &name(text))
}

async fn until(wanted: impl Fn() -> bool) {
    let began = Instant::now();
    while !wanted() {
        assert!(began.elapsed() < Duration::from_secs(15), "it never came about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A client with a lease on a directory with one name in it, and a beat that was just echoed.
async fn leased() -> (FakeMeta, MetaClient) {
    let meta = FakeMeta::empty().await;
    let client = MetaClient::connect(&meta.config()).await.unwrap();
    meta.state().names = Some(vec![b"there".to_vec()]);
    client.missed(DIR);
    client.missed(DIR);
    meta.until(|state| state.leases == 1 && !state.beats.is_empty()).await;
    assert!(!is_absent(&client, "absent"), "no beat was echoed yet");
    echo(&meta);
    until(|| is_absent(&client, "absent")).await;
    (meta, client)
}

fn echo(meta: &FakeMeta) {
    let beat = *meta.state().beats.last().unwrap();
    meta.push(v1::SessionResponse { beat, ..Default::default() });
}

#[tokio::test]
async fn what_is_leased_is_answered_until_it_is_recalled() {
    let (meta, client) = leased().await;
    assert!(!is_absent(&client, "there") && !client.is_absent(Ino(2), &name("absent")));
    // From the moment on that it is sent, whatever becomes of it.
    meta.script([Step::Swallow]);
    let link = dfs_core::op::Op::Link { ino: Ino(9), parent: DIR, name: name("own") };
    let group = Group { time: Timestamp::default(), needs: Vec::new(), ops: vec![link] };
    assert!(is_absent(&client, "own"));
    let mut sent = Box::pin(client.commit(Vec::new(), vec![group]));
    assert!(futures::poll!(&mut sent).is_pending());
    assert!(!is_absent(&client, "own"));
    drop(sent);
    assert!(!is_absent(&client, "own") && is_absent(&client, "absent"));
    meta.push(v1::SessionResponse { recall: vec![DIR.0, 99], ..Default::default() });
    meta.until(|state| state.returned == [DIR.0, 99]).await;
    assert!(!is_absent(&client, "absent"));
    (0..10).for_each(|_| client.missed(DIR));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(meta.state().leases, 1, "others add names there: it is left alone for a while");
}

#[tokio::test]
async fn nothing_is_trusted_after_a_break_or_without_an_echo() {
    let (meta, client) = leased().await;
    meta.script([Step::Break]);
    let _ = client.query(Query::StatFs).await;
    assert!(!is_absent(&client, "absent"));
    client.missed(DIR);
    client.missed(DIR);
    meta.until(|state| state.leases == 2 && state.hellos.len() == 2).await;
    echo(&meta);
    until(|| is_absent(&client, "absent")).await;
    let echoed = Instant::now();
    until(|| !is_absent(&client, "absent")).await;
    assert!(echoed.elapsed() <= dfs_core::lease::LEASE);
}

#[tokio::test]
async fn a_lease_that_is_not_granted_is_not_asked_for_again_at_once() {
    let meta = FakeMeta::empty().await;
    let client = MetaClient::connect(&meta.config()).await.unwrap();
    (0..4).for_each(|_| client.missed(DIR));
    meta.until(|state| state.leases == 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    (0..4).for_each(|_| client.missed(DIR));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(meta.state().leases, 1);
}

#[tokio::test]
async fn a_change_that_was_given_up_keeps_its_directory_from_being_leased() {
    let meta = FakeMeta::empty().await;
    let config = crate::config::ClientConfig { deadline: Duration::from_millis(200), ..meta.config() };
    let client = MetaClient::connect(&config).await.unwrap();
    meta.script([Step::Swallow]);
    let set = dfs_core::op::SetAttr { size: Some(1), ..Default::default() };
    let ops = vec![dfs_core::op::Op::SetAttr { ino: DIR, set }];
    let group = Group { time: Timestamp::default(), needs: Vec::new(), ops };
    assert!(client.commit(Vec::new(), vec![group]).await.is_err());
    assert!(client.is_in_doubt(&[DIR]));
    client.missed(DIR);
    client.missed(DIR);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(meta.state().leases, 0);
}

#[tokio::test]
async fn what_a_session_is_lent_while_it_is_given_up_is_not_trusted_in_the_next() {
    let (meta, client) = leased().await;
    meta.script([Step::Refuse(Refusal::LaneOrder)]);
    let (spoilt, late, sure) = (client.clone(), Ino(5), Ino(6));
    let lost = tokio::spawn(async move { spoilt.commit(Vec::new(), Vec::new()).await });
    meta.until(|state| state.seen.len() == 1).await;
    // A young stream is not replaced at once.
    tokio::time::sleep(Duration::from_millis(30)).await;
    client.missed(late);
    client.missed(late);
    meta.until(|state| state.leases == 2).await;
    assert!(lost.await.unwrap().is_err());
    assert_eq!((client.session().0, meta.state().closed.clone()), (2, vec![1]));
    client.missed(sure);
    client.missed(sure);
    meta.until(|state| state.leases == 3).await;
    until(|| {
        echo(&meta);
        client.is_absent(sure, &name("absent"))
    })
    .await;
    assert!(!client.is_absent(late, &name("absent")));
}
