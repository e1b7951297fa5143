//! What a workspace makes of what is typed into its terminals, without a workspace: the counterpart of
//! `chat/session/workspace.sh` for the simulator, and for tests on a clock that jumps.

use std::collections::BTreeMap;

use crate::greeting::GREETING;

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What it puts out.
    pub output: String,
    /// Its exit code. `None`: it goes on until it is ended.
    pub code: Option<i32>,
}

/// What a workspace notes of its commands, by the names of their sessions.
#[derive(Debug, Default)]
pub struct Notes(BTreeMap<String, Note>);

#[derive(Debug)]
enum Note {
    Begun(Run),
    NeverBegins,
}

/// The shell in one terminal.
#[derive(Debug, Default)]
pub struct Shell {
    /// What was typed and is not a whole line yet.
    unread: String,
    reads: Reads,
    session: Session,
}

/// What the next line is a part of.
#[derive(Debug, Default)]
enum Reads {
    /// The line that reads the program.
    #[default]
    Loader,
    Program(String),
    Command(String),
    Input,
    /// What the host wants of a command that has begun.
    Wishes,
}

#[derive(Debug, Default)]
struct Session {
    id: String,
    mark: String,
    end: String,
    from: usize,
    begin: bool,
    has_input: bool,
    folder: String,
    command: String,
}

impl Shell {
    /// What a terminal shows first.
    pub fn greeting() -> String {
        format!("{GREETING}\r\n")
    }

    /// Takes what is typed. Answers what is shown; `run` is asked what a command does that begins now
    /// in a folder, which is empty where none was named.
    pub fn typed(&mut self, text: &str, notes: &mut Notes, run: &mut dyn FnMut(&str, &str) -> Run) -> String {
        self.unread.push_str(text);
        let mut shown = String::new();
        while let Some((line, rest)) = self.unread.split_once('\n') {
            let (line, rest) = (line.to_owned(), rest.to_owned());
            self.unread = rest;
            shown.push_str(&self.line(&line, notes, run));
        }
        shown
    }

    fn line(&mut self, line: &str, notes: &mut Notes, run: &mut dyn FnMut(&str, &str) -> Run) -> String {
        match (&mut self.reads, line) {
            (Reads::Loader, _) => self.reads = Reads::Program(String::new()),
            (Reads::Program(program) | Reads::Command(program), text) if text != "." => {
                program.push_str(text.strip_prefix('+').unwrap_or_default());
            }
            (Reads::Program(program), _) => {
                self.session = Session::read(&decoded(program));
                self.reads = Reads::Command(String::new());
                if !self.session.begin {
                    return self.serve(notes, run);
                }
            }
            (Reads::Command(command), _) => {
                self.session.command = decoded(command);
                if !self.session.has_input {
                    return self.serve(notes, run);
                }
                self.reads = Reads::Input;
            }
            (Reads::Input, ".") => return self.serve(notes, run),
            (Reads::Input, _) => {}
            (Reads::Wishes, wish) => return self.session.wish(wish, notes),
        }
        String::new()
    }

    fn serve(&mut self, notes: &mut Notes, run: &mut dyn FnMut(&str, &str) -> Run) -> String {
        self.reads = Reads::Wishes;
        let Session { id, begin, command, folder, .. } = &self.session;
        if *begin && !notes.0.contains_key(id) {
            notes.0.insert(id.clone(), Note::Begun(run(command, folder)));
        }
        self.session.report(notes)
    }
}

impl Session {
    /// The assignments in the program's first line.
    fn read(program: &str) -> Self {
        let line = program.lines().next().unwrap_or_default();
        let value = |name: &str| {
            let (_, rest) = line.split_once(&format!("{name}=")).unwrap_or_default();
            // Words stand there as they are, or torn; what has blanks is quoted.
            let rest = if let Some(quoted) = rest.strip_prefix('\'') {
                quoted.split('\'').next().unwrap_or_default()
            } else {
                rest.split(' ').next().unwrap_or_default()
            };
            rest.replace("''", "")
        };
        Self {
            id: value("_id"),
            mark: value("_mark"),
            end: value("_end"),
            from: value("_from").parse().unwrap_or_default(),
            begin: value("_begin") == "1",
            has_input: !value("_input").is_empty(),
            folder: value("_dir"),
            command: String::new(),
        }
    }

    fn record(&self, record: &str) -> String {
        format!("\r\n{}{record}\r\n", self.mark)
    }

    /// What is noted of the session, from its offset on.
    fn report(&self, notes: &Notes) -> String {
        let Some(Note::Begun(run)) = notes.0.get(&self.id) else { return self.record("n") };
        let mut whole = run.output.clone();
        if let Some(code) = run.code {
            whole.push_str(&format!("\n{}{code}.\n", self.end));
        }
        let output = whole.get(self.from..).unwrap_or_default().replace('\n', "\r\n");
        let told = if output.is_empty() {
            String::new()
        } else {
            format!("{}{output}", self.record(&format!("c{} 0", self.from)))
        };
        format!("{}{told}", self.record("b"))
    }

    fn wish(&self, wish: &str, notes: &mut Notes) -> String {
        match wish {
            "p" => self.record("p"),
            "e" => match notes.0.entry(self.id.clone()).or_insert(Note::NeverBegins) {
                Note::NeverBegins => self.record("v"),
                // It dies of SIGINT.
                Note::Begun(run) => match run.code.replace(130) {
                    Some(_) => self.record("k0"),
                    None => {
                        let rest = self.record(&format!("c{} 0", run.output.len()));
                        format!("{rest}\r\n{}130.\r\n{}", self.end, self.record("k0"))
                    }
                },
            },
            "d" => {
                notes.0.remove(&self.id);
                String::new()
            }
            _ => String::new(),
        }
    }
}

/// What `printf %b` makes of what was typed.
fn decoded(typed: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = typed.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'n') => bytes.push(b'\n'),
            Some(b'0') => {
                let code = rest
                    .by_ref()
                    .take(3)
                    .fold(0_u8, |code, digit| code.wrapping_mul(8).wrapping_add(digit.wrapping_sub(b'0')));
                bytes.push(code);
            }
            other => bytes.extend(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
