//! How commands end, what they are given, and what they find.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use workspace_recovery::chat::{Execute, ExecuteError, MAX_OUTPUT_BYTES};
use workspace_recovery::policy::ChatTools;

use super::desk::Desk;

async fn desk() -> Desk {
    Desk::new(Path::new("/bin/bash")).await
}

/// A process that was noted in the home folder, if it lives.
fn lives(desk: &Desk, file: &str) -> bool {
    let pid = std::fs::read_to_string(desk.place.home().join(file)).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_takes_too_long_is_ended_with_all_that_it_left_however_stubborn() {
    let desk = desk().await;
    let command =
        "echo begun; (trap '' INT TERM; echo $BASHPID > stubborn; while :; do sleep 0.1; done) & wait";
    let timeout = Some(Duration::from_secs(1));
    let begun = Instant::now();
    let execute = Execute { command: command.into(), timeout, ..Execute::default() };
    let executed = desk.execute(execute).await.unwrap();
    assert_eq!((executed.output.as_str(), executed.exit_code), ("begun\n", None));
    assert!(!executed.left_running && !lives(&desk, "stubborn"));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_takes_too_long_may_tidy_up() {
    let desk = desk().await;
    let command = "trap 'echo tidy; exit 3' INT; echo begun; while :; do sleep 0.1; done";
    let execute =
        Execute { command: command.into(), timeout: Some(Duration::from_secs(1)), ..Execute::default() };
    let executed = desk.execute(execute).await.unwrap();
    assert_eq!((executed.output.as_str(), executed.exit_code), ("begun\ntidy\n", None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_gives_up_ends_the_command() {
    let desk = desk().await;
    let interrupt = CancellationToken::new();
    let chat = desk.chats.chat("talk", ChatTools::default());
    let execute = Execute { command: "echo $$ > me; sleep 600".into(), ..Execute::default() };
    let gives_up = async {
        while desk.place.lines("me") == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        interrupt.cancel();
    };
    let (told, ()) = tokio::join!(chat.execute(&execute, &interrupt), gives_up);
    assert!(matches!(told, Err(ExecuteError::Interrupted { running: false })), "{told:?}");
    assert!(!lives(&desk, "me"));
    desk.place.has_left(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_leaves_in_the_background_outlives_it_and_does_not_hold_it_up() {
    let desk = desk().await;
    let begun = Instant::now();
    desk.gives(
        "(sleep 0.3; while :; do echo still here; sleep 0.1; done) & echo $! > server; echo started",
        0,
        "started\n",
    )
    .await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    // That nothing becomes of it is what is looked at.
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert!(lives(&desk, "server"), "it has lost nothing but its reader");
    desk.gives("kill $(cat server)", 0, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_has_no_terminal_to_ask_on_and_takes_signals_as_programs_expect() {
    let desk = desk().await;
    desk.gives("(: < /dev/tty) 2>/dev/null || echo no terminal", 0, "no terminal\n").await;
    desk.gives("read answer || echo no input; tty", 1, "no input\nnot a tty\n").await;
    desk.gives("trap 'echo INT; exit 0' INT; kill -INT $$; sleep 1", 0, "INT\n").await;
    desk.gives("echo $GIT_TERMINAL_PROMPT", 0, "0\n").await;
    desk.gives("ps -o sid= -p $$ | tr -d ' ' > sid; [ $(cat sid) = $$ ] && echo mine", 0, "mine\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_in_no_processs_arguments() {
    let desk = desk().await;
    desk.gives("pgrep -f demo-server-71935 || echo none is running", 0, "none is running\n").await;
    desk.gives("kill $(pgrep -f demo-server-71935) 2>/dev/null; echo cleaned", 0, "cleaned\n").await;
    desk.gives("grep -l demo-server-71935 -r $HOME/.local; echo $?", 0, "1\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_gets_its_input_byte_by_byte() {
    let desk = desk().await;
    let input: Vec<u8> = (0..100_000_u32).map(|number| (number * 7 % 256) as u8).collect();
    let execute =
        Execute { command: "cat > got; echo $?".into(), input: Some(input.clone()), ..Execute::default() };
    assert_eq!(desk.execute(execute).await.unwrap().output, "0\n");
    assert_eq!(std::fs::read(desk.place.home().join("got")).unwrap(), input);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_256_kib_runs_as_it_is() {
    let desk = desk().await;
    let line = "a line, with \"quotes\", {braces}, \\backslashes and an \u{e4}\n";
    let text = line.repeat((256 << 10) / line.len() + 1);
    let begun = Instant::now();
    desk.gives(&format!("cat > written <<'END'\n{text}END\necho $?"), 0, "0\n").await;
    assert_eq!(std::fs::read_to_string(desk.place.home().join("written")).unwrap(), text);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn much_output_is_cut_in_the_middle_and_fills_no_disk() {
    let desk = desk().await;
    let execute =
        Execute { command: "echo first; yes | head -c 200000000; echo last".into(), ..Execute::default() };
    let largest = async {
        let mut largest = 0;
        loop {
            let du = std::process::Command::new("du").arg("-sk").arg(desk.place.home()).output().unwrap();
            let size =
                String::from_utf8_lossy(&du.stdout).split_whitespace().next().unwrap().parse().unwrap();
            largest = largest.max(size);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
                () = desk.place.ended() => return largest,
            }
        }
    };
    let executing = async {
        let executed = desk.execute(execute).await.unwrap();
        desk.place.end();
        executed
    };
    let (executed, largest): (_, u64) = tokio::join!(executing, largest);
    assert!(executed.truncated && executed.output.len() < MAX_OUTPUT_BYTES + 100);
    assert!(executed.output.starts_with("first\n") && executed.output.ends_with("last\n"));
    let left_out = executed.output.split("[... ").nth(1).unwrap().split(' ').next().unwrap();
    let kept = executed.output.len() - format!("\n[... {left_out} bytes left out ...]\n").len();
    assert_eq!(left_out.parse::<usize>().unwrap() + kept, 200_000_011);
    assert!(largest < 32_000, "{largest} KiB");
}
