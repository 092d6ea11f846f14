//! Signatures of images as cosign makes them with a key: a small JSON document that names the image's
//! digest ("simple signing"), signed with ECDSA on P-256, beside the image under the tag
//! `sha256-<digest>.sig`. And the policy that says which images need one. No I/O.

use std::{fmt, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::drivers::{content::Digest, oci::Reference};

/// Media type of the document that is signed.
pub const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Where its signature stands.
pub const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// Signatures of one image that are looked at.
pub const MAX_SIGNATURES: usize = 32;
const KIND: &str = "cosign container image signature";
/// SubjectPublicKeyInfo of a P-256 key up to the point itself (RFC 5480).
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Uncompressed.
const POINT_LEN: usize = 65;

/// Tag of the signatures of what has this digest.
#[must_use]
pub fn tag_of(digest: &Digest) -> String {
    format!("{}-{}.sig", digest.algorithm().as_str(), digest.hex())
}

/// A signature and what it signs, as they came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The signed document.
    pub payload: String,
    /// In base64.
    pub signature: String,
}

/// Why a key is no good.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is not one of PEM's public keys.
    #[error("not a PUBLIC KEY in PEM")]
    Pem,
    /// Cosign's default is needed.
    #[error("not a key of ECDSA on P-256, which is what cosign makes")]
    Kind,
}

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    point: [u8; POINT_LEN],
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&Digest::of(&self.point)).finish()
    }
}

impl Key {
    /// From PEM, as `cosign.pub` is.
    ///
    /// # Errors
    /// When it is no such key.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let body = text
            .split_once("-----BEGIN PUBLIC KEY-----")
            .and_then(|(_, rest)| rest.split_once("-----END PUBLIC KEY-----"))
            .map(|(body, _)| body.split_whitespace().collect::<String>());
        let der = STANDARD.decode(body.ok_or(KeyError::Pem)?).map_err(|_| KeyError::Pem)?;
        let point = der.strip_prefix(&P256_PREFIX).ok_or(KeyError::Kind)?;
        Ok(Self { point: point.try_into().map_err(|_| KeyError::Kind)? })
    }

    fn has_signed(&self, signature: &Signature) -> bool {
        let Ok(bytes) = STANDARD.decode(signature.signature.trim()) else { return false };
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point);
        key.verify(signature.payload.as_bytes(), &bytes).is_ok()
    }
}

/// What an image needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Nothing.
    Nothing,
    /// No image is good enough.
    Never,
    /// A signature by one of these keys.
    Signature(Vec<Key>),
}

/// What images need whose repository matches a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// REGISTRY/REPOSITORY, with `*` for any characters.
    pub pattern: String,
    /// What they need.
    pub requirement: Requirement,
    /// The repository that the signature has to name, if not the image's own: of images that were
    /// copied from there.
    pub identity: Option<String>,
}

/// Rules; the first that matches is the one that counts. Where none matches nothing is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// In the order of the file.
    pub rules: Vec<Rule>,
}

/// Why an image is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// By the policy's own word.
    #[error("the signature policy lets no image of {pattern} in")]
    Never {
        /// Of the rule.
        pattern: String,
    },
    /// Not one.
    #[error("it has no signature, and the signature policy for {pattern} asks for one")]
    Unsigned {
        /// Of the rule.
        pattern: String,
    },
    /// None that counts.
    #[error(
        "none of its {count} signatures counts under the signature policy for {pattern}: {last}"
    )]
    Wrong {
        /// Of the rule.
        pattern: String,
        /// How many it has.
        count: usize,
        /// What is wrong with the last.
        last: &'static str,
    },
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: Signed,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference", default)]
    reference: String,
}

#[derive(Deserialize)]
struct Signed {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

impl Policy {
    /// What holds for an image of this name; None: nothing.
    #[must_use]
    pub fn rule(&self, reference: &Reference) -> Option<&Rule> {
        let name = reference.name();
        let rule = self.rules.iter().find(|rule| matches(&rule.pattern, &name))?;
        (rule.requirement != Requirement::Nothing).then_some(rule)
    }
}

impl Rule {
    /// Whether an image may be used: one of `digests` is its, and `signatures` are what there is.
    ///
    /// # Errors
    /// When it may not.
    pub fn check(
        &self,
        reference: &Reference,
        digests: &[&Digest],
        signatures: &[Signature],
    ) -> Result<(), Refusal> {
        let pattern = self.pattern.clone();
        let keys = match &self.requirement {
            Requirement::Nothing => return Ok(()),
            Requirement::Never => return Err(Refusal::Never { pattern }),
            Requirement::Signature(keys) => keys,
        };
        let expected = self.identity.clone().unwrap_or_else(|| reference.name());
        let mut last = None;
        for signature in signatures {
            match judge(signature, keys, digests, &expected) {
                Ok(()) => return Ok(()),
                Err(problem) => last = Some(problem),
            }
        }
        let count = signatures.len();
        Err(match last {
            None => Refusal::Unsigned { pattern },
            Some(last) => Refusal::Wrong { pattern, count, last },
        })
    }
}

/// The signature first: nothing of an unsigned document is read.
fn judge(
    signature: &Signature,
    keys: &[Key],
    digests: &[&Digest],
    expected: &str,
) -> Result<(), &'static str> {
    if !keys.iter().any(|key| key.has_signed(signature)) {
        return Err("it is by none of the keys");
    }
    let payload: Payload = serde_json::from_str(&signature.payload)
        .map_err(|_| "what is signed is no document of cosign's")?;
    let critical = payload.critical;
    if critical.kind != KIND {
        return Err("what is signed is no image");
    }
    if !digests.iter().any(|digest| digest.to_string() == critical.image.digest) {
        return Err("it is another image that is signed");
    }
    let named = critical.identity.reference.parse::<Reference>().map(|named| named.name());
    if named.as_deref() != Ok(expected) {
        return Err("it is signed under another name");
    }
    Ok(())
}

