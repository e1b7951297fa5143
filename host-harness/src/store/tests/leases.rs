//! Who may write to a call, and who takes it over.

use super::*;

#[tokio::test]
async fn a_host_whose_lease_has_run_out_writes_nothing_even_if_nobody_has_taken_over() {
    for world in World::all().await {
        let id = world.active().await;
        world.clock.pass(14);
        assert!(world.one.is_current());
        world.one.renew(None).await.unwrap();
        world.clock.pass(15);
        assert!(!world.one.is_current());
        let lost = Err(StoreError::LeaseLost);
        assert_eq!(world.one.renew(None).await, lost);
        assert_eq!(world.one.open(id, 0, Vec::new(), intent()).await.map(drop), lost);
        assert_eq!(world.one.write(id, 0, vec![read()]).await, lost);
        assert_eq!(world.one.publish(id, 0, Vec::new(), "b2".into()).await.map(drop), lost);
        assert_eq!(world.one.rewind(id, 0, false).await, lost);
        assert_eq!(world.one.end(id, 0, Vec::new(), done()).await.map(drop), lost);
        assert_eq!(world.one.begin(stop("ana", None)).await.map(drop), lost);
        assert_eq!(world.store.recording(id).unwrap().unwrap().open, None);
    }
}

#[tokio::test]
async fn a_call_that_has_ended_or_is_another_hosts_is_told_apart_from_a_lost_lease() {
    for world in World::all().await {
        let id = world.active().await;
        let not_held = Err(StoreError::NotHeld { call: id });
        assert_eq!(world.two.rewind(id, 0, false).await, not_held);
        world.one.end(id, 0, Vec::new(), done()).await.unwrap();
        assert_eq!(world.one.rewind(id, 0, false).await, not_held);
        assert_eq!(world.one.renew(None).await, Ok(()));
    }
}

#[tokio::test]
async fn calls_of_a_host_that_is_gone_go_to_another_of_the_same_user_and_control_plane_only() {
    for world in World::all().await {
        let id = world.active().await;
        let stranger = enter(&world.store, &world.clock, "u2").await;
        assert_eq!(world.two.take_over(None).await, Ok(0), "its host is there");
        world.clock.pass(10);
        stranger.renew(None).await.unwrap();
        world.two.renew(None).await.unwrap();
        world.clock.pass(10);
        assert_eq!(world.orphans(), [id]);
        assert_eq!(stranger.take_over(None).await, Ok(0));
        assert_eq!(world.two.take_over(None).await, Ok(1));
        assert_eq!(world.two.calls().unwrap().len(), 1);
        assert!(world.orphans().is_empty());
        world.two.open(id, 0, Vec::new(), intent()).await.unwrap();
        world.two.leave().await.unwrap();
        assert_eq!(world.orphans(), [id]);
        assert_eq!(stranger.take_over(None).await, Ok(0));
        let third = enter(&world.store, &world.clock, "u1").await;
        assert_eq!(third.take_over(None).await, Ok(1));
        assert_eq!(third.calls().unwrap()[0].id, id);
    }
}

#[tokio::test]
async fn a_host_leaves_to_others_what_would_end_its_own_process_and_does_not_look_again_for_it() {
    for world in World::all().await {
        let self_ending = |workspace: &str, tool: &str| {
            Some(SelfEnding { workspace: workspace.into(), tools: vec![tool.into()] })
        };
        let own = self_ending("w1", "stop_workspace");
        let id = world.active().await;
        assert_eq!(world.two.has_unowned(own.as_ref()), Ok(false), "its host is there");
        world.clock.pass(10);
        world.two.renew(None).await.unwrap();
        world.clock.pass(10);
        assert_eq!(world.two.take_over(own.clone()).await, Ok(0));
        assert_eq!(world.orphans(), [id], "any other host may");
        assert_eq!(world.two.has_unowned(own.as_ref()), Ok(false), "none for it");
        assert_eq!(world.two.has_unowned(None), Ok(true));
        assert_eq!(world.two.take_over(own).await, Ok(0));
        for other in [self_ending("w2", "stop_workspace"), self_ending("w1", "restart_workspace")] {
            assert_eq!(world.two.has_unowned(other.as_ref()), Ok(true));
        }
        assert_eq!(world.two.take_over(self_ending("w2", "stop_workspace")).await, Ok(1));
        // What it carries already stays its own.
        assert_eq!(world.two.take_over(self_ending("w1", "stop_workspace")).await, Ok(0));
        assert_eq!(world.two.calls().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_call_of_which_nobody_knows_for_whom_it_acts_ends_with_its_host_and_holds_nobody_up() {
    for world in World::all().await {
        let mut unknown = stop("ana", None);
        unknown.record.pinned.user = None;
        let BeginOutcome::Active(first) = world.begin(&world.one, unknown).await else {
            panic!("not active")
        };
        let BeginOutcome::Queued(second, _) = world.begin(&world.two, stop("bo", None)).await else {
            panic!("not queued")
        };
        world.one.leave().await.unwrap();
        assert_eq!(world.two.take_over(None).await, Ok(0));
        let (outcome, _) = world.store.outcome(first).unwrap().unwrap();
        assert_eq!(outcome, Outcome::Failed(Failure::Unidentified));
        assert_eq!(world.two.take_turn(second).await, Ok(true));
    }
}

#[tokio::test]
async fn a_call_that_no_host_could_carry_on_for_a_day_is_abandoned() {
    for world in World::all().await {
        let id = world.active().await;
        world.clock.pass(23 * 60 * 60);
        assert_eq!(world.store.abandon_old(world.clock.now_ms()).await, Ok(0));
        world.clock.pass(60 * 60 + 15);
        assert_eq!(world.store.abandon_old(world.clock.now_ms()).await, Ok(1));
        let (outcome, _) = world.store.outcome(id).unwrap().unwrap();
        assert_eq!(outcome, Outcome::Failed(Failure::Abandoned { hours: 24 }));
    }
}
