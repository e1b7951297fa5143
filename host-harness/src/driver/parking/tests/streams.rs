//! Waits at workspaces whose changes are announced.

use super::*;

/// A parking whose control plane has streams of changes, with a wait of an hour at the workspace `w`.
async fn streamed() -> ParkingTest {
    let test = parking_test();
    test.plane.world().streams = true;
    test.park(1, "w", HOUR);
    settle().await;
    test
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_announced_ends_a_wait_at_once() {
    let mut test = streamed().await;
    sleep(MINUTE).await;
    test.plane.end("w");
    let announced = Instant::now();
    test.plane.announce("w");
    assert_eq!(test.ended().await.0, WaitEnd::Reached);
    assert!(announced.elapsed() < Duration::from_millis(10), "{:?}", announced.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_change_while_the_workspace_is_being_read_is_not_lost() {
    let mut test = streamed().await;
    sleep(MINUTE).await;
    test.plane.world().takes = Duration::from_millis(500);
    test.plane.announce("w");
    settle().await;
    test.plane.announce("w");
    let reads = test.reads();
    sleep(Duration::from_millis(501)).await;
    test.plane.end("w");
    assert_eq!(test.ended().await.0, WaitEnd::Reached);
    assert_eq!(test.reads(), reads + 1);
}

#[tokio::test(start_paused = true)]
async fn polls_are_rarer_while_a_stream_lives_and_find_what_was_not_announced() {
    let mut test = streamed().await;
    sleep(MINUTE).await;
    let intervals = test.plane.intervals("w");
    assert!(intervals[1..].iter().all(|interval| *interval >= poll() * 5 * 9 / 10), "{intervals:?}");
    test.plane.end("w");
    let changed = Instant::now();
    assert_eq!(test.ended().await.0, WaitEnd::Reached);
    assert!(changed.elapsed() <= poll() * 5 * 11 / 10, "{:?}", changed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_is_opened_again_and_polls_are_frequent_until_it_speaks() {
    let test = streamed().await;
    sleep(MINUTE).await;
    test.plane.world().streams = false;
    test.plane.world().open.clear();
    let reads = test.reads();
    sleep(MINUTE).await;
    assert!((27..=35).contains(&(test.reads() - reads)), "{}", test.reads() - reads);
    test.plane.world().streams = true;
    sleep(20 * poll()).await;
    assert_eq!(test.plane.world().opened.len(), 2);
    test.plane.end("w");
    test.plane.announce("w");
    settle().await;
    assert!(test.parking.len() == 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_never_speaks_is_opened_again_after_longer_and_longer_pauses() {
    let test = parking_test();
    {
        let mut world = test.plane.world();
        world.streams = true;
        world.mute = true;
    }
    test.park(1, "w", HOUR);
    sleep(5 * MINUTE).await;
    let opened = test.plane.world().opened.clone();
    let pauses = opened.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect::<Vec<_>>();
    let first = Timings::default().first_retry.as_millis();
    for (pause, wanted) in pauses.iter().zip([1, 2, 4, 8, 16, 32, 64, 64, 64].map(|factor| factor * first)) {
        // A tenth longer or shorter, so that streams that ended together do not come back together.
        assert!((wanted * 9 / 10..wanted * 11 / 10 + 10).contains(pause), "{pauses:?}");
    }
    assert!(pauses.len() > 9);
}

#[tokio::test(start_paused = true)]
async fn a_heap_of_announcements_costs_ten_reads_a_second_at_most() {
    let test = streamed().await;
    sleep(MINUTE).await;
    let reads = test.reads();
    for _ in 0..1000 {
        test.plane.announce("w");
        sleep(Duration::from_millis(1)).await;
    }
    let reads = test.reads() - reads;
    assert!((5..=21).contains(&reads), "{reads}");
}

#[tokio::test(start_paused = true)]
async fn streams_are_few_and_go_to_other_workspaces_when_they_are_not_needed_any_more() {
    let mut test = parking_test();
    test.plane.world().streams = true;
    for call in 0..100 {
        test.park(call, &format!("w{call}"), HOUR);
    }
    sleep(MINUTE).await;
    assert_eq!(test.plane.world().open.len(), 64);
    for call in 0..50 {
        test.plane.end(&format!("w{call}"));
    }
    for _ in 0..50 {
        test.woken().await;
    }
    sleep(MINUTE).await;
    let open = test.plane.world().open.values().filter(|sender| !sender.is_closed()).count();
    assert_eq!((test.parking.len(), open), (50, 50));
}
