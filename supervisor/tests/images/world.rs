//! A data folder of its own, layers made by hand, and other people's tools.

use std::{
    fs,
    io::{self, Cursor, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::mpsc;
use wharf_supervisor::{
    drivers::{
        content::{ContentStore, Digest},
        registry::Settings,
        signatures::Policy,
        snapshots::{Overlay, Snapshotter},
    },
    ids::Namespace,
    services::{
        events::Events,
        images::{Error, Image, Images, PullRequest, Pulled, Reporter},
    },
    store::Store,
};

/// Images and what is beneath them.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) content: ContentStore,
    pub(crate) snapshots: Arc<dyn Snapshotter>,
    pub(crate) images: Images,
}

pub(crate) fn namespace() -> Namespace {
    "default".parse().expect("a namespace")
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_policy(Policy::default())
    }

    /// With a signature policy.
    pub(crate) fn with_policy(policy: Policy) -> Self {
        Self::open(tempfile::tempdir().expect("tempdir"), policy)
    }

    fn open(dir: tempfile::TempDir, policy: Policy) -> Self {
        let store = wait_for(|| Store::open(&dir.path().join("meta")).ok());
        let content = ContentStore::open(dir.path()).expect("content");
        let snapshots: Arc<dyn Snapshotter> =
            Arc::new(Overlay::open(dir.path(), store.clone()).expect("snapshots"));
        let events = Events::new(store.clone());
        let registries =
            Settings { hosts_folder: dir.path().join("certs.d"), policy, ..Settings::default() };
        let images = Images::with_registries(
            store.clone(),
            events,
            content.clone(),
            Arc::clone(&snapshots),
            registries,
        );
        Self { dir, store, content, snapshots, images }
    }

    /// The same folder after a restart.
    pub(crate) fn restart(self) -> Self {
        let Self { dir, store, content, snapshots, images } = self;
        drop((store, content, snapshots, images));
        let world = Self::open(dir, Policy::default());
        world.images.sweep(&Default::default(), &[]).expect("sweep");
        world
    }

    pub(crate) async fn import(
        &self,
        archive: &[u8],
        name: Option<&str>,
    ) -> Result<Vec<Image>, Error> {
        let (sender, pieces) = mpsc::channel(4);
        let archive = archive.to_vec();
        let feed = async move {
            for piece in archive.chunks(50_000) {
                if sender.send(Ok(Bytes::copy_from_slice(piece))).await.is_err() {
                    break;
                }
            }
        };
        let reporter = Reporter::default();
        let namespace = namespace();
        tokio::join!(self.images.import(&namespace, name, pieces, &reporter), feed).0
    }

    pub(crate) async fn import_file(
        &self,
        path: &Path,
        name: Option<&str>,
    ) -> Result<Vec<Image>, Error> {
        self.import(&fs::read(path).expect("read the archive"), name).await
    }

    pub(crate) async fn pull(&self, reference: &str) -> Result<Pulled, Error> {
        self.images.pull(&namespace(), &PullRequest::new(reference), &Reporter::default()).await
    }

    pub(crate) async fn export(&self, asked: &[String]) -> Result<Vec<u8>, Error> {
        self.export_for(asked, None).await
    }

    pub(crate) async fn export_for(
        &self,
        asked: &[String],
        platform: Option<&str>,
    ) -> Result<Vec<u8>, Error> {
        let (sender, mut pieces) = mpsc::channel::<Bytes>(4);
        let collect = async {
            let mut archive = Vec::new();
            while let Some(piece) = pieces.recv().await {
                archive.extend_from_slice(&piece);
            }
            archive
        };
        let namespace = namespace();
        let (result, archive) =
            tokio::join!(self.images.export(&namespace, asked, platform, sender), collect);
        result.map(|()| archive)
    }

    /// Settings of a registry.
    pub(crate) fn hosts(&self, registry: &str, text: &str) -> PathBuf {
        let folder = self.dir.path().join("certs.d").join(registry);
        fs::create_dir_all(&folder).expect("mkdir");
        fs::write(folder.join("hosts.toml"), text).expect("write");
        folder
    }

    pub(crate) fn read(&self, image: &Image, path: &str) -> Option<String> {
        let view = self.snapshots.view(image.chain_id.as_ref()).expect("view");
        let bytes = view.read(Path::new(path), 1 << 20).expect("read");
        bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Names in a folder of the data folder.
    pub(crate) fn list(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join(folder)).expect("list");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("entry").file_name().to_string_lossy().into()).collect();
        names.sort();
        names
    }
}

