//! Detach keys: their notation, and finding them in what is typed.

use anyhow::{Result, bail};

/// What detaches when nobody says otherwise.
pub(crate) const DEFAULT: &str = "ctrl-p,ctrl-q";

/// The bytes of "ctrl-p,ctrl-q" or "a,ctrl-x"; empty for "": nothing detaches.
pub(crate) fn sequence(given: &str) -> Result<Vec<u8>> {
    if given.is_empty() {
        return Ok(Vec::new());
    }
    given.split(',').map(|key| one(key, given)).collect()
}

fn one(key: &str, given: &str) -> Result<u8> {
    let lower = key.to_ascii_lowercase();
    match (key.as_bytes(), lower.strip_prefix("ctrl-").map(str::as_bytes)) {
        (_, Some([letter @ b'a'..=b'z'])) => Ok(letter - b'a' + 1),
        (_, Some([sign @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')])) => Ok(sign - b'@'),
        ([plain @ 0x20..=0x7e], _) => Ok(*plain),
        _ => bail!(
            "{given:?} is not a list of keys: use single characters and ctrl-a to ctrl-z, \
             with commas between, as in ctrl-p,ctrl-q"
        ),
    }
}

/// Looks for the detach keys in input. A part of them is held back until it is clear that the rest
/// does not follow.
#[derive(Debug)]
pub(crate) struct Detacher {
    keys: Vec<u8>,
    matched: usize,
}

/// What to do with a piece of input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    Send(Vec<u8>),
    /// Send this, then detach.
    Detach(Vec<u8>),
}

impl Detacher {
    pub(crate) fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    pub(crate) fn take(&mut self, input: &[u8]) -> Typed {
        let mut out = Vec::with_capacity(input.len());
        if self.keys.is_empty() {
            out.extend_from_slice(input);
            return Typed::Send(out);
        }
        for &byte in input {
            // What is held back is always the first `matched` keys.
            let mut held = self.keys[..self.matched].to_vec();
            held.push(byte);
            let given_up = (0..=held.len())
                .find(|&from| self.keys.starts_with(&held[from..]))
                .unwrap_or(held.len());
            out.extend_from_slice(&held[..given_up]);
            self.matched = held.len() - given_up;
            if self.matched == self.keys.len() {
                self.matched = 0;
                return Typed::Detach(out);
            }
        }
        Typed::Send(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notation() {
        assert_eq!(sequence(DEFAULT).expect("default"), [16, 17]);
        assert_eq!(sequence("a,ctrl-X,ctrl-@,ctrl-_").expect("signs"), [b'a', 24, 0, 31]);
        assert!(sequence("").expect("none").is_empty());
        for given in ["ctrl-", "ctrl-1", "ab", "ctrl-p,", ",", "é"] {
            assert!(sequence(given).is_err(), "{given}");
        }
    }

    #[test]
    fn finds_them_over_pieces() {
        let mut detacher = Detacher::new(vec![16, 17]);
        assert_eq!(detacher.take(b"ls\x10"), Typed::Send(b"ls".to_vec()));
        assert_eq!(detacher.take(b"\x10"), Typed::Send(b"\x10".to_vec()));
        assert_eq!(detacher.take(b"x"), Typed::Send(b"\x10x".to_vec()));
        assert_eq!(detacher.take(b"a\x10"), Typed::Send(b"a".to_vec()));
        assert_eq!(detacher.take(b"\x11rest"), Typed::Detach(Vec::new()));
    }

    #[test]
    fn repeats_inside_the_keys() {
        let mut detacher = Detacher::new(b"aab".to_vec());
        assert_eq!(detacher.take(b"aaab"), Typed::Detach(b"a".to_vec()));
        assert_eq!(detacher.take(b"aac"), Typed::Send(b"aac".to_vec()));
        let mut nothing = Detacher::new(Vec::new());
        assert_eq!(nothing.take(b"\x10\x11"), Typed::Send(b"\x10\x11".to_vec()));
    }
}
