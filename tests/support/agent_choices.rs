//! Which of several agents is the chat's: what plugin and host have to decide alike.

/// One agent: its name, its order, and whether an agent made it.
pub type Candidate = (&'static str, i32, bool);

/// Agents of a build, and the place of the one that is the chat's, if there is one.
pub fn all() -> Vec<(Vec<Candidate>, Option<usize>)> {
    vec![
        (vec![], None),
        (vec![("main", 0, false)], Some(0)),
        (vec![("main", 0, true)], None),
        (vec![("main", 0, true), ("side", 5, false)], Some(1)),
        (vec![("beta", 0, false), ("Alpha", 0, false)], Some(1)),
        (vec![("main", 0, false), ("Main", 0, false)], Some(1)),
        (vec![("alpha", 0, false), ("zeta", -1, false)], Some(1)),
        (vec![("alpha", 0, false), ("zeta-CODERD-Chat", 9, false)], Some(1)),
        (vec![("a-coderd-chat", 0, false), ("B-Coderd-chat", 0, false)], None),
        (vec![("a-coderd-chat", 0, true), ("b-coderd-chat", 0, false)], Some(1)),
        // Only the letters of ASCII have two cases: in the tables for all scripts these would be "k" and "é".
        (vec![("\u{212a}", 0, false), ("z", 0, false)], Some(1)),
        (vec![("\u{c9}a", 0, false), ("\u{e9}", 0, false)], Some(0)),
        (vec![("\u{c9}b", 0, false), ("\u{e9}a", 0, false)], Some(0)),
    ]
}
