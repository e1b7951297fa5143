//! WorkspaceWaits at workspaces whose changes are announced.

use super::*;

/// A parking whose control plane has streams of changes, with a wait of an hour at the workspace `w`.
async fn streamed() -> WaitTable {
    let table = table();
    table.plane.world().streams = true;
    table.park(1, "w", HOUR);
    settle().await;
    table
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_announced_ends_a_wait_at_once() {
    let mut table = streamed().await;
    sleep(MINUTE).await;
    table.plane.end("w");
    let announced = Instant::now();
    table.plane.announce("w");
    assert_eq!(table.ended().await.0, WaitEnd::Reached);
    assert!(announced.elapsed() < Duration::from_millis(10), "{:?}", announced.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_change_while_the_workspace_is_being_read_is_not_lost() {
    let mut table = streamed().await;
    sleep(MINUTE).await;
    table.plane.world().takes = Duration::from_millis(500);
    table.plane.announce("w");
    settle().await;
    table.plane.announce("w");
    let reads = table.reads();
    sleep(Duration::from_millis(501)).await;
    table.plane.end("w");
    assert_eq!(table.ended().await.0, WaitEnd::Reached);
    assert_eq!(table.reads(), reads + 1);
}

#[tokio::test(start_paused = true)]
async fn polls_are_rarer_while_a_stream_lives_and_find_what_was_not_announced() {
    let mut table = streamed().await;
    sleep(MINUTE).await;
    let intervals = table.plane.intervals("w");
    assert!(intervals[1..].iter().all(|interval| *interval >= poll() * 5 * 9 / 10), "{intervals:?}");
    table.plane.end("w");
    let changed = Instant::now();
    assert_eq!(table.ended().await.0, WaitEnd::Reached);
    assert!(changed.elapsed() <= poll() * 5 * 11 / 10, "{:?}", changed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_is_opened_again_and_polls_are_frequent_until_it_speaks() {
    let table = streamed().await;
    sleep(MINUTE).await;
    table.plane.world().streams = false;
    table.plane.world().open.clear();
    let reads = table.reads();
    sleep(MINUTE).await;
    assert!((27..=35).contains(&(table.reads() - reads)), "{}", table.reads() - reads);
    table.plane.world().streams = true;
    sleep(20 * poll()).await;
    assert_eq!(table.plane.world().opened.len(), 2);
    table.plane.end("w");
    table.plane.announce("w");
    settle().await;
    assert!(table.parking.len() == 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_never_speaks_is_opened_again_after_longer_and_longer_pauses() {
    let table = table();
    {
        let mut world = table.plane.world();
        world.streams = true;
        world.mute = true;
    }
    table.park(1, "w", HOUR);
    sleep(5 * MINUTE).await;
    let opened = table.plane.world().opened.clone();
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
    let table = streamed().await;
    sleep(MINUTE).await;
    let reads = table.reads();
    for _ in 0..1000 {
        table.plane.announce("w");
        sleep(Duration::from_millis(1)).await;
    }
    let reads = table.reads() - reads;
    assert!((5..=21).contains(&reads), "{reads}");
}

#[tokio::test(start_paused = true)]
async fn streams_are_few_and_go_to_other_workspaces_when_they_are_not_needed_any_more() {
    let mut table = table();
    table.plane.world().streams = true;
    for call in 0..100 {
        table.park(call, &format!("w{call}"), HOUR);
    }
    sleep(MINUTE).await;
    assert_eq!(table.plane.world().open.len(), 64);
    for call in 0..50 {
        table.plane.end(&format!("w{call}"));
    }
    for _ in 0..50 {
        table.woken().await;
    }
    sleep(MINUTE).await;
    let open = table.plane.world().open.values().filter(|sender| !sender.is_closed()).count();
    assert_eq!((table.parking.len(), open), (50, 50));
}
