//! The session against a scripted metad.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dfs_core::cluster::ClusterMap;
use dfs_core::error::Refusal;
use dfs_core::id::{ClusterId, Epoch, Ino, SessionId};
use dfs_core::op::{Group, Op, SetAttr};
use dfs_core::query::{Answer, Query, StatFs};
use dfs_core::time::Timestamp;
use dfs_proto::v1;
use tokio::time::{Instant, timeout};

use super::MetaClient;
use super::fake::{FakeMeta, Step};
use crate::config::ClientConfig;
use crate::error::{FsError, FsResult};

fn group(mark: i64) -> Vec<Group> {
    vec![Group { time: Timestamp { secs: mark, nanos: 0 }, needs: Vec::new(), ops: Vec::new() }]
}

async fn commit(client: &MetaClient, mark: i64) -> FsResult<usize> {
    client.commit(Vec::new(), group(mark)).await.map(|reply| reply.groups.len())
}

async fn setup() -> (FakeMeta, MetaClient) {
    let meta = FakeMeta::empty().await;
    let client = MetaClient::connect(&meta.config()).await.unwrap();
    (meta, client)
}

#[tokio::test]
async fn asks_and_commits_and_closes() {
    let (meta, client) = setup().await;
    assert_eq!(client.session(), SessionId(1));
    assert_eq!(client.map().cluster, ClusterId(7));
    let numbers = StatFs { total_bytes: 3, free_bytes: 2, inodes: 1 };
    assert_eq!(client.query(Query::StatFs).await, Ok(Answer::StatFs(numbers)));
    assert_eq!(commit(&client, 1).await, Ok(1));
    assert_eq!(commit(&client, 2).await, Ok(1));
    assert_eq!(meta.state().done, [1, 2]);
    client.close().await;
    assert_eq!(meta.state().closed, [1]);
    assert!(matches!(client.query(Query::StatFs).await, Err(FsError::Io(_))));
    assert!(matches!(commit(&client, 3).await, Err(FsError::Io(_))));
}

#[tokio::test]
async fn dropping_the_last_clone_ends_the_session() {
    let (meta, client) = setup().await;
    drop(client.clone());
    assert_eq!(commit(&client, 1).await, Ok(1));
    drop(client);
    meta.until(|s| s.closed == [1]).await;
}

#[tokio::test]
async fn a_commit_is_done_once_however_often_the_stream_breaks() {
    let (meta, client) = setup().await;
    meta.script([Step::Break, Step::DoAndBreak, Step::Break]);
    assert_eq!(commit(&client, 5).await, Ok(1));
    assert_eq!(commit(&client, 6).await, Ok(1));
    let state = meta.state();
    assert_eq!(state.done, [5, 6]);
    let of_5: Vec<_> = state.seen.iter().filter(|s| s.3 == 5).collect();
    assert!(of_5.len() >= 3, "{:?}", state.seen);
    assert!(of_5.iter().all(|s| **s == *of_5[0]), "the same session, lane and number each time: {of_5:?}");
    assert!(state.hellos[1..].iter().all(|h| h.session == 1 && h.cluster == ClusterId(7).to_bytes()));
}

#[tokio::test]
async fn many_commits_at_once_over_breaking_streams_are_each_done_once() {
    let (meta, client) = setup().await;
    let steps = (0..300).map(|i| match i % 37 {
        11 => Step::Break,
        23 => Step::DoAndBreak,
        30 => Step::Fault,
        _ => Step::Answer,
    });
    meta.script(steps);
    let all = (0..200).map(|mark| {
        let client = client.clone();
        tokio::spawn(async move { commit(&client, mark).await })
    });
    for done in futures::future::join_all(all).await {
        assert_eq!(done.unwrap(), Ok(1));
    }
    let mut done = meta.state().done.clone();
    done.sort_unstable();
    assert_eq!(done, (0..200).collect::<Vec<_>>());
    assert!(meta.state().requests.iter().any(|calls| *calls > 1), "calls that queue travel together");
}

