//! Who asks what in a message that cannot be read: what is wrong with it may be anywhere, and its client waits for an
//! answer under its id.

use rmcp::model::RequestId;

/// Bytes of a member that are kept: more than any id has.
const LONGEST_MEMBER: usize = 1024;

/// Looks at the outermost object of a message as its bytes come, and needs of it no more than that its braces, its
/// quotes and commas are where they should be.
#[derive(Debug, Default)]
pub(super) struct Outline {
    /// How many braces and brackets are open.
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The outermost object's member that is being read, without what is in braces and brackets of its own.
    member: Vec<u8>,
    /// Its id, if that is one.
    pub(super) id: Option<RequestId>,
    has_id: bool,
    has_method: bool,
    has_result: bool,
}

impl Outline {
    pub(super) fn of(message: &[u8]) -> Self {
        let mut outline = Self::default();
        outline.read(message);
        outline
    }

    /// Reads on.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        // ASCII in two or four bytes each is ASCII without the zeros.
        for &byte in bytes.iter().filter(|byte| **byte != 0) {
            if self.in_string {
                self.in_string = self.escaped || byte != b'"';
                self.escaped = !self.escaped && byte == b'\\';
                self.keep(byte);
                continue;
            }
            match byte {
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    if self.depth == 1 {
                        self.end_member();
                    }
                    self.depth = self.depth.saturating_sub(1);
                }
                b',' if self.depth == 1 => self.end_member(),
                byte => {
                    self.in_string = byte == b'"';
                    self.keep(byte);
                }
            }
        }
    }

    /// Whether somebody may wait for an answer: nobody does who sent a notification or a response, and to answer one
    /// could go on for ever.
    pub(super) fn wants_answer(&self) -> bool {
        !self.has_result && (self.has_id || !self.has_method)
    }

    fn keep(&mut self, byte: u8) {
        if self.depth == 1 && self.member.len() < LONGEST_MEMBER {
            self.member.push(byte);
        }
    }

    fn end_member(&mut self) {
        let member = std::mem::take(&mut self.member);
        let mut read = serde_json::Deserializer::from_slice(&member).into_iter::<String>();
        let Some(Ok(name)) = read.next() else { return };
        let value = member[read.byte_offset()..].trim_ascii_start().strip_prefix(b":").unwrap_or_default();
        match &*name {
            "id" => {
                self.has_id = true;
                self.id = serde_json::from_slice(value).ok();
            }
            "method" => self.has_method = value.trim_ascii_start().starts_with(b"\""),
            "result" | "error" => self.has_result = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(message: &[u8]) -> Option<String> {
        Outline::of(message).id.map(|id| id.to_string())
    }

    #[test]
    fn the_id_is_found_whatever_is_wrong_elsewhere() {
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        for message in [
            &br#"{"jsonrpc":"2.0","id":7,"method":"x","params":{"text":"\ud800"}}"#[..],
            br#"{"method":"\ud800","params":{"id":1,"q":"\"id\":2,{"},"jsonrpc":"2.0","id":7}"#,
            b"\xef\xbb\xbf{ \"id\" : 7 , \"params\": {\"text\": \"caf\xe9\"} }",
            br#"{"id":7,"params":{"n":NaN,"m":[1,]}}"#,
            br#"{"params":Infinity,'a':'b',"id":7}"#,
            br#"{"id":7,"params":{"cut"#,
            &[&b"{\"params\":"[..], "[".repeat(1000).as_bytes(), "]".repeat(1000).as_bytes(), b",\"id\":7}"]
                .concat(),
            &[&b"{\"text\":\""[..], "x".repeat(10_000).as_bytes(), b"\",\"id\":7}"].concat(),
            &utf16(r#"{"jsonrpc":"2.0","id":7,"method":"x"}"#),
        ] {
            assert_eq!(id(message).as_deref(), Some("7"), "{}", String::from_utf8_lossy(message));
        }
        assert_eq!(id(br#"{"id":"a\"b","params":{"text":"\ud800"}}"#).as_deref(), Some("a\"b"));
        for message in [
            &b"{"[..],
            b"7",
            b"",
            br#"{"id":null}"#,
            br#"{"params":{"id":7}}"#,
            br#"[{"id":7}]"#,
            br#""id":7,"#,
        ] {
            assert_eq!(id(message), None, "{}", String::from_utf8_lossy(message));
        }
        for (message, wants) in [
            (r#"{"id":7,"method":"x","p":NaN}"#, true),
            (r#"{"id":{},"method":"x","p":NaN}"#, true),
            (r#"{"method":7,"p":NaN}"#, true),
            ("7", true),
            (r#"{"method":"x","p":NaN}"#, false),
            (r#"{"id":7,"result":NaN}"#, false),
        ] {
            assert_eq!(Outline::of(message.as_bytes()).wants_answer(), wants, "{message}");
        }
        let bytewise = br#"{"method":"x","id":7,"result":{"#.chunks(1);
        let mut outline = Outline::default();
        bytewise.for_each(|byte| outline.read(byte));
        assert!(outline.id.is_some() && outline.has_method && !outline.has_result);
    }
}
