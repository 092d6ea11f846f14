//! A small JSON reader: text to a tree that borrows from it. What makes it worth having is that
//! whoever reads the tree knows where each value stands, so that every error names its field, and
//! that it is a tenth of the code of a parser made for each type.

use std::borrow::Cow;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    /// As written.
    Number(&'a str),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    /// In the order of the text; no key is there twice.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// Deeper nesting is no spec, and would overflow the stack.
const MAX_DEPTH: usize = 64;

/// Reads a whole document.
///
/// # Errors
/// What is wrong, and on which line.
pub(crate) fn parse(bytes: &[u8]) -> Result<Json<'_>, String> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => return Err(format!("is not UTF-8 after byte {}", e.valid_up_to())),
    };
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    reader.space();
    if reader.at < text.len() {
        return Err(reader.wrong("more after the end of the document"));
    }
    Ok(value)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn wrong(&self, what: &str) -> String {
        let before = &self.text.as_bytes()[..self.at.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let column = 1 + before.iter().rev().take_while(|byte| **byte != b'\n').count();
        format!("{what} at line {line} column {column}")
    }

    fn expect(&mut self, word: &str) -> Result<(), String> {
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(());
        }
        Err(self.wrong(&match self.at < self.text.len() {
            true => format!("{word:?} expected"),
            false => "the document ends too early".to_owned(),
        }))
    }

    fn value(&mut self, depth: usize) -> Result<Json<'a>, String> {
        if depth > MAX_DEPTH {
            return Err(self.wrong("too deep"));
        }
        self.space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => Ok(Json::Text(self.string()?)),
            Some(b't') => self.expect("true").map(|()| Json::Bool(true)),
            Some(b'f') => self.expect("false").map(|()| Json::Bool(false)),
            Some(b'n') => self.expect("null").map(|()| Json::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => Err(self.wrong("no value")),
            None => Err(self.wrong("the document ends too early")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json<'a>, String> {
        let mut all: Vec<(Cow<'a, str>, Json<'a>)> = Vec::new();
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Json::Object(all));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.wrong("a key expected"));
            }
            let key = self.string()?;
            if all.iter().any(|(other, _)| *other == key) {
                return Err(self.wrong(&format!("{key:?} is there twice")));
            }
            self.space();
            self.expect(":")?;
            let value = self.value(depth + 1)?;
            all.push((key, value));
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => return self.expect("}").map(|()| Json::Object(all)),
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Json<'a>, String> {
        let mut all = Vec::new();
        self.at += 1;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::List(all));
        }
        loop {
            all.push(self.value(depth + 1)?);
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => return self.expect("]").map(|()| Json::List(all)),
            }
        }
    }

    fn number(&mut self) -> Result<Json<'a>, String> {
        let from = self.at;
        let digits = |reader: &mut Self| {
            let from = reader.at;
            while matches!(reader.peek(), Some(b'0'..=b'9')) {
                reader.at += 1;
            }
            reader.at - from
        };
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let zero = self.peek() == Some(b'0');
        let whole = digits(self);
        let mut good = whole > 0 && !(zero && whole > 1);
        if self.peek() == Some(b'.') {
            self.at += 1;
            good &= digits(self) > 0;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            good &= digits(self) > 0;
        }
        match good {
            true => Ok(Json::Number(&self.text[from..self.at])),
            false => Err(self.wrong("not a number")),
        }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, String> {
        self.at += 1;
        let from = self.at;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Borrowed(&self.text[from..self.at - 1]));
                }
                Some(b'\\') => break,
                Some(0..=0x1f) => return Err(self.wrong("a control character in a string")),
                Some(_) => self.at += 1,
                None => return Err(self.wrong("a string without an end")),
            }
        }
        let mut text = self.text[from..self.at].to_owned();
        loop {
            let plain = self.at;
            while matches!(self.peek(), Some(byte) if byte > 0x1f && byte != b'"' && byte != b'\\')
            {
                self.at += 1;
            }
            text.push_str(&self.text[plain..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(text));
                }
                Some(b'\\') => text.push(self.escape()?),
                Some(_) => return Err(self.wrong("a control character in a string")),
                None => return Err(self.wrong("a string without an end")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        self.at += 1;
        let byte = self.peek();
        self.at += 1;
        Ok(match byte {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => return Err(self.wrong("an unknown escape")),
        })
    }

    fn unicode(&mut self) -> Result<char, String> {
        let first = self.four_digits()?;
        let code = match first {
            0xd800..=0xdbff => {
                self.expect("\\u")?;
                let second = self.four_digits()?;
                match second {
                    0xdc00..=0xdfff => 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00),
                    _ => return Err(self.wrong("half a character")),
                }
            }
            code => code,
        };
        char::from_u32(code).ok_or_else(|| self.wrong("half a character"))
    }

    fn four_digits(&mut self) -> Result<u32, String> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let digits = digits.filter(|all| all.iter().all(u8::is_ascii_hexdigit));
        let value = digits.and_then(|all| std::str::from_utf8(all).ok());
        match value.and_then(|text| u32::from_str_radix(text, 16).ok()) {
            Some(value) => {
                self.at += 4;
                Ok(value)
            }
            None => Err(self.wrong("four hexadecimal digits expected")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serde_reads_is_read_the_same() {
        fn plain(json: &Json<'_>) -> serde_json::Value {
            match json {
                Json::Null => serde_json::Value::Null,
                Json::Bool(b) => (*b).into(),
                Json::Number(n) => serde_json::from_str(n).expect("a number"),
                Json::Text(t) => t.as_ref().into(),
                Json::List(l) => l.iter().map(plain).collect(),
                Json::Object(o) => o.iter().map(|(k, v)| (k.to_string(), plain(v))).collect(),
            }
        }
        let texts = [
            "null",
            " true ",
            "-0",
            "0.5e-3",
            "18446744073709551615",
            "[]",
            "[1,[2,{}],\"x\"]",
            r#"{"a":1,"b":{"c":[null,false]},"":"\u00e9\ud83d\ude00\n\\\"\/é"}"#,
            "01",
            "-",
            "1.",
            "1e",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\n\"",
            "[1] 2",
            "",
            "tru",
            "\"abc",
            "{\"a\"",
            "nul",
            "+1",
            "\"\\u12\"",
            "[\"\\ude00\"]",
            "{\"a\":1 \"b\":2}",
        ];
        for text in texts {
            let want: Result<serde_json::Value, _> = serde_json::from_str(text);
            let got = parse(text.as_bytes());
            assert_eq!(got.is_ok(), want.is_ok(), "{text}: {got:?}");
            if let (Ok(got), Ok(want)) = (got, want) {
                assert_eq!(plain(&got), want, "{text}");
            }
        }
    }

    #[test]
    fn bounds_and_places() {
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes()).expect_err("deep").starts_with("too deep"));
        assert!(parse(b"\"\xff\"").expect_err("bytes").contains("UTF-8 after byte 1"));
        let twice = parse(b"{\n \"a\": 1,\n \"a\": 2}").expect_err("twice");
        assert!(twice.contains("twice at line 3"), "{twice}");
    }
}
