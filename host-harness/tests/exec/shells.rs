//! Login shells, and what `/bin/sh` may be: the same commands give the same everywhere, and what is no shell is told at
//! once.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use workspace_recovery::chat::ExecuteError;

use super::desk::{Desk, NEEDED, folder_of, found, found_or_skipped};

/// Each with its exit code and output.
const AWKWARD: [(&str, i32, &str); 14] = [
    ("echo hello", 0, "hello\n"),
    ("echo hello!world", 0, "hello!world\n"),
    ("echo one\necho two", 0, "one\ntwo\n"),
    ("printf '%s|' 'a b' \"c'd\" 'e\\nf' \\\\", 0, "a b|c'd|e\\nf|\\|"),
    ("for i in 1 2 3; do echo $((i * 2)); done", 0, "2\n4\n6\n"),
    ("cat <<'END'\n$HOME `id` \"quoted\" \\n\nEND", 0, "$HOME `id` \"quoted\" \\n\n"),
    ("x='a  b'; echo \"$x\" ${x:-none} ${y:-none}", 0, "a  b a b none\n"),
    ("echo out; echo err >&2; echo again", 0, "out\nerr\nagain\n"),
    ("(exit 3); echo $?; exit 7", 7, "3\n"),
    ("printf 'no newline'", 0, "no newline"),
    ("echo '\u{e4}\u{20ac}\u{1f600}' | tr -d '\\n' | wc -c", 0, "9\n"),
    ("test -t 0 || test -t 1 || echo neither", 0, "neither\n"),
    ("printf '\\001\\002\\t' | od -An -tx1 | tr -d ' '", 0, "010209\n"),
    ("true", 0, ""),
];

/// The shells that registries have. `busybox` is one only under another name.
const SHELLS: [&str; 9] = ["bash", "dash", "zsh", "fish", "tcsh", "ksh", "mksh", "yash", "busybox"];

/// A shell, and the folder that it is in if it needs one.
fn shell(name: &str) -> Option<(PathBuf, Option<TempDir>)> {
    let file = found_or_skipped(name)?;
    if name != "busybox" {
        return Some((file, None));
    }
    let folder = tempfile::tempdir().unwrap();
    let ash = folder.path().join("ash");
    symlink(file, &ash).unwrap();
    Some((ash, Some(folder)))
}

async fn runs_what_is_awkward(desk: &Desk) {
    for (command, code, output) in AWKWARD {
        desk.gives(command, code, output).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn awkward_commands_give_the_same_with_each_login_shell() {
    for name in SHELLS {
        let Some((shell, _folder)) = shell(name) else { continue };
        runs_what_is_awkward(&Desk::new(&shell).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn awkward_commands_give_the_same_whatever_the_system_shell_is() {
    // Neither fish nor tcsh is a POSIX shell.
    for name in SHELLS.into_iter().filter(|name| !["fish", "tcsh"].contains(name)) {
        let Some((shell, _folder)) = shell(name) else { continue };
        let path = std::env::var("PATH").unwrap();
        runs_what_is_awkward(&Desk::with(Path::new("/bin/sh"), Some(&shell), &path).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_needs_little() {
    // Neither bash nor stty, setsid, cksum, find.
    let tools = folder_of(&[&NEEDED[..], &["tr", "od", "id"]].concat());
    let desk = Desk::with(Path::new("/bin/sh"), None, tools.path().to_str().unwrap()).await;
    runs_what_is_awkward(&desk).await;
    desk.gives("command -v bash setsid stty cksum find; echo $0", 0, "sh\n").await;
    // Nothing but busybox.
    let Some(busybox) = found_or_skipped("busybox") else { return };
    let tools = tempfile::tempdir().unwrap();
    for tool in NEEDED.iter().chain(&["sh", "stty", "setsid", "find", "tr", "od", "id"]) {
        symlink(&busybox, tools.path().join(tool)).unwrap();
    }
    let sh = tools.path().join("sh");
    let desk = Desk::with(&sh, Some(&sh), tools.path().to_str().unwrap()).await;
    runs_what_is_awkward(&desk).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_workspace_lacks_is_named() {
    let all_but_one: Vec<_> = NEEDED.into_iter().filter(|tool| *tool != "dd").collect();
    let tools = folder_of(&all_but_one);
    let desk = Desk::with(Path::new("/bin/sh"), None, tools.path().to_str().unwrap()).await;
    let error = desk.run("echo never > ran").await.unwrap_err();
    assert!(matches!(error, ExecuteError::Refused(_)), "{error:?}");
    assert!(error.to_string().ends_with("it has no dd"), "{error}");
    assert_eq!(desk.place.lines("ran"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_that_is_none_is_told_at_once_with_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let written = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        file
    };
    let powershell = "#!/bin/sh\nprintf \"exec : The term 'exec' is not recognized as the name of a cmdlet.\\r\\n\"; exit 1\n";
    let asks = "#!/bin/sh\nprintf 'Would you like to update? [Y/n] '; read answer; exec /bin/sh \"$@\"\n";
    for (shell, parts) in [
        (
            written("powershell", powershell),
            &["no shell runs", "is not recognized as the name of a cmdlet"][..],
        ),
        (
            written("nologin", "#!/bin/sh\necho This account is currently not available.\nexit 1\n"),
            &["not available"],
        ),
        (found("false").unwrap(), &["end at once, without a word"]),
        (written("asks", asks), &["Would you like to update? [Y/n]"]),
        (written("unloadable", "#!/no/such/loader\n"), &["no shell runs"]),
    ] {
        let desk = Desk::new(&shell).await;
        let begun = Instant::now();
        let error = desk.run("echo hi").await.unwrap_err();
        if !shell.ends_with("unloadable") {
            assert!(matches!(error, ExecuteError::NoShell { .. }), "{shell:?}: {error:?}");
            for part in parts {
                assert!(error.to_string().contains(part), "{shell:?}: {error}");
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "{shell:?}: {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_start_up_files_print_is_no_output_of_the_command_and_what_they_set_is_heeded() {
    for (name, file, line) in [
        ("zsh", ".zshenv", "echo noise; export FROM_FILE=set\n"),
        ("fish", ".config/fish/config.fish", "echo noise; set -gx FROM_FILE set\n"),
        ("tcsh", ".tcshrc", "echo noise; setenv FROM_FILE set\n"),
    ] {
        let Some((shell, _folder)) = shell(name) else { continue };
        let desk = Desk::new(&shell).await;
        let file = desk.place.home().join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, line).unwrap();
        desk.gives("echo $FROM_FILE", 0, "set\n").await;
    }
}