/// `*` is any number of any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// A rule as the configuration has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleFile {
    /// See [`Rule::pattern`].
    pub pattern: String,
    /// Files of public keys.
    #[serde(default)]
    pub keys: Vec<PathBuf>,
    /// "signature", "nothing" or "never".
    #[serde(default)]
    pub require: Require,
    /// See [`Rule::identity`].
    pub identity: Option<String>,
}

/// The word for a requirement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Require {
    /// By one of the keys.
    #[default]
    Signature,
    /// All are let in.
    Nothing,
    /// None is.
    Never,
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
    };

    use super::*;

    fn pair() -> (EcdsaKeyPair, Key) {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random);
        let pkcs8 = pkcs8.expect("a key");
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random);
        let pair = pair.expect("a key");
        let der = [&P256_PREFIX[..], pair.public_key().as_ref()].concat();
        let pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(der)
        );
        (pair, Key::from_pem(&pem).expect("a key of cosign's kind"))
    }

    fn signed(pair: &EcdsaKeyPair, name: &str, digest: &Digest, kind: &str) -> Signature {
        let payload = serde_json::json!({
            "critical": {
                "identity": {"docker-reference": name},
                "image": {"docker-manifest-digest": digest},
                "type": kind,
            },
            "optional": null,
        })
        .to_string();
        let made = pair.sign(&SystemRandom::new(), payload.as_bytes()).expect("signs");
        Signature { payload, signature: STANDARD.encode(made) }
    }

    #[test]
    fn a_signature_has_to_be_right_in_everything() {
        let (pair, key) = pair();
        let (_, other_key) = super::tests::pair();
        let digest = Digest::of(b"image");
        let reference: Reference = "reg.lan/team/app:1".parse().expect("a reference");
        let rule = |keys| Rule {
            pattern: "reg.lan/*".into(),
            requirement: Requirement::Signature(keys),
            identity: None,
        };
        let good = signed(&pair, "reg.lan/team/app", &digest, KIND);
        let check = |keys: Vec<Key>, signature: &Signature| {
            rule(keys).check(&reference, &[&digest], std::slice::from_ref(signature))
        };
        assert_eq!(check(vec![other_key.clone(), key.clone()], &good), Ok(()));
        let tampered = Signature { payload: good.payload.replace("null", "{}"), ..good.clone() };
        let cut = Signature { signature: good.signature[..20].into(), ..good.clone() };
        let other_image = signed(&pair, "reg.lan/team/app", &Digest::of(b"other"), KIND);
        let other_name = signed(&pair, "reg.lan/team/bad", &digest, KIND);
        let other_kind = signed(&pair, "reg.lan/team/app", &digest, "atomic container signature");
        for (keys, signature) in [
            (vec![other_key], &good),
            (vec![], &good),
            (vec![key.clone()], &tampered),
            (vec![key.clone()], &cut),
            (vec![key.clone()], &other_image),
            (vec![key.clone()], &other_name),
            (vec![key.clone()], &other_kind),
        ] {
            let refused = check(keys, signature);
            assert!(matches!(refused, Err(Refusal::Wrong { count: 1, .. })), "{refused:?}");
        }
        let copied = Rule { identity: Some("reg.lan/team/bad".into()), ..rule(vec![key.clone()]) };
        assert_eq!(copied.check(&reference, &[&digest], &[other_name]), Ok(()));
        let unsigned = rule(vec![key]).check(&reference, &[&digest], &[]);
        assert!(matches!(unsigned, Err(Refusal::Unsigned { .. })), "{unsigned:?}");
    }

    #[test]
    fn patterns() {
        for (pattern, name, is_match) in [
            ("*", "docker.io/library/alpine", true),
            ("docker.io/library/alpine", "docker.io/library/alpine", true),
            ("docker.io/library/alpine", "docker.io/library/alpine2", false),
            ("docker.io/library/*", "docker.io/library/alpine", true),
            ("docker.io/library/*", "docker.io/team/alpine", false),
            ("*/app", "reg.lan/team/app", true),
            ("reg.lan/*/app", "reg.lan/a/b/app", true),
            ("reg.lan/*/app", "reg.lan/app", false),
            ("a*a", "a", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), is_match, "{pattern} {name}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rule = |pattern: &str, requirement| Rule {
            pattern: pattern.into(),
            requirement,
            identity: None,
        };
        let rules = vec![
            rule("reg.lan/free/*", Requirement::Nothing),
            rule("reg.lan/*", Requirement::Never),
        ];
        let policy = Policy { rules };
        let rule = |name: &str| policy.rule(&name.parse().expect("a reference"));
        assert_eq!(rule("reg.lan/free/app"), None);
        assert_eq!(rule("docker.io/app"), None);
        let never = rule("reg.lan/app").expect("a rule");
        let reference = "reg.lan/app".parse().expect("a reference");
        assert!(matches!(never.check(&reference, &[], &[]), Err(Refusal::Never { .. })));
    }

    #[test]
    fn keys_of_other_kinds_are_refused() {
        for text in [
            "",
            "-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----",
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----",
            "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----",
        ] {
            assert!(Key::from_pem(text).is_err(), "{text}");
        }
    }
}
