//! Turns at a workspace, and which request is a call that there is already.

use super::*;

#[tokio::test]
async fn calls_at_one_workspace_take_turns_in_order_of_arrival_across_hosts_and_chats() {
    for world in World::all().await {
        let first = world.active().await;
        let holder = Holder { call: first, chat: "ana".into(), tool: "stop_workspace".into() };
        let BeginOutcome::Queued(second, named) = world.begin(&world.two, stop("ben", None)).await else {
            panic!()
        };
        assert_eq!(named, Turn { holder: holder.clone(), between: 0 });
        let BeginOutcome::Queued(third, named) = world.begin(&world.one, stop("cem", None)).await else {
            panic!()
        };
        assert_eq!(named, Turn { holder, between: 1 });
        assert_eq!(world.two.take_turn(second).await, Ok(false));
        assert_eq!(
            world.one.end(first, 0, Vec::new(), done()).await,
            Ok(None),
            "the next is not this host's"
        );
        assert_eq!(world.one.take_turn(third).await, Ok(false));
        assert_eq!(world.two.take_turn(second).await, Ok(true));
        world.two.end(second, 0, Vec::new(), done()).await.unwrap();
        assert_eq!(world.one.take_turn(third).await, Ok(true));

        let BeginOutcome::Queued(fourth, _) = world.begin(&world.one, stop("dan", None)).await else {
            panic!()
        };
        for number in 5..12 {
            let chat = format!("chat {number}");
            assert!(matches!(world.begin(&world.one, stop(&chat, None)).await, BeginOutcome::Queued(..)));
        }
        let busy = world.begin(&world.two, stop("late", None)).await;
        assert!(matches!(busy, BeginOutcome::Busy(Holder { call, .. }) if call == third), "{busy:?}");
        assert_eq!(world.one.end(third, 0, Vec::new(), done()).await, Ok(Some(fourth)));
        assert_eq!(world.store.call(fourth).unwrap().unwrap().state, CallState::Active);
    }
}

#[tokio::test]
async fn the_same_request_is_one_call_by_its_key_or_while_nothing_else_was_asked_for_or_it_has_an_effect() {
    for world in World::all().await {
        let BeginOutcome::Active(keyed) = world.begin(&world.one, stop("ana", Some("k"))).await else {
            panic!()
        };
        assert_eq!(world.begin(&world.two, stop("ana", Some("k"))).await, BeginOutcome::Same(keyed));
        let mut other = stop("ana", Some("k"));
        if let Export::CallTool { arguments, .. } = &mut other.record.call {
            *arguments = r#"{"only_if_unreachable":true}"#.into();
        }
        assert_eq!(world.begin(&world.two, other).await, BeginOutcome::KeyTaken(keyed));
        assert_eq!(world.begin(&world.two, stop("ana", None)).await, BeginOutcome::Same(keyed));
        let BeginOutcome::Queued(other, _) = world.begin(&world.two, stop("ben", None)).await else {
            panic!()
        };
        let waits = world.begin(&world.two, stop("ana", None)).await;
        let BeginOutcome::Queued(waiting, _) = waits else { panic!("the other one comes first: {waits:?}") };
        assert_eq!(world.begin(&world.one, stop("ana", None)).await, BeginOutcome::Same(waiting));
        world.one.open(keyed, 0, Vec::new(), intent()).await.unwrap();
        assert_eq!(world.begin(&world.two, stop("ana", None)).await, BeginOutcome::Same(keyed));
        for ends in [waiting, other] {
            world.two.end(ends, 0, Vec::new(), done()).await.unwrap();
        }
        world.one.end(keyed, 0, Vec::new(), done()).await.unwrap();
        assert_eq!(world.begin(&world.one, stop("ana", Some("k"))).await, BeginOutcome::Same(keyed));
        assert!(matches!(world.begin(&world.one, stop("ana", None)).await, BeginOutcome::Active(_)));
    }
}

#[tokio::test]
async fn a_call_that_has_sent_nothing_is_not_joined_if_it_is_interrupted_or_for_another_user() {
    for world in World::all().await {
        let first = world.active().await;
        let mut for_another = stop("ana", None);
        for_another.record.pinned.user = Some("u2".into());
        let second = world.begin(&world.two, for_another).await;
        let BeginOutcome::Queued(second, _) = second else { panic!("{second:?}") };
        world.two.end(second, 0, Vec::new(), done()).await.unwrap();
        world.store.interrupt(first).await.unwrap();
        let third = world.begin(&world.two, stop("ana", None)).await;
        assert!(matches!(third, BeginOutcome::Queued(..)), "{third:?}");
    }
}

#[tokio::test]
async fn the_same_call_made_again_while_the_control_plane_could_not_say_for_whom_is_one_call() {
    let by = |user: Option<&str>| {
        let mut new = wanted_stop("ana");
        new.record.pinned.user = user.map(str::to_owned);
        new
    };
    for (first, again) in [(Some("u1"), None), (None, Some("u1")), (None, None)] {
        for world in World::all().await {
            let id = world.active_of(by(first)).await;
            assert_eq!(
                world.begin(&world.two, by(again)).await,
                BeginOutcome::Same(id),
                "{first:?} {again:?}"
            );
        }
    }
}

#[tokio::test]
async fn whoever_asks_again_after_a_deliberate_interrupt_is_not_given_the_end_of_the_interrupted_call() {
    for world in World::all().await {
        let first = world.active().await;
        world.one.open(first, 0, Vec::new(), intent()).await.unwrap();
        assert_eq!(world.begin(&world.two, stop("ana", None)).await, BeginOutcome::Same(first));
        world.store.interrupt(first).await.unwrap();
        let second = world.begin(&world.two, stop("ana", None)).await;
        let BeginOutcome::Queued(second, turn) = second else { panic!("{second:?}") };
        assert_eq!(turn.holder.call, first);
        assert_eq!(world.begin(&world.one, stop("ana", None)).await, BeginOutcome::Same(second));
    }
}
