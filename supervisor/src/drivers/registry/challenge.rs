//! What a registry asks for when it answers 401: `WWW-Authenticate` (RFC 7235), read without I/O.

/// Bytes of a header that are looked at.
const MAX_LEN: usize = 8 << 10;
/// Challenges and parameters that are looked at.
const MAX_PARTS: usize = 64;

/// A way to log in that a registry offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// User name and password with each request.
    Basic,
    /// A token that is to be had elsewhere.
    Bearer {
        /// Where.
        realm: String,
        /// For whom.
        service: Option<String>,
        /// For what, in the registry's own words.
        scope: Option<String>,
    },
}

/// The challenges in one header's value, in their order. What is not understood is left out.
#[must_use]
pub fn parse(value: &str) -> Vec<Challenge> {
    let mut at = Cursor { text: truncated(value) };
    let mut challenges = Vec::new();
    for _ in 0..MAX_PARTS {
        at.skip(|c| c == ',' || c.is_ascii_whitespace());
        let scheme = at.token().to_ascii_lowercase();
        if scheme.is_empty() {
            break;
        }
        let parameters = at.parameters();
        let get = |name: &str| {
            let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone())
        };
        match &*scheme {
            "basic" => challenges.push(Challenge::Basic),
            "bearer" => {
                if let Some(realm) = get("realm").filter(|realm| !realm.is_empty()) {
                    let (service, scope) = (get("service"), get("scope"));
                    challenges.push(Challenge::Bearer { realm, service, scope });
                }
            }
            _ => {}
        }
    }
    challenges
}

fn truncated(text: &str) -> &str {
    let mut end = text.len().min(MAX_LEN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

struct Cursor<'a> {
    text: &'a str,
}

impl<'a> Cursor<'a> {
    fn skip(&mut self, unwanted: impl Fn(char) -> bool) {
        self.text = self.text.trim_start_matches(unwanted);
    }

    fn token(&mut self) -> &'a str {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let end = self.text.find(|c| !is_token(c)).unwrap_or(self.text.len());
        let (token, rest) = self.text.split_at(end);
        self.text = rest;
        token
    }

    /// `name=value` pairs up to the next scheme, which is a token with no `=` after it.
    fn parameters(&mut self) -> Vec<(&'a str, String)> {
        let mut parameters = Vec::new();
        while parameters.len() < MAX_PARTS {
            self.skip(|c| c == ',' || c.is_ascii_whitespace());
            let before = self.text;
            let name = self.token();
            self.skip(|c| c == ' ' || c == '\t');
            let Some(rest) = self.text.strip_prefix('=').filter(|_| !name.is_empty()) else {
                self.text = before;
                if name.is_empty() {
                    // Not a token, not a comma: whatever it is, it is passed over.
                    let mut rest = before.chars();
                    if rest.next().is_none() {
                        break;
                    }
                    self.text = rest.as_str();
                    continue;
                }
                break;
            };
            self.text = rest;
            self.skip(|c| c == ' ' || c == '\t');
            let value = match self.text.strip_prefix('"') {
                Some(rest) => {
                    self.text = rest;
                    self.quoted()
                }
                None => {
                    let end = self.text.find([',', ' ', '\t']).unwrap_or(self.text.len());
                    let (value, rest) = self.text.split_at(end);
                    self.text = rest;
                    value.to_owned()
                }
            };
            parameters.push((name, value));
        }
        parameters
    }

    fn quoted(&mut self) -> String {
        let mut value = String::new();
        let mut chars = self.text.char_indices();
        let mut end = self.text.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => value.extend(chars.next().map(|(_, c)| c)),
                c => value.push(c),
            }
        }
        self.text = &self.text[end..];
        value
    }
}

#[cfg(test)]
mod tests {
    use super::{Challenge, parse};

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.into(), service: owned(service), scope: owned(scope) }
    }

    #[test]
    fn what_registries_say() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull,push""#;
        for (text, expected) in [
            (
                hub,
                vec![bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:library/alpine:pull,push"),
                )],
            ),
            (r#"Basic realm="Registry, of \"ours\"""#, vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                r#"Basic realm="x", Bearer realm="https://t/", error="invalid_token""#,
                vec![Challenge::Basic, bearer("https://t/", None, None)],
            ),
            (
                "Negotiate, BEARER realm = https://t/ , service=s",
                vec![bearer("https://t/", Some("s"), None)],
            ),
            (r#"Bearer service="no realm""#, vec![]),
            (
                r#"Bearer realm="https://never ended"#,
                vec![bearer("https://never ended", None, None)],
            ),
            ("Digest qop=\"auth\", nonce=\"=\"", vec![]),
            ("", vec![]),
            (",,, ,", vec![]),
            ("ä Bearer realm=\"x\"", vec![]),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn long_ones_end() {
        for part in ["a ", "a=", "Bearer realm=\"x\",", "\"", "\\", "ä", "=,", "Basic "] {
            let text = part.repeat(100_000);
            assert!(parse(&text).len() <= super::MAX_PARTS, "{part}");
        }
    }
}
