//! Decoders of bytes from outside, as fuzzing calls them: each takes any bytes, and what it makes of
//! them has to hold together. Targets are in `tests/fuzz`; the tests here are a short sample of them.

use crate::drivers::{
    content::Digest,
    oci::{Document, Platform, Reference},
    registry::{Challenge, check_hosts, parse_challenge},
    signatures::{Key, Signature},
};

/// Manifests, indexes and configs.
pub fn documents(bytes: &[u8]) {
    let digest = Digest::of(bytes);
    let Ok(document) = Document::parse(bytes, &digest) else { return };
    match &document {
        Document::Manifest(manifest) => {
            let again = Document::parse(&manifest.to_bytes(), &digest).expect("it was one");
            assert_eq!(again, document, "what was read is what is written");
            let _ = manifest.check_layers();
        }
        Document::Index(index) => {
            let _ = index.choose(&Platform::host(), &digest);
        }
    }
    let _ = serde_json::from_slice::<oci_spec::image::ImageConfiguration>(bytes);
}

/// References, platforms, digests.
pub fn names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(reference) = text.parse::<Reference>() {
        let full = reference.to_string();
        assert_eq!(full.parse::<Reference>(), Ok(reference), "a full name is itself");
        assert!(!full.contains("/..") && !full.contains(char::is_whitespace), "{full}");
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse::<Platform>(), Ok(platform));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
        assert!(!digest.hex().contains(['/', '.']));
    }
}

/// `WWW-Authenticate`.
pub fn challenges(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for challenge in parse_challenge(&text) {
        if let Challenge::Bearer { realm, .. } = challenge {
            assert!(!realm.is_empty());
        }
    }
}

/// `hosts.toml`.
pub fn hosts(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let reference = "reg.lan:5000/team/app".parse().expect("a reference");
    if let Ok(count) = check_hosts(&text, &reference) {
        assert!(count >= 1, "the registry itself is always there");
    }
}

/// Keys and signatures.
pub fn signatures(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = Key::from_pem(&text);
    let _ = serde_json::from_slice::<Signature>(bytes);
}

#[cfg(test)]
mod tests {
    type Target = fn(&[u8]);

    const DOCUMENTS: &[&str] = &[
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"annotations":{"a":"b"}}]}"#,
        r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1,"platform":{"os":"linux","architecture":"arm","variant":"v7"}}]}"#,
        r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":{"Env":null}}"#,
    ];
    const NAMES: &[&str] = &[
        "alpine:3.20",
        "localhost:5000/team/app@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "[::1]:5000/a_b/c--d:T",
        "linux/arm64/v8",
    ];
    const CHALLENGES: &[&str] = &[
        r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a:pull""#,
        r#"Basic realm="a \"b\"", Bearer realm=x, Negotiate"#,
    ];
    const HOSTS: &[&str] = &[
        "server = \"https://a\"\n[host.\"http://b:1/c\"]\ncapabilities = [\"pull\"]\noverride_path = true\n\
         [host.\"http://b:1/c\".header]\nx = [\"y\"]\n",
    ];
    const SIGNATURES: &[&str] = &[
        "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----",
        r#"{"payload":"{}","signature":"MEQ="}"#,
    ];

    /// Seeds, and some thousand of their mutations, always the same.
    fn sample(target: Target, seeds: &[&str]) {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below.max(1) as u64).expect("below a usize")
        };
        let marks = b"\"\\{}[]:,=/@.\0\xff\n 09az";
        for seed in seeds {
            target(seed.as_bytes());
            for _ in 0..3000 {
                let mut bytes = seed.as_bytes().to_vec();
                for _ in 0..=next(6) {
                    let at = next(bytes.len());
                    match next(5) {
                        0 => bytes.truncate(at),
                        1 => bytes.insert(at, marks[next(marks.len())]),
                        2 if !bytes.is_empty() => bytes[at] = marks[next(marks.len())],
                        3 if !bytes.is_empty() => drop(bytes.remove(at)),
                        _ => {
                            let part = bytes[at..(at + next(40)).min(bytes.len())].to_vec();
                            let to = next(bytes.len());
                            bytes.splice(to..to, part);
                        }
                    }
                }
                target(&bytes);
            }
        }
    }

    #[test]
    fn a_sample_of_each() {
        let all: [(Target, &[&str]); 5] = [
            (super::documents, DOCUMENTS),
            (super::names, NAMES),
            (super::challenges, CHALLENGES),
            (super::hosts, HOSTS),
            (super::signatures, SIGNATURES),
        ];
        for (target, seeds) in all {
            sample(target, seeds);
        }
    }
}