/// A tar, entry by entry.
pub(crate) struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(crate) fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header.set_size(0);
        header
    }

    pub(crate) fn entry(mut self, mut header: tar::Header, path: &str, data: &[u8]) -> Self {
        header.set_size(data.len() as u64);
        // By hand: the builder refuses the very paths that have to be tried.
        if path.len() > 100 {
            let mut long = Self::header(tar::EntryType::GNULongName, 0o644);
            long.as_gnu_mut().expect("gnu").name[..13].copy_from_slice(b"././@LongLink");
            long.set_size(path.len() as u64 + 1);
            long.set_cksum();
            self.0.append(&long, Cursor::new([path.as_bytes(), b"\0"].concat())).expect("append");
        }
        let name = &mut header.as_gnu_mut().expect("gnu").name;
        let len = path.len().min(100);
        name[..len].copy_from_slice(&path.as_bytes()[..len]);
        header.set_cksum();
        self.0.append(&header, data).expect("append");
        self
    }

    pub(crate) fn file(self, path: &str, data: &str) -> Self {
        self.entry(Self::header(tar::EntryType::Regular, 0o644), path, data.as_bytes())
    }

    pub(crate) fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(Self::header(tar::EntryType::Directory, mode), path, b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.link(tar::EntryType::Symlink, path, target)
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.link(tar::EntryType::Link, path, target)
    }

    fn link(self, kind: tar::EntryType, path: &str, target: &str) -> Self {
        let mut header = Self::header(kind, 0o777);
        let field = &mut header.as_gnu_mut().expect("gnu").linkname;
        field[..target.len()].copy_from_slice(target.as_bytes());
        self.entry(header, path, b"")
    }

    pub(crate) fn device(self, kind: tar::EntryType, path: &str, major: u32, minor: u32) -> Self {
        let mut header = Self::header(kind, 0o600);
        header.set_device_major(major).expect("major");
        header.set_device_minor(minor).expect("minor");
        self.entry(header, path, b"")
    }

    /// Records for the entry that comes next.
    pub(crate) fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).expect("append");
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("finish")
    }
}

/// What `docker save` writes of an image with these layers.
pub(crate) fn docker_save(layers: &[Vec<u8>], tags: &[&str]) -> Vec<u8> {
    docker_save_for(layers, tags, "amd64")
}

/// [`docker_save`] of an image for this architecture.
pub(crate) fn docker_save_for(layers: &[Vec<u8>], tags: &[&str], architecture: &str) -> Vec<u8> {
    let config = config_of(layers).replace("\"amd64\"", &format!("\"{architecture}\""));
    let config_name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let mut archive = Layer::new();
    let mut paths = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let path = format!("layer{index}/layer.tar");
        archive = archive.entry(Layer::header(tar::EntryType::Regular, 0o644), &path, layer);
        paths.push(path);
    }
    let manifest =
        serde_json::json!([{"Config": config_name, "RepoTags": tags, "Layers": paths}]).to_string();
    archive.file(&config_name, &config).file("manifest.json", &manifest).finish()
}