#[tokio::test]
async fn after_its_deadline_a_commit_keeps_its_lane_until_it_is_answered() {
    let meta = FakeMeta::empty().await;
    let config = ClientConfig { deadline: Duration::from_millis(400), ..meta.config() };
    let client = MetaClient::connect(&config).await.unwrap();
    meta.script([Step::Swallow]);
    let begun = Instant::now();
    assert!(matches!(commit(&client, 1).await, Err(FsError::Io(_))));
    assert!(begun.elapsed() >= Duration::from_millis(400));
    let lane = meta.state().seen[0].1;
    // 63 lanes are left: none of these may be the one that is not answered.
    let others = (100..163).map(|mark| commit(&client, mark));
    assert!(futures::future::join_all(others).await.iter().all(|done| *done == Ok(1)));
    assert!(meta.state().seen[1..].iter().all(|s| s.1 != lane));
    // The stream breaks: it is sent again with its number and done; then the lane is used again.
    meta.script([Step::Break]);
    let _ = client.query(Query::StatFs).await;
    meta.until(|s| s.done.contains(&1)).await;
    assert!(meta.state().seen.iter().filter(|s| s.3 == 1).all(|s| s.1 == lane && s.2 == 1));
    loop {
        assert_eq!(commit(&client, 200).await, Ok(1));
        if meta.state().seen.iter().any(|s| s.1 == lane && s.2 == 2) {
            break;
        }
    }
}

fn cut(mark: i64, ino: u64) -> Vec<Group> {
    let set = SetAttr { size: Some(0), ..SetAttr::default() };
    let ops = vec![Op::SetAttr { ino: Ino(ino), set }];
    vec![Group { time: Timestamp { secs: mark, nanos: 0 }, needs: Vec::new(), ops }]
}

