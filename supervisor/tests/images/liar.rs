//! A registry of our own on loopback that does whatever a test tells it to: HTTP/1.1 by hand, so that
//! it can lie in ways that no library would.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use wharf_supervisor::drivers::content::Digest;

/// What came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With the query.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Whether it carries what only the registry itself may see.
    pub(crate) fn has_secrets(&self) -> bool {
        ["authorization", "x-secret", "cookie"].iter().any(|name| self.headers.contains_key(*name))
    }
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// In place of the body's length.
    pub(crate) length: Option<u64>,
    /// The body again and again, until nobody listens.
    pub(crate) endless: bool,
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::new(200) }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// The body of a request as it comes.
pub(crate) type Body<'a> = &'a mut dyn Read;

/// The registry; it lives as long as the process.
pub(crate) struct Liar {
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Liar {
    /// `answer` is called for each request; None breaks the connection off.
    pub(crate) fn start(
        answer: impl Fn(&Asked, Body<'_>) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                std::thread::spawn(move || {
                    // Whoever hangs up has had enough.
                    let _ = serve(stream, &*answer, &log);
                });
            }
        });
        Self { address, asked }
    }

    /// All that was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no test panics with it").clone()
    }

    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        let asked = self.asked();
        asked.iter().filter(|a| a.method == method && a.target.contains(part)).count()
    }
}

fn serve(
    stream: TcpStream,
    answer: &dyn Fn(&Asked, Body<'_>) -> Option<Answer>,
    log: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let mut asked = Asked {
            method: words.next().unwrap_or_default().into(),
            target: words.next().unwrap_or_default().into(),
            headers: BTreeMap::new(),
        };
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            asked.headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let length = asked.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        log.lock().expect("no test panics with it").push(asked.clone());
        let mut body = reader.by_ref().take(length);
        let Some(answer) = answer(&asked, &mut body) else { return Ok(()) };
        std::io::copy(&mut body, &mut std::io::sink())?;
        let length = answer.length.unwrap_or(answer.body.len() as u64);
        let mut head = format!("HTTP/1.1 {} Word\r\n", answer.status);
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &match answer.endless {
            true => "connection: close\r\n\r\n".to_owned(),
            false => format!("content-length: {length}\r\n\r\n"),
        };
        writer.write_all(head.as_bytes())?;
        if asked.method == "HEAD" {
            continue;
        }
        writer.write_all(&answer.body)?;
        if answer.endless {
            loop {
                writer.write_all(&answer.body)?;
            }
        }
        if length != answer.body.len() as u64 {
            return Ok(());
        }
    }
}

/// An image as a registry has it.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) manifest: Vec<u8>,
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    /// Digest of the layer.
    pub(crate) layer: String,
}

impl Served {
    /// One layer of this kind.
    pub(crate) fn new(layer: &[u8], media_type: &str) -> Self {
        let config = crate::world::config_of(&[layer.to_vec()]).into_bytes();
        let digest = |bytes: &[u8]| Digest::of(bytes).to_string();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(&config), "size": config.len(),
            },
            "layers": [{"mediaType": media_type, "digest": digest(layer), "size": layer.len()}],
        });
        Self {
            manifest: manifest.to_string().into_bytes(),
            blobs: [(digest(&config), config), (digest(layer), layer.to_vec())].into(),
            layer: digest(layer),
        }
    }

    pub(crate) fn plain(layer: &[u8]) -> Self {
        Self::new(layer, "application/vnd.oci.image.layer.v1.tar")
    }

    /// What an honest registry answers; ranges are served.
    pub(crate) fn answer(&self, asked: &Asked) -> Answer {
        let path = asked.target.split('?').next().unwrap_or_default();
        if path.contains("/manifests/") {
            return Answer::ok(self.manifest.clone());
        }
        let Some(blob) = path.rsplit_once("/blobs/").and_then(|(_, d)| self.blobs.get(d)) else {
            return Answer::new(404);
        };
        let from = asked
            .header("range")
            .and_then(|range| range.strip_prefix("bytes=")?.trim_end_matches('-').parse().ok());
        match from {
            None => Answer::ok(blob.clone()),
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
                let part: Vec<u8> = blob.get(from..).unwrap_or_default().to_vec();
                Answer { status: 206, ..Answer::ok(part) }.header("content-range", range)
            }
        }
    }
}