/// A config in Docker's style, nulls and all.
pub(crate) fn config_of(layers: &[Vec<u8>]) -> String {
    let diff_ids: Vec<String> = layers.iter().map(|l| Digest::of(l).to_string()).collect();
    serde_json::json!({
        "architecture": "amd64", "os": "linux", "created": "2024-02-03T04:05:06.789Z",
        "config": {
            "Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "Entrypoint": null, "Volumes": null,
            "ExposedPorts": {"80/tcp": {}}, "WorkingDir": "/srv", "User": "", "Labels": null,
            "OnBuild": null,
        },
        "history": [{"created": "2024-02-03T04:05:06.789Z", "created_by": "by hand"}],
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("gzip");
    encoder.finish().expect("gzip")
}

/// True, with a word, if the test can't run here.
pub(crate) fn skip(tools: &[&str]) -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return true;
    }
    for tool in tools {
        if find(tool).is_none() {
            println!("skipped: no {tool} here, install Debian's package");
            return true;
        }
    }
    false
}

fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(tool)).find(|path| path.is_file())
}

pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().expect("start");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

pub(crate) fn skopeo_copy(from: &str, to: &str, more: &[&str]) {
    run(Command::new("skopeo")
        .args(["copy", "--insecure-policy", "-q"])
        .args(more)
        .args([from, to]));
}

pub(crate) fn wait_for<T>(mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Passes connections on to `upstream`, and breaks each one off after so many bytes of answers.
/// Answers with its address; it lives as long as the process.
pub(crate) fn flaky_proxy(upstream: &str, bytes: u64) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let upstream = upstream.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(client), Ok(server)) = (client, TcpStream::connect(&upstream)) else { break };
            let (from, mut to) =
                (client.try_clone().expect("clone"), server.try_clone().expect("clone"));
            std::thread::spawn(move || io::copy(&mut &from, &mut to));
            std::thread::spawn(move || {
                let _ = io::copy(&mut io::Read::take(&server, bytes), &mut &client);
                let _ = client.shutdown(std::net::Shutdown::Both);
                let _ = server.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address
}

/// Text that does not compress to nothing.
pub(crate) fn noise(seed: u64) -> String {
    let mut state = seed + 1;
    std::iter::repeat_with(|| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b' ' + (state >> 58) as u8)
    })
    .take(200_000)
    .collect()
}

/// Debian's docker-registry on a loopback port.
pub(crate) struct Registry {
    child: Child,
    pub(crate) address: String,
    pub(crate) data: PathBuf,
    _dir: tempfile::TempDir,
}

impl Registry {
    pub(crate) fn start(auth: Option<(&str, &str)>) -> io::Result<Self> {
        Self::start_with(auth, None)
    }

    /// With TLS: files of the certificate and its key.
    pub(crate) fn start_with(
        auth: Option<(&str, &str)>,
        tls: Option<(&Path, &Path)>,
    ) -> io::Result<Self> {
        Self::start_asking(auth, tls, None)
    }

    /// With an authority, too, that has to have signed the certificate of whoever comes.
    pub(crate) fn start_asking(
        auth: Option<(&str, &str)>,
        tls: Option<(&Path, &Path)>,
        client_ca: Option<&Path>,
    ) -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.to_string();
        let data = dir.path().join("data");
        let mut config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage:\n  filesystem: {{rootdirectory: {}}}\nhttp:\n  addr: '{address}'\n",
            data.display()
        );
        if let Some((certificate, key)) = tls {
            let (certificate, key) = (certificate.display(), key.display());
            let of = client_ca.map(|ca| format!(", clientcas: [{}]", ca.display()));
            let of = of.unwrap_or_default();
            config += &format!("  tls: {{certificate: {certificate}, key: {key}{of}}}\n");
        }
        if let Some((user, hash)) = auth {
            let users = dir.path().join("users");
            fs::write(&users, format!("{user}:{hash}\n"))?;
            config += &format!("auth: {{htpasswd: {{realm: wharf, path: {}}}}}\n", users.display());
        }
        fs::write(dir.path().join("config.yml"), config)?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        wait_for(|| TcpStream::connect(&address).ok());
        Ok(Self { child, address, data, _dir: dir })
    }

    /// Where the registry keeps a blob.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.data.join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
