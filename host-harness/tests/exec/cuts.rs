//! Sessions that are cut at every frame: a command begins at most once, and what is said of it is true.

use std::path::Path;
use std::time::Duration;

use workspace_recovery::chat::{Began, Execute, ExecuteError, Executed};

use super::desk::{Cut, Desk};

/// It leaves a line in a file, and puts out more than is kept of it.
const COMMAND: &str = "echo began >> ran; seq 1 20000; exit 5";

/// Of which a run of it has fewer.
const FRAMES: usize = 24;

async fn desk() -> Desk {
    Desk::new(Path::new("/bin/sh")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_cut_once_at_any_frame_runs_its_command_once_and_loses_nothing() {
    let desk = desk().await;
    let undisturbed = desk.run(COMMAND).await.unwrap();
    assert!(undisturbed.truncated && undisturbed.exit_code == Some(5));
    for before in 0.. {
        desk.place.cut(Cut { before, for_good: false });
        let ran = desk.place.lines("ran");
        let executed = desk.run(COMMAND).await.unwrap();
        assert_eq!(executed, undisturbed, "cut before frame {before}");
        assert_eq!(desk.place.lines("ran"), ran + 1, "cut before frame {before}");
        if !desk.place.was_cut() {
            assert!(before > 8, "there are more frames than {before}");
            break;
        }
    }
    // What was cut when everything was fetched, which is the last frame, is removed by age.
    desk.place.has_left(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_cut_for_good_at_any_frame_says_truly_whether_its_command_has_begun() {
    let desks = futures_util::future::join_all((0..=FRAMES).map(async |before| {
        let desk = desk().await;
        desk.place.cut(Cut { before, for_good: true });
        let began = match desk.run(COMMAND).await {
            Err(ExecuteError::Unreachable(unreachable)) => unreachable.began,
            Err(ExecuteError::Lost { began, .. }) => began,
            Ok(_) => Began::Yes,
            Err(error) => panic!("cut before frame {before}: {error}"),
        };
        (before, began, desk)
    }))
    .await;
    // What was on its way has arrived by now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (before, began, desk) in &desks {
        let ran = desk.place.lines("ran");
        match began {
            Began::No => assert_eq!(ran, 0, "cut before frame {before}"),
            Began::Yes => assert_eq!(ran, 1, "cut before frame {before}"),
            Began::Unknown => assert!(ran <= 1, "cut before frame {before}: {ran}"),
        }
    }
    for began in [Began::No, Began::Yes] {
        assert!(desks.iter().any(|(_, said, _)| *said == began), "{began:?} within {FRAMES} frames");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_terminals_are_cut_again_and_again_is_followed_to_its_end() {
    let desk = desk().await;
    let slow = "for i in 1 2 3 4 5 6; do echo $i; sleep 0.3; done; echo began >> ran";
    let cutting = async {
        for _ in 0..4 {
            desk.place.cut(Cut { before: 2, for_good: false });
            // The cuts are to come at any moment of the command, and wait for none.
            tokio::time::sleep(Duration::from_millis(350)).await;
        }
    };
    let (executed, ()) = tokio::join!(desk.run(slow), cutting);
    let expected =
        Executed { output: "1\n2\n3\n4\n5\n6\n".into(), exit_code: Some(0), ..Executed::default() };
    assert_eq!((executed.unwrap(), desk.place.lines("ran")), (expected, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_was_killed_with_all_that_watched_it_is_told_as_lost_in_seconds() {
    let desk = desk().await;
    let begun = std::time::Instant::now();
    // As when the kernel kills a container's processes: the shell's session, and what waits for it.
    let command = "echo out; sleep 0.2; read runner rest < $(echo $HOME/.local/state/workspace-recovery-sessions/*/runner); \
                   kill -9 $(ps -o pid= --ppid $runner) $runner $$";
    let error = desk.run(command).await.unwrap_err();
    assert!(
        matches!(&error, ExecuteError::Lost { began: Began::Yes, output } if output == "out\n"),
        "{error:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_not_run_again_when_its_notes_are_gone() {
    // With a terminal that is cut afterwards, and with one that is not.
    for is_cut in [true, false] {
        let desk = desk().await;
        // The notes go when the host has heard that it has begun: of what nobody has heard, only they can tell.
        let command = "echo began >> ran; sleep 2; rm -rf $HOME/.local; seq 1 200000; sleep 1";
        let cutting = async {
            let notes = desk.place.home().join(".local");
            while is_cut && (desk.place.lines("ran") == 0 || notes.exists()) {
                // Files are looked for: nobody announces them.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            if is_cut {
                desk.place.cut(Cut { before: 1, for_good: false });
            }
        };
        let (told, ()) = tokio::join!(desk.run(command), cutting);
        assert_eq!(desk.place.lines("ran"), 1, "{told:?}");
        assert!(matches!(told, Err(ExecuteError::Lost { began: Began::Yes, .. })), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_folder_that_cannot_be_written_or_can_be_later_makes_no_difference() {
    let desk = desk().await;
    let local = desk.place.home().join(".local");
    std::fs::write(&local, "not a folder").unwrap();
    for before in 1..12 {
        desk.place.cut(Cut { before, for_good: false });
        let ran = desk.place.lines("ran");
        // By the next terminal there is room in the home folder.
        let executed = desk.run("rm -f .local; echo began >> ran; seq 1 20000").await.unwrap();
        assert_eq!((executed.exit_code, desk.place.lines("ran")), (Some(0), ran + 1), "cut before {before}");
        let _ = std::fs::remove_dir_all(&local);
        std::fs::write(&local, "not a folder").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_typed_long_ago_and_was_on_its_way_begins_nothing() {
    let desk = desk().await;
    desk.place.hold_back_first();
    desk.gives("echo began >> ran", 0, "").await;
    assert_eq!(desk.place.lines("ran"), 1);
    desk.place.has_left(0).await;
    desk.place.let_go().await;
    // Nothing is to happen, which nobody announces.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(desk.place.lines("ran"), 1, "the first terminal got it when all was over");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_commands_at_once_all_run() {
    let desk = desk().await;
    let runs = (0..100).map(|number| {
        let execute = Execute { command: format!("echo {number}"), ..Execute::default() };
        async { desk.execute(execute).await.unwrap().output }
    });
    let outputs = futures_util::future::join_all(runs).await;
    let expected: Vec<_> = (0..100).map(|number| format!("{number}\n")).collect();
    assert_eq!(outputs, expected);
}
