//! A registry that lies, and redirects that lead away: nothing that it says is believed, and nobody
//! else is told a secret.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use wharf_proto::kind::Kind;
use wharf_supervisor::{
    drivers::registry::Credentials,
    fault::Fault as _,
    services::images::{Error, PullRequest, Pulled, Reporter},
};

use crate::{
    liar::{Answer, Asked, Liar, Served},
    world::{Layer, World, namespace, noise, skip, wait_for},
};

fn layer() -> Vec<u8> {
    Layer::new().file("name", "honest").file("noise", &noise(1)).finish()
}

async fn pull_as(world: &World, reference: &str, user: &str) -> Result<Pulled, Error> {
    let mut request = PullRequest::new(reference);
    request.credentials = Some(Credentials::password(user, "secret-word"));
    world.images.pull(&namespace(), &request, &Reporter::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_never_carry_secrets_to_another_host() {
    if skip(&[]) {
        return;
    }
    let served = Served::plain(&layer());
    let storage = {
        let served = served.clone();
        Liar::start(move |asked, _| {
            let path = asked.target.replace("/signed/", "/blobs/");
            Some(served.answer(&Asked { target: path, ..asked.clone() }))
        })
    };
    let to = storage.address.clone();
    let registry = Liar::start(move |asked, _| {
        let challenge = "Basic realm=\"here\"";
        if asked.header("authorization").is_none() {
            return Some(Answer::new(401).header("www-authenticate", challenge));
        }
        if asked.target.contains("/blobs/") {
            let digest = asked.target.rsplit('/').next().unwrap_or_default();
            let location = format!("http://{to}/signed/{digest}");
            return Some(Answer::new(307).header("location", location));
        }
        Some(served.answer(asked))
    });
    let world = World::new();
    let server = format!("server = \"http://{}\"\n", registry.address);
    world.hosts(&registry.address, &(server + "[header]\nx-secret = \"of the registry\"\n"));
    let pulled = pull_as(&world, &format!("{}/app:1", registry.address), "me").await;
    let pulled = pulled.expect("pull").image;
    assert_eq!(world.read(&pulled, "/name").as_deref(), Some("honest"));
    assert!(storage.count("GET", "/signed/") >= 2, "the blobs came from elsewhere");
    for asked in storage.asked() {
        assert!(!asked.has_secrets(), "{asked:?}");
        assert!(!format!("{asked:?}").contains("secret-word"), "{asked:?}");
    }
    assert!(registry.asked().iter().all(|a| a.header("x-secret") == Some("of the registry")));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_end() {
    if skip(&[]) {
        return;
    }
    let world = World::new();
    for location in
        ["/v2/app/manifests/1", "ftp://elsewhere/x", "file:///etc/passwd", "", "http://"]
    {
        let registry = Liar::start(move |_, _| Some(Answer::new(302).header("location", location)));
        let error = world.pull(&format!("{}/app:1", registry.address)).await.expect_err("no end");
        assert_eq!(error.kind(), Kind::Corrupt, "{location}: {error:?}");
        assert!(registry.asked().len() < 10);
    }
}

/// The kind of what comes of a pull from a registry that changes what an honest one answers.
async fn pull_from(
    served: &Served,
    lie: impl Fn(&Asked, Answer) -> Option<Answer> + Send + Sync + 'static,
) -> Result<(), (Kind, String)> {
    let honest = served.clone();
    let registry = Liar::start(move |asked, _| lie(asked, honest.answer(asked)));
    let world = World::new();
    let pulled = world.pull(&format!("{}/app:1", registry.address)).await;
    match pulled {
        Ok(pulled) => {
            assert_eq!(world.read(&pulled.image, "/name").as_deref(), Some("honest"));
            Ok(())
        }
        Err(error) => {
            assert_eq!(world.images.count(), 0);
            Err((error.kind(), wharf_supervisor::fault::chain(&error)))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_bytes_are_found_out() {
    if skip(&[]) {
        return;
    }
    let served = Served::plain(&layer());
    let blob = served.layer.clone();
    pull_from(&served, |_, answer| Some(answer)).await.expect("an honest one");

    let digest = blob.clone();
    let wrong = pull_from(&served, move |asked, mut answer| {
        if asked.target.contains(&digest) {
            let middle = answer.body.len() / 2;
            answer.body[middle] ^= 1;
        }
        Some(answer)
    });
    let (kind, text) = wrong.await.expect_err("another byte");
    assert_eq!(kind, Kind::Corrupt, "{text}");
    assert!(text.contains(&blob), "{text}");

    let digest = blob.clone();
    let longer = pull_from(&served, move |asked, mut answer| {
        if asked.target.contains(&digest) {
            answer.body.extend(vec![0; 100_000]);
        }
        Some(answer)
    });
    // What is too much is not read: the blob is what its digest says.
    longer.await.expect("the bytes that count are right");

    let digest = blob.clone();
    let endless = pull_from(&served, move |asked, mut answer| {
        if asked.target.contains(&digest) {
            answer.endless = true;
        }
        Some(answer)
    });
    endless.await.expect("the bytes that count are right");

    let digest = blob.clone();
    let shorter = pull_from(&served, move |asked, mut answer| {
        if asked.target.contains(&digest) {
            answer.length = Some(answer.body.len() as u64);
            answer.body.truncate(answer.body.len().div_ceil(2));
        }
        Some(answer)
    });
    // It breaks off, goes on, breaks off: as long as something comes it goes on.
    shorter.await.expect("half of what is left each time");
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_ranges_are_found_out() {
    if skip(&[]) {
        return;
    }
    let served = Served::plain(&layer());
    let broken = |answer: &mut Answer| {
        answer.length = Some(answer.body.len() as u64);
        answer.body.truncate(answer.body.len() / 2);
    };
    let digest = served.layer.clone();
    let (kind, text) = pull_from(&served, move |asked, mut answer| {
        if asked.target.contains(&digest) {
            match asked.header("range") {
                None => broken(&mut answer),
                Some(_) => {
                    answer.headers = vec![("content-range".into(), "bytes 0-9/10".into())];
                }
            }
        }
        Some(answer)
    })
    .await
    .expect_err("another range");
    assert_eq!(kind, Kind::Corrupt, "{text}");
    // One that knows no ranges gives the whole again: what is had is passed over.
    let (digest, whole) = (served.layer.clone(), served.blobs[&served.layer].clone());
    pull_from(&served, move |asked, mut answer| {
        if asked.target.contains(&digest) {
            match asked.header("range") {
                None => broken(&mut answer),
                Some(_) => answer = Answer::ok(whole.clone()),
            }
        }
        Some(answer)
    })
    .await
    .expect("the whole again");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_have_an_end() {
    if skip(&[]) {
        return;
    }
    let served = Served::plain(&layer());
    let huge = pull_from(&served, |asked, mut answer| {
        if asked.target.contains("/manifests/") {
            answer.endless = true;
        }
        Some(answer)
    });
    let (kind, text) = huge.await.expect_err("a manifest without end");
    assert_eq!(kind, Kind::Corrupt, "{text}");
    let said = pull_from(&served, |asked, mut answer| {
        if asked.target.contains("/manifests/") {
            answer.length = Some(1 << 40);
        }
        Some(answer)
    });
    let (kind, text) = said.await.expect_err("a manifest that is said to be huge");
    assert_eq!(kind, Kind::Corrupt, "{text}");
    let headers =
        pull_from(&served, |_, answer| Some(answer.header("x-long", "x".repeat(4 << 20))));
    let (_, text) = headers.await.expect_err("headers without end");
    assert!(text.len() < 2000, "{}", text.len());
    let error_page = pull_from(&served, |_, _| {
        Some(Answer { endless: true, body: vec![b'x'; 1 << 16], ..Answer::new(403) })
    });
    let (kind, text) = error_page.await.expect_err("an error without end");
    assert_eq!(kind, Kind::Denied, "{text}");
    assert!(text.len() < 2000, "{}", text.len());
    // A config larger than any, as the manifest says.
    let mut large = served.clone();
    let text =
        String::from_utf8(large.manifest).expect("JSON").replacen("\"size\":", "\"size\":9", 1);
    large.manifest = text.replacen("\"size\":9", "\"size\":99999", 1).into_bytes();
    let (kind, text) =
        pull_from(&large, |_, answer| Some(answer)).await.expect_err("a huge config");
    assert!(matches!(kind, Kind::Corrupt | Kind::Exhausted), "{kind:?} {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_has_had_enough_is_left_alone() {
    if skip(&[]) {
        return;
    }
    let served = Served::plain(&layer());
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let passing = pull_from(&served, move |asked, answer| {
        let first =
            asked.target.contains("/manifests/") && counter.fetch_add(1, Ordering::AcqRel) == 0;
        Some(if first { Answer::new(429).header("retry-after", "1") } else { answer })
    });
    passing.await.expect("the second time it answers");
    assert_eq!(count.load(Ordering::Acquire), 2);
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let hours = pull_from(&served, move |_, _| {
        counter.fetch_add(1, Ordering::AcqRel);
        Some(Answer::new(429).header("retry-after", "21600"))
    });
    let (kind, text) = hours.await.expect_err("nobody waits for hours");
    assert_eq!((kind, count.load(Ordering::Acquire)), (Kind::Exhausted, 1), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_where_that_is_safe() {
    if skip(&[]) {
        return;
    }
    let served = Served::plain(&layer());
    let tokens = Liar::start(|asked, _| {
        let is_me = asked.header("authorization") == Some("Basic bWU6c2VjcmV0LXdvcmQ=");
        Some(if is_me && asked.target.contains("scope=repository%3Aapp%3Apull") {
            Answer::ok(r#"{"token": "good", "expires_in": 300}"#)
        } else {
            Answer::new(401)
        })
    });
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", tokens.address);
    let registry = {
        let served = served.clone();
        Liar::start(move |asked, _| {
            Some(match asked.header("authorization") {
                Some("Bearer good") => served.answer(asked),
                _ => Answer::new(401).header("www-authenticate", realm.clone()),
            })
        })
    };
    let world = World::new();
    let reference = format!("{}/app:1", registry.address);
    let pulled = pull_as(&world, &reference, "me").await.expect("pull").image;
    assert_eq!(world.read(&pulled, "/name").as_deref(), Some("honest"));
    assert_eq!(tokens.asked().len(), 1, "one token serves all");
    let error = pull_as(&World::new(), &reference, "you").await.expect_err("another's name");
    assert_eq!(error.kind(), Kind::Unauthenticated, "{error:?}");
    // The password itself never goes where a token is wanted.
    assert!(registry.asked().iter().all(|a| !format!("{a:?}").contains("Basic ")));
}

#[tokio::test(flavor = "multi_thread")]
async fn tricks_of_token_services_come_to_nothing() {
    if skip(&[]) {
        return;
    }
    let elsewhere = Liar::start(|_, _| Some(Answer::ok("{\"token\": \"x\"}")));
    let to = format!("http://{}/", elsewhere.address);
    let tricks: Vec<(&str, Answer)> = vec![
        ("a redirect", Answer::new(302).header("location", to.clone())),
        ("no end", Answer { endless: true, ..Answer::ok(vec![b' '; 1 << 16]) }),
        ("no JSON", Answer::ok("token")),
        ("an empty token", Answer::ok("{\"token\": \"\"}")),
        ("a header in it", Answer::ok("{\"token\": \"x\\r\\nx-evil: 1\"}")),
        ("nothing", Answer::new(500)),
    ];
    for (what, trick) in tricks {
        let registry = Liar::start(move |asked, _| {
            if asked.target.starts_with("/token") {
                return Some(trick.clone());
            }
            let challenge = "Bearer realm=\"/token\"";
            Some(Answer::new(401).header("www-authenticate", challenge))
        });
        let world = World::new();
        let reference = format!("{}/app:1", registry.address);
        pull_as(&world, &reference, "me").await.expect_err(what);
        assert!(registry.asked().len() < 30, "{what}: it goes on and on");
    }
    assert!(elsewhere.asked().is_empty(), "a password went elsewhere: {:?}", elsewhere.asked());
    // A token that is never good ends, too.
    let registry = Liar::start(move |asked, _| {
        Some(if asked.target.starts_with("/token") {
            Answer::ok("{\"token\": \"x\"}")
        } else {
            Answer::new(401).header("www-authenticate", "Bearer realm=\"/token\"")
        })
    });
    let error = pull_as(&World::new(), &format!("{}/app:1", registry.address), "me").await;
    assert_eq!(error.expect_err("never good").kind(), Kind::Unauthenticated);
    assert!(registry.asked().len() < 6, "{:?}", registry.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_download_serves_all_that_want_the_blob() {
    if skip(&[]) {
        return;
    }
    let served = Served::plain(&layer());
    let (honest, digest) = (served.clone(), served.layer.clone());
    let registry = Liar::start(move |asked, _| {
        if asked.target.contains(&digest) {
            // Long enough for all of them to be there.
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        Some(honest.answer(asked))
    });
    let world = Arc::new(World::new());
    let mut pulls = tokio::task::JoinSet::new();
    for name in ["a:1", "a:2", "b:1", "c:1", "a:1"] {
        let (world, reference) = (Arc::clone(&world), format!("{}/{name}", registry.address));
        pulls.spawn(async move { world.pull(&reference).await });
    }
    while let Some(pulled) = pulls.join_next().await {
        let image = pulled.expect("no panic").expect("pull").image;
        assert_eq!(world.read(&image, "/name").as_deref(), Some("honest"));
    }
    assert_eq!(registry.count("GET", &served.layer), 1, "{:?}", registry.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_in_another_life() {
    if skip(&[]) {
        return;
    }
    let noise: String = (0..20).map(noise).collect();
    let served = Served::plain(&Layer::new().file("name", "honest").file("noise", &noise).finish());
    let is_ill = Arc::new(AtomicBool::new(true));
    let (honest, digest, ill) = (served.clone(), served.layer.clone(), Arc::clone(&is_ill));
    let registry = Liar::start(move |asked, _| {
        let mut answer = honest.answer(asked);
        if asked.target.contains(&digest) && ill.load(Ordering::Acquire) {
            if asked.header("range").is_some() {
                return Some(Answer::new(404));
            }
            answer.length = Some(answer.body.len() as u64);
            answer.body.truncate(answer.body.len() / 2);
        }
        Some(answer)
    });
    let reference = format!("{}/app:1", registry.address);
    let world = World::new();
    world.pull(&reference).await.expect_err("half of it");
    wait_for(|| (world.list("content/ingest").len() == 1).then_some(()));
    is_ill.store(false, Ordering::Release);
    let world = world.restart();
    let image = world.pull(&reference).await.expect("the other half").image;
    assert_eq!(world.read(&image, "/name").as_deref(), Some("honest"));
    let asked = registry.asked();
    let ranges: Vec<_> = asked
        .iter()
        .filter(|a| a.target.contains(&served.layer))
        .map(|a| a.header("range").map(str::to_owned))
        .collect();
    let half = format!("bytes={}-", served.blobs[&served.layer].len() / 2);
    assert_eq!(ranges.last(), Some(&Some(half)), "{ranges:?}");
    assert!(world.list("content/ingest").is_empty());

    // What was left is not believed: bytes that rotted are fetched again.
    is_ill.store(true, Ordering::Release);
    let world = World::new();
    world.pull(&reference).await.expect_err("half of it");
    let part = wait_for(|| world.list("content/ingest").pop());
    let part = world.dir.path().join("content/ingest").join(part);
    let mut bytes = std::fs::read(&part).expect("read");
    bytes[700_000] ^= 1;
    std::fs::write(&part, bytes).expect("rot");
    is_ill.store(false, Ordering::Release);
    let image = world.pull(&reference).await.expect("all of it").image;
    assert_eq!(world.read(&image, "/name").as_deref(), Some("honest"));
}
