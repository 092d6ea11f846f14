//! The signature policy, with keys and signatures that openssl makes as cosign does.

use std::{fs, io, path::Path, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;
use wharf_proto::kind::Kind;
use wharf_supervisor::{
    drivers::{
        content::Digest,
        oci::Descriptor,
        registry::{Action, Session, Settings, Source},
        signatures::{ANNOTATION, Key, PAYLOAD_TYPE, Policy, Requirement, Rule, tag_of},
    },
    fault::{Fault as _, chain},
    services::images::{PushRequest, Reporter},
};

use crate::world::{Layer, Registry, World, docker_save, namespace, run, skip};

/// A key pair in files.
struct Signer {
    dir: tempfile::TempDir,
}

impl Signer {
    fn new() -> Self {
        let signer = Self { dir: tempfile::tempdir().expect("tempdir") };
        let key = signer.path("cosign.key");
        run(Command::new("openssl")
            .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"])
            .arg(&key));
        run(Command::new("openssl")
            .args(["ec", "-pubout", "-in"])
            .arg(&key)
            .arg("-out")
            .arg(signer.path("cosign.pub")));
        signer
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn key(&self) -> Key {
        Key::from_pem(&fs::read_to_string(self.path("cosign.pub")).expect("read")).expect("a key")
    }

    fn sign(&self, payload: &[u8]) -> String {
        let file = self.path("payload");
        fs::write(&file, payload).expect("write");
        let key = self.path("cosign.key");
        let signed = run(Command::new("openssl")
            .args(["dgst", "-sha256", "-sign"])
            .arg(&key)
            .arg(Path::new(&file)));
        STANDARD.encode(signed.stdout)
    }

    /// Puts a signature beside the image, as `cosign sign --key` does.
    async fn sign_in_registry(&self, reference: &str, named: &str, digest: &Digest) {
        let payload = json!({
            "critical": {
                "identity": {"docker-reference": named},
                "image": {"docker-manifest-digest": digest},
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        let payload = payload.to_string().into_bytes();
        let mut signed = descriptor(PAYLOAD_TYPE, &payload);
        signed.annotations.insert(ANNOTATION.into(), self.sign(&payload));
        let config = b"{}".to_vec();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [signed],
        });
        let reference = reference.parse().expect("a reference");
        let session = Session::new(&reference, None, &Settings::default(), Action::Push);
        let session = session.expect("session");
        for blob in [config, payload] {
            let descriptor = descriptor("", &blob);
            session.push_blob(&descriptor, &[], &Whole(blob)).await.expect("push");
        }
        let bytes = Bytes::from(manifest.to_string());
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        session.push_document(&tag_of(digest), media_type, &bytes).await.expect("push");
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        urls: Vec::new(),
        annotations: Default::default(),
        platform: None,
    }
}

struct Whole(Vec<u8>);

impl Source for Whole {
    fn open(&self, offset: u64) -> mpsc::Receiver<io::Result<Bytes>> {
        let (sender, receiver) = mpsc::channel(1);
        let offset = usize::try_from(offset).expect("small");
        sender.try_send(Ok(Bytes::copy_from_slice(&self.0[offset..]))).expect("there is room");
        receiver
    }
}

fn asking_for(keys: Vec<Key>, pattern: &str) -> Policy {
    let requirement = Requirement::Signature(keys);
    Policy { rules: vec![Rule { pattern: pattern.into(), requirement, identity: None }] }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_right_key_signed_is_pulled() {
    if skip(&["docker-registry", "openssl"]) {
        return;
    }
    let registry = Registry::start(None).expect("registry");
    let name = format!("{}/team/app", registry.address);
    let reference = format!("{name}:1");
    let archive = docker_save(&[Layer::new().file("name", "app").finish()], &[&reference]);
    let source = World::new();
    source.import(&archive, None).await.expect("import");
    let request = PushRequest { reference: reference.clone(), credentials: None };
    let pushed = source.images.push(&namespace(), &request, &Reporter::default()).await;
    let digest = pushed.expect("push").digest;
    let (ours, theirs) = (Signer::new(), Signer::new());
    let pattern = format!("{}/team/*", registry.address);
    let policy = || asking_for(vec![ours.key()], &pattern);
    let refused = async |why: &str| {
        let world = World::with_policy(policy());
        let error = world.pull(&reference).await.expect_err(why);
        assert_eq!(error.kind(), Kind::Denied, "{why}: {error:?}");
        assert_eq!(error.reason(), "SIGNATURE_POLICY");
        let text = chain(&error);
        assert!(text.contains(&reference) && text.contains(&pattern), "{why}: {text}");
        assert_eq!(world.images.count(), 0);
        assert!(world.list("snapshots/overlay/l").is_empty(), "{why}: nothing was fetched");
    };
    refused("no signature").await;
    theirs.sign_in_registry(&reference, &name, &digest).await;
    refused("another's signature").await;
    ours.sign_in_registry(&reference, &name, &Digest::of(b"another")).await;
    refused("another image's signature is elsewhere").await;
    let elsewhere = format!("{}/team/other", registry.address);
    ours.sign_in_registry(&reference, &elsewhere, &digest).await;
    refused("signed under another name").await;
    ours.sign_in_registry(&reference, &name, &digest).await;
    let world = World::with_policy(policy());
    let image = world.pull(&reference).await.expect("signed").image;
    assert_eq!(world.read(&image, "/name").as_deref(), Some("app"));
    world.images.resolve(&namespace(), &reference).await.expect("a container may be made");
    world.images.resolve(&namespace(), image.id.hex()).await.expect("by its id, too");
    assert!(world.pull(&reference).await.expect("again").up_to_date);
    // What the policy does not speak of is let in, and by its own name alone.
    let free = format!("{}/free/app:1", registry.address);
    let bad = docker_save(&[Layer::new().file("name", "bad").finish()], &[&free]);
    world.import(&bad, None).await.expect("nothing is asked of it");
    world.images.resolve(&namespace(), &free).await.expect("nor here");
    world.images.tag(&namespace(), &free, &reference).await.expect("a name is only a name");
    let error = world.images.resolve(&namespace(), &reference).await.expect_err("not the one");
    assert_eq!(error.reason(), "SIGNATURE_POLICY", "{error:?}");
}

#[tokio::test]
async fn an_archive_needs_what_a_pull_needs() {
    if skip(&["openssl"]) {
        return;
    }
    let signer = Signer::new();
    let world = World::with_policy(asking_for(vec![signer.key()], "reg.lan/*"));
    let layers = [Layer::new().file("name", "app").finish()];
    let error = world.import(&docker_save(&layers, &["reg.lan/app:1"]), None).await;
    let error = error.expect_err("no signature");
    assert_eq!(error.reason(), "SIGNATURE_POLICY", "{error:?}");
    assert_eq!(world.images.count(), 0);
    world.import(&docker_save(&layers, &["other.lan/app:1"]), None).await.expect("not covered");
}
