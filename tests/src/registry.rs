//! Debian's docker-registry on a free loopback port, and a push over plain HTTP.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::{host, image::Image, wait};

/// A registry of its own; gone with its files on drop.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Registry {
    /// Whether Debian's docker-registry is installed; if not, why a test that needs it is skipped.
    #[must_use]
    pub fn missing() -> Option<&'static str> {
        if host::tool("docker-registry").is_some() {
            return None;
        }
        Some("no docker-registry here: install Debian's package docker-registry")
    }

    /// Starts a registry and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed or does not answer in time.
    pub async fn start() -> Result<Self> {
        Self::start_with("", 200).await
    }

    /// One that asks for a user and a password: `users` has lines of htpasswd, in bcrypt.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub async fn start_with_users(users: &str) -> Result<Self> {
        Self::start_with(users, 401).await
    }

    async fn start_with(users: &str, answers: u16) -> Result<Self> {
        let program = host::tool("docker-registry").context("docker-registry is not installed")?;
        let folder = TempDir::with_prefix("w-registry-").context("make the registry's folder")?;
        // The port may be taken by another between here and the registry's own bind: it fails then,
        // and so does the test, by name.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let config = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
             delete: {{enabled: true}}\nhttp: {{addr: '{address}'}}\n",
            folder.path().join("data").display()
        );
        let config = match users {
            "" => config,
            users => {
                let path = folder.path().join("users");
                std::fs::write(&path, users).context("write the registry's users")?;
                config + &format!("auth: {{htpasswd: {{realm: w, path: {}}}}}\n", path.display())
            }
        };
        let config_path = folder.path().join("config.yml");
        std::fs::write(&config_path, config).context("write the registry's config")?;
        let log = File::create(folder.path().join("log")).context("make the registry's log")?;
        let child = Command::new(program)
            .arg("serve")
            .arg(&config_path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start docker-registry")?;
        let registry = Self { child, address, folder };
        wait::until_now("docker-registry answers", || {
            Ok(registry.request("GET", "/v2/", "", &[]).ok().filter(|a| a.status == answers))
        })
        .await?;
        Ok(registry)
    }

    /// "127.0.0.1:port"
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// "127.0.0.1:port/name"
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Pushes an image as `repository`:`tag`.
    ///
    /// # Errors
    /// When the registry refuses a blob or the manifest.
    pub fn push(&self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        for blob in image.layers.iter().map(|l| &l.blob).chain([&image.config]) {
            let begun =
                self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), "", &[])?;
            let location = begun.header("location").context("no upload location")?;
            let target = location
                .strip_prefix(&format!("http://{}", self.address))
                .unwrap_or(&location)
                .to_owned();
            let sep = if target.contains('?') { '&' } else { '?' };
            let target = format!("{target}{sep}digest={}", blob.digest);
            self.request("PUT", &target, "application/octet-stream", &blob.bytes)?
                .expect(201, "upload of a blob")?;
        }
        self.request(
            "PUT",
            &format!("/v2/{repository}/manifests/{tag}"),
            image.manifest.media_type,
            &image.manifest.bytes,
        )?
        .expect(201, "upload of a manifest")
    }

    /// Changes one byte of a blob where the registry keeps it, so that it serves what is not what
    /// its digest says.
    ///
    /// # Errors
    /// When the blob is not there.
    pub fn corrupt(&self, digest: &str) -> Result<()> {
        let path = self.blob_path(digest)?;
        let mut bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let middle = bytes.len() / 2;
        *bytes.get_mut(middle).context("empty blob")? ^= 0xff;
        std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))
    }

    fn blob_path(&self, digest: &str) -> Result<PathBuf> {
        let hex = digest.strip_prefix("sha256:").context("not a sha256 digest")?;
        let folder: &Path = self.folder.path();
        Ok(folder
            .join("data/docker/registry/v2/blobs/sha256")
            .join(hex.get(..2).context("digest is too short")?)
            .join(hex)
            .join("data"))
    }

    /// One HTTP/1.1 exchange on a connection of its own.
    fn request(&self, method: &str, target: &str, kind: &str, body: &[u8]) -> Result<Answer> {
        let mut stream = TcpStream::connect(self.address).context("connect to the registry")?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.address);
        head.push_str(&format!("Content-Length: {}\r\nConnection: close\r\n", body.len()));
        if !kind.is_empty() {
            head.push_str(&format!("Content-Type: {kind}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).context("read the registry's answer")?;
        Answer::parse(&answer)
    }
}

struct Answer {
    status: u16,
    head: String,
    text: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").context("no end of the HTTP head")?;
        let status = head.split(' ').nth(1).context("no HTTP status")?.parse()?;
        Ok(Self { status, head: head.to_owned(), text: body.to_owned() })
    }

    fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }

    fn expect(&self, status: u16, what: &str) -> Result<()> {
        if self.status != status {
            bail!("{what}: the registry answered {}: {}", self.status, self.text);
        }
        Ok(())
    }
}