#[tokio::test]
async fn what_is_newer_waits_for_what_was_given_up() {
    let meta = FakeMeta::empty().await;
    let config = ClientConfig { deadline: Duration::from_millis(600), ..meta.config() };
    let client = MetaClient::connect(&config).await.unwrap();
    meta.script([Step::Swallow, Step::Swallow]);
    assert!(matches!(client.commit(Vec::new(), cut(1, 7)).await, Err(FsError::Io(_))));
    assert!(matches!(client.commit_about(Vec::new(), group(2), &[Ino(8)]).await, Err(FsError::Io(_))));
    assert!(client.is_in_doubt(&[Ino(1), Ino(7)]) && client.is_in_doubt(&[Ino(8)]) && !client.is_in_doubt(&[Ino(9)]));
    // Others are not held up.
    assert!(client.commit(Vec::new(), cut(3, 9)).await.is_ok());
    // As long as the first has no answer, nothing of its inode is sent, and the wait has an end.
    assert!(matches!(client.commit(Vec::new(), cut(4, 7)).await, Err(FsError::Io(_))));
    assert!(meta.state().seen.iter().all(|s| s.3 != 4));
    let later = [(5, 7), (6, 8)].map(|(mark, ino)| {
        let client = client.clone();
        tokio::spawn(async move { client.commit(Vec::new(), cut(mark, ino)).await })
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(meta.state().done, [3]);
    // After a break the old ones are sent again and answered; then the new ones go.
    meta.script([Step::Break]);
    let _ = client.query(Query::StatFs).await;
    for done in later {
        assert!(done.await.unwrap().is_ok());
    }
    let done = meta.state().done.clone();
    let at = |mark| done.iter().position(|d| *d == mark).unwrap();
    assert!(at(1) < at(5) && at(2) < at(6), "{done:?}");
    assert!(!done.contains(&4) && !client.is_in_doubt(&[Ino(7), Ino(8)]));
}

#[tokio::test]
async fn the_end_of_a_session_settles_what_was_given_up_in_it() {
    let meta = FakeMeta::empty().await;
    let config = ClientConfig { deadline: Duration::from_millis(400), ..meta.config() };
    let client = MetaClient::connect(&config).await.unwrap();
    meta.script([Step::Swallow]);
    assert!(client.commit(Vec::new(), cut(1, 7)).await.is_err());
    meta.script([Step::EndSession]);
    let _ = client.query(Query::StatFs).await;
    assert!(client.commit(Vec::new(), cut(2, 7)).await.is_ok());
    assert_eq!(meta.state().done, [2]);
}

#[tokio::test]
async fn no_more_than_64_commits_are_outstanding() {
    let meta = FakeMeta::empty().await;
    let config = ClientConfig { deadline: Duration::from_millis(300), ..meta.config() };
    let client = MetaClient::connect(&config).await.unwrap();
    meta.script((0..100).map(|_| Step::Swallow));
    let all = (0..70).map(|mark| commit(&client, mark));
    assert!(futures::future::join_all(all).await.iter().all(Result::is_err));
    let lanes: HashSet<u32> = meta.state().seen.iter().map(|s| s.1).collect();
    assert_eq!((meta.state().seen.len(), lanes.len()), (64, 64));
}

#[tokio::test]
async fn a_lost_session_is_told_and_its_commits_fail() {
    let (meta, client) = setup().await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    client.on_session_lost(Box::new(move |old, new| tell.lock().unwrap().push((old, new))));
    let first_ino = client.new_ino().await.unwrap();
    assert_eq!(commit(&client, 1).await, Ok(1));
    meta.script([Step::EndSession]);
    assert!(matches!(commit(&client, 2).await, Err(FsError::Io(_))));
    assert_eq!(*told.lock().unwrap(), [(SessionId(1), SessionId(2))]);
    assert_eq!(client.session(), SessionId(2));
    // The new session begins its lanes and its inode numbers anew.
    assert_eq!(commit(&client, 3).await, Ok(1));
    assert_eq!(meta.state().seen.last().map(|s| (s.0, s.2)), Some((2, 1)));
    assert_eq!(meta.state().done, [1, 3]);
    assert!(client.new_ino().await.unwrap().0 >= first_ino.0 + 4096);
    // All lanes are there again.
    let all = (10..138).map(|mark| commit(&client, mark));
    assert!(futures::future::join_all(all).await.iter().all(|done| *done == Ok(1)));
}

#[tokio::test]
async fn a_question_survives_a_lost_session() {
    let (meta, client) = setup().await;
    meta.script([Step::EndSession]);
    assert!(client.query(Query::StatFs).await.is_ok());
    meta.script([Step::Refuse(Refusal::NoSession)]);
    assert!(client.query(Query::StatFs).await.is_ok());
    assert_eq!(client.session(), SessionId(3));
}

#[tokio::test]
async fn questions_are_asked_again_after_breaks_and_faults() {
    let (meta, client) = setup().await;
    meta.script([Step::Break, Step::Fault, Step::Fault, Step::Break]);
    assert!(client.query(Query::StatFs).await.is_ok());
    meta.script([Step::Refuse(Refusal::NotFound)]);
    assert_eq!(client.query(Query::StatFs).await, Err(FsError::Refused(Refusal::NotFound)));
}

#[tokio::test]
async fn a_refused_command_has_not_used_up_its_number() {
    let (meta, client) = setup().await;
    meta.script([Step::Refuse(Refusal::OverLimit)]);
    assert_eq!(commit(&client, 1).await, Err(FsError::Refused(Refusal::OverLimit)));
    for mark in 2..70 {
        assert_eq!(commit(&client, mark).await, Ok(1));
    }
    assert_eq!(client.session(), SessionId(1));
    let too_many = vec![Group { time: Timestamp::default(), needs: Vec::new(), ops: Vec::new() }; 1025];
    assert_eq!(client.commit(Vec::new(), too_many).await, Err(FsError::Refused(Refusal::OverLimit)));
}

#[tokio::test]
async fn inode_numbers_are_distinct_and_asked_for_ahead() {
    let (meta, client) = setup().await;
    let mut seen = HashSet::new();
    let burst = (0..50).map(|_| client.new_ino());
    for ino in futures::future::join_all(burst).await {
        assert!(seen.insert(ino.unwrap()));
    }
    assert!(meta.state().grants <= 2, "one question serves all who wait");
    for _ in 0..3 * 4096 {
        assert!(seen.insert(client.new_ino().await.unwrap()));
    }
    assert!(seen.iter().all(|ino| ino.0 >= 100));
    assert!((4..=6).contains(&meta.state().grants), "{}", meta.state().grants);
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nobody_waiting_for_inode_numbers() {
    let (meta, client) = setup().await;
    meta.script([Step::Swallow]);
    assert!(timeout(Duration::from_millis(100), client.new_ino()).await.is_err());
    assert!(timeout(Duration::from_secs(5), client.new_ino()).await.unwrap().is_ok());
}

#[tokio::test]
async fn newer_maps_are_taken_over_and_acknowledged() {
    let (meta, client) = setup().await;
    let mut changed = client.map_changed();
    let map = |epoch| ClusterMap { cluster: ClusterId(7), epoch: Epoch(epoch), replicas: 3, ..ClusterMap::default() };
    let send = |epoch| meta.push(v1::SessionResponse { map: Some(map(epoch).into()), ..Default::default() });
    changed.borrow_and_update();
    send(5);
    timeout(Duration::from_secs(5), changed.changed()).await.unwrap().unwrap();
    assert_eq!((client.map().epoch, client.map().replicas), (Epoch(5), 3));
    meta.until(|s| s.epochs.contains(&5)).await;
    send(4);
    send(6);
    timeout(Duration::from_secs(5), changed.wait_for(|m| m.epoch == Epoch(6))).await.unwrap().unwrap();
    meta.until(|s| s.epochs.last() == Some(&6)).await;
    assert_eq!(client.map().epoch, Epoch(6));
}

#[tokio::test]
async fn says_what_is_not_held_open() {
    let (meta, client) = setup().await;
    client.on_held_question(Box::new(|inos| inos.iter().copied().filter(|ino| *ino != Ino(8)).collect()));
    meta.push(v1::SessionResponse { held: vec![7, 8, 9], ..Default::default() });
    meta.until(|s| s.not_held == [7, 9]).await;
}

#[tokio::test]
async fn beats_once_a_second_when_nothing_else_is_said() {
    let (meta, _client) = setup().await;
    let begun = Instant::now();
    // One at once: leases are trusted by its echo.
    meta.until(|s| s.epochs.len() >= 3).await;
    let beats = meta.state().beats.clone();
    assert!(beats.len() == 3 && beats.is_sorted(), "{beats:?}");
    assert!(begun.elapsed() > Duration::from_millis(1500) && begun.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn says_why_it_cannot_connect() {
    let meta = FakeMeta::empty().await;
    let quick = ClientConfig { connect_deadline: Duration::from_millis(300), ..meta.config() };
    meta.state().refuse = Some((tonic::Code::FailedPrecondition, "protocol 2 is spoken here".into()));
    let Err(FsError::Io(why)) = MetaClient::connect(&quick).await else { panic!("must be refused") };
    assert!(why.contains("protocol 2 is spoken here") && why.contains(&meta.addr), "{why}");
    assert_eq!(meta.state().hellos.len(), 1, "what is refused is not tried again");
    let nobody = ClientConfig { meta: "127.0.0.1:1".into(), ..quick };
    let Err(FsError::Io(why)) = MetaClient::connect(&nobody).await else { panic!("nobody is there") };
    assert!(why.contains("127.0.0.1:1") && why.contains("check that it runs"), "{why}");
}

#[tokio::test]
async fn a_lone_call_takes_one_round_trip() {
    let (_meta, client) = setup().await;
    let mut best = Duration::MAX;
    for _ in 0..2000 {
        let begun = Instant::now();
        client.query(Query::StatFs).await.unwrap();
        best = best.min(begun.elapsed());
    }
    println!("best lone call: {best:?}");
    assert!(best < Duration::from_millis(20));
}

#[tokio::test]
async fn a_session_whose_lanes_are_counted_differently_is_ended_before_the_next() {
    let (meta, client) = setup().await;
    meta.script([Step::Refuse(Refusal::LaneOrder)]);
    assert!(matches!(commit(&client, 1).await, Err(FsError::Io(_))));
    assert_eq!(client.session(), SessionId(2));
    assert_eq!(meta.state().closed, [1]);
    assert_eq!(commit(&client, 2).await, Ok(1));
    assert_eq!(meta.state().done, [2]);
}

#[tokio::test]
async fn what_belongs_to_a_lost_session_is_not_sent() {
    let (meta, client) = setup().await;
    let session = client.session();
    assert!(client.commit_in(session, Vec::new(), group(1), &[]).await.is_ok());
    meta.script([Step::EndSession]);
    assert!(commit(&client, 2).await.is_err());
    let refused = client.commit_in(session, Vec::new(), group(3), &[]).await;
    assert_eq!(refused, Err(FsError::Refused(Refusal::NoSession)));
    assert!(client.commit_in(client.session(), Vec::new(), group(4), &[]).await.is_ok());
    assert_eq!(meta.state().done, [1, 4]);
}
