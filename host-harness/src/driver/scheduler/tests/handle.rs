//! Calls that several ask for, and what becomes of them when askers go away.

use super::*;

/// Begins a start for an asker who waits at another host, which does nothing by itself. With what asks for the same.
async fn begin_elsewhere(world: &World, host: &Host, other: &Lease) -> (CallId, CallRecord) {
    let mut record = world.start(host, "w").await;
    record.pinned.user = Some(ME.into());
    let component = host.driver.plugin.component().clone();
    let begun = other
        .begin(NewCall {
            record: record.clone(),
            component,
            detached: false,
            interrupt: CancellationToken::new(),
        })
        .await
        .unwrap();
    let BeginOutcome::Active(id) = begun else { panic!("{begun:?}") };
    (id, record)
}

#[tokio::test(start_paused = true)]
async fn an_asker_who_goes_away_while_a_call_begins_abandons_it() {
    for hold in [None, Some(Hold::Before), Some(Hold::After)] {
        let world = World::new();
        let host = world.host().await;
        let record = world.start(&host, "w").await;
        let release = hold.map(|hold| host.writes.hold(hold));
        let mut begins = Box::pin(host.driver.scheduler.begin_with_handle(record));
        assert!((&mut begins).now_or_never().is_none());
        // It has begun now, unless it is held, and its asker has not been told.
        sleep(MOMENT).await;
        drop(begins);
        drop(release);
        sleep(MOMENT).await;
        let calls = world.store.calls(Listing::All, 10).unwrap();
        assert!(matches!(&calls[..], [call] if call.interrupted), "{hold:?}: {calls:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_one_asker_leaves_goes_on_for_another_who_waits_for_it() {
    let world = World::new();
    let host = world.host().await;
    let call = host.driver.scheduler.begin_with_handle(world.start(&host, "w").await).await.unwrap();
    let id = call.id();
    let (driver, never) = (host.driver.clone(), CancellationToken::new());
    let other = tokio::spawn(async move { driver.follow(id, &never).await });
    sleep(MOMENT).await;
    call.abandon().await;
    assert!(!world.is_interrupted(id));
    other.abort();
    sleep(MOMENT).await;
    host.driver.scheduler.abandon(id).await;
    assert!(world.is_interrupted(id), "nobody waits for it");
}

#[tokio::test(start_paused = true)]
async fn an_identical_call_that_has_sent_nothing_is_joined_and_goes_on_until_its_last_asker_leaves() {
    for who_begins_leaves_first in [true, false] {
        let world = World::new();
        let host = world.host().await;
        let begin = || async {
            host.driver.scheduler.begin_with_handle(world.start(&host, "w").await).await.unwrap()
        };
        let (begun, joined) = (begin().await, begin().await);
        let id = begun.id();
        assert_eq!(joined.id(), id);
        let (first, last) = if who_begins_leaves_first { (begun, joined) } else { (joined, begun) };
        first.abandon().await;
        assert!(!world.is_interrupted(id));
        drop(last);
        sleep(MOMENT).await;
        assert!(world.is_interrupted(id));
        assert!(host.follow(id).await.unwrap().unwrap().json.contains(r#""interrupted":true"#));
        let again = begin().await;
        assert_ne!(again.id(), id, "it has ended");
        again.release();
    }
}

/// Between the transactions of the one who leaves and the one who joins there is nothing.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_joined_while_its_asker_leaves_goes_on() {
    let world = World::new();
    let host = world.host().await;
    let call = host.driver.scheduler.begin_with_handle(world.start(&host, "w").await).await.unwrap();
    let id = call.id();
    let (record, scheduler) = (world.start(&host, "w").await, host.driver.scheduler.clone());
    let release = host.writes.hold(Hold::After);
    let joins = tokio::spawn(async move { scheduler.begin_with_handle(record).await });
    sleep(MOMENT).await;
    call.abandon().await;
    drop(release);
    let joined = joins.await.unwrap().unwrap();
    assert_eq!((joined.id(), world.is_interrupted(id)), (id, false));
    world.plane.end("w");
    assert!(host.follow(joined.release()).await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_call_of_another_host_is_not_ended_by_those_who_joined_it_until_that_host_is_gone() {
    let world = World::new();
    let (host, other) = (world.host().await, world.lease(ME).await);
    let (id, record) = begin_elsewhere(&world, &host, &other).await;
    let [left, stays] = [(); 2].map(|()| host.driver.scheduler.begin_with_handle(record.clone()));
    let (left, stays) = (left.await.unwrap(), stays.await.unwrap());
    assert_eq!((left.id(), stays.id()), (id, id));
    left.abandon().await;
    stays.abandon().await;
    assert!(!world.is_interrupted(id), "somebody may wait for it there");
    other.leave().await.unwrap();
    sleep(2 * world.timings.news).await;
    assert!(world.is_interrupted(id) && world.is_ended(id), "nobody waits for it here");
    assert_eq!(host.driver.unended(), 0);
}

/// When this host learns that the judgement was the other one's, it has already looked at what was left to that.
#[tokio::test(start_paused = true)]
async fn a_call_of_another_host_that_goes_away_while_its_last_asker_leaves_ends() {
    let world = World::new();
    let (host, other) = (world.host().await, world.lease(ME).await);
    let (id, record) = begin_elsewhere(&world, &host, &other).await;
    let joined = host.driver.scheduler.begin_with_handle(record).await.unwrap();
    assert_eq!(joined.id(), id);
    let release = host.writes.hold(Hold::After);
    let leaves = tokio::spawn(joined.abandon());
    sleep(MOMENT).await;
    other.leave().await.unwrap();
    sleep(2 * world.timings.news).await;
    drop(release);
    leaves.await.unwrap();
    sleep(2 * world.timings.news).await;
    assert!(world.is_interrupted(id) && world.is_ended(id), "nobody waits for it");
    assert_eq!((host.driver.unended(), lock(&host.driver.scheduler.0.left).len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_of_another_host_that_was_joined_and_left_is_forgotten_when_it_has_ended() {
    let timings = Timings { news: Duration::from_secs(60), lease: HOUR, ..Timings::default() };
    let world = World { timings, ..World::new() };
    let (host, other) = (world.host().await, world.lease(ME).await);
    let (id, record) = begin_elsewhere(&world, &host, &other).await;
    host.driver.scheduler.begin_with_handle(record).await.unwrap().abandon().await;
    let left = || lock(&host.driver.scheduler.0.left).clone();
    sleep(2 * HOUR).await;
    assert_eq!(left(), BTreeSet::from([id]), "its host may still go away");
    other.end(id, 0, Vec::new(), Outcome::Failed(Failure::Interrupted)).await.unwrap();
    sleep(2 * HOUR).await;
    assert!(left().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_joined_and_then_taken_over_ends_when_its_last_asker_leaves() {
    let world = World::new();
    let (host, other) = (world.host().await, world.lease(ME).await);
    let (id, record) = begin_elsewhere(&world, &host, &other).await;
    let joined = host.driver.scheduler.begin_with_handle(record).await.unwrap();
    assert_eq!(joined.id(), id);
    other.leave().await.unwrap();
    sleep(2 * world.timings.news).await;
    assert!(host.driver.carries(id) && !world.is_interrupted(id));
    joined.abandon().await;
    assert!(world.is_interrupted(id));
    sleep(MOMENT).await;
    assert_eq!(host.driver.unended(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_those_who_have_waited_for_a_call_whoever_carries_it() {
    let world = World::new();
    let (host, other) = (world.host().await, world.lease(ME).await);
    let elsewhere = world.begin(&host, &other, ME, "v").await;
    let kept = || lock(&host.driver.scheduler.0.subscribers).len();
    for _ in 0..3 {
        assert!(timeout(MOMENT, host.follow(elsewhere)).await.is_err(), "it has not ended");
    }
    assert_eq!(kept(), 0, "nobody waits any more");
    let mut record = world.start(&host, "v").await;
    record.pinned.user = Some(ME.into());
    let joined = host.driver.scheduler.begin_with_handle(record).await.unwrap();
    assert_eq!((joined.id(), kept()), (elsewhere, 1));
    joined.release();
    other.end(elsewhere, 0, Vec::new(), Outcome::Failed(Failure::Interrupted)).await.unwrap();
    for call in [elsewhere, elsewhere + 1000] {
        assert!(host.follow(call).await.is_err());
    }
    assert_eq!(kept(), 0, "it has ended, or never was");
    let here = host.driver.scheduler.begin_with_handle(world.start(&host, "w").await).await.unwrap();
    assert!(timeout(MOMENT, host.follow(here.id())).await.is_err(), "it has not ended");
    assert_eq!(lock(&host.driver.scheduler.0.subscribers)[&here.id()].len(), 1, "one has left");
    world.plane.end("w");
    assert!(host.follow(here.id()).await.unwrap().is_ok());
    here.release();
    assert_eq!(kept(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_with_the_same_arguments_written_otherwise_is_the_same_call() {
    let world = World::new();
    let host = world.host().await;
    let policy = world.timings.policy(&ChatTools::default());
    let canonical =
        async |arguments| match host.driver.export("stop_workspace", arguments, policy.clone()).await {
            Export::CallTool { arguments, .. } => arguments,
            other => panic!("{other:?}"),
        };
    for (arguments, same_as) in [
        (r#"{"only_if_unreachable": false}"#, "{}"),
        (r#"{"only_if_unreachable": true}"#, r#"{"only_if_unreachable":true}"#),
        (r#"{"only_if_unreachable": "true"}"#, r#"{"only_if_unreachable":true}"#),
        (r#"{"only_if_unreachable": "False"}"#, "{}"),
        (r#"{"only_if_unreachable": null}"#, "{}"),
        (r#"{"only_if_unreachable": ""}"#, "{}"),
        ("null", "{}"),
        (r#"{"odd": false, "even": 2}"#, r#"{"even":2,"odd":false}"#),
        ("[]", "[]"),
        ("no JSON", "no JSON"),
    ] {
        assert_eq!(canonical(arguments).await, same_as);
    }
}
