//! The daemon from its start to its end: folders, lock, store, services, listener.

mod care;
mod error;
mod listen;
mod lock;
mod notify;
mod place;
mod upgrade;

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use care::{check, restore};
pub use error::Error;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tonic::transport::Server;
use wharf_proto::v1::{
    self, containers_server::ContainersServer, events_server::EventsServer,
    files_server::FilesServer, images_server::ImagesServer, registries_server::RegistriesServer,
    system_server::SystemServer, volumes_server::VolumesServer,
};

use crate::{
    api::admission::{Admission, Bounds},
    api::native::{
        ContainersApi, EventsApi, FilesApi, ImagesApi, Once, RegistriesApi, SystemApi, VolumesApi,
        drain::DrainLayer,
    },
    config::{Address, Config, OnStop, SnapshotterChoice},
    drivers::{
        content::ContentStore,
        handover::Message,
        memory, open_files,
        shims::{Launcher, Runtimes},
        snapshots::{Native, Overlay, Snapshotter},
    },
    faultpoint,
    ids::Namespace,
    services::{
        containers::{Containers, Defaults, Table, TableUsers, Tools, Watched},
        doctor::{self, Doctor},
        events::Events,
        images::Images,
        requests::Requests,
        system::System,
        upgrade::{Drain, Error as UpgradeError, Progress, Upgrades, Wanted},
        volumes::Volumes,
    },
    store::Store,
};
use place::Place;
use upgrade::Successor;
pub use upgrade::identity;

/// Removed containers whose images are still to be looked at.
const REMOVED_LEN: usize = 64;
/// Streams of one connection; more wait in the client.
const MAX_STREAMS: u32 = 1024;
/// Bytes of the headers of one call.
const MAX_HEADERS: u32 = 32 << 10;
/// Containers that their policies start at the same time, as at boot.
const RESTARTS_AT_ONCE: usize = 8;
/// Health checks whose process is being made at the same time.
const PROBES_AT_ONCE: usize = 8;
/// Largest message that a client may send.
const MAX_MESSAGE: usize = 16 << 20;

struct Services {
    events: Events,
    images: Images,
    containers: Containers,
    volumes: Volumes,
    system: System,
    requests: Requests,
}

/// Threads that do asynchronous work; what blocks has threads of its own.
const MAX_WORKERS: usize = 4;

/// Threads for what blocks, at most; each is there only while it is needed.
const MAX_BLOCKING: usize = 32;

/// Calls that can't be taken up elsewhere are waited for so long before a hand-over.
const QUIET_LIMIT: Duration = Duration::from_secs(10);
/// What calls in flight have to end once no new ones are taken.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// What threads that block have to end before the store can be closed.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// Why a generation ends.
enum End {
    /// It was asked to.
    Asked,
    /// Another process takes over.
    HandOver(Successor),
}

/// Runs until SIGTERM or SIGINT, or until another wharfd has taken over. Containers run on.
///
/// # Errors
/// [`Error`] when it can't begin, or its listener fails.
pub fn main(config: Config) -> Result<(), Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    memory::frugal();
    open_files::raise();
    let config = Arc::new(config);
    for folder in [&config.root, &config.state] {
        make_folder(folder)?;
    }
    let mut place = Place::find(&config)?;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cpus.min(MAX_WORKERS))
        .thread_name("wharfd")
        .max_blocking_threads(MAX_BLOCKING)
        .enable_all()
        .build()
        .map_err(Error::Signals)?;
    let end = runtime.block_on(run(&config, &mut place));
    let successor = match end {
        Ok(End::HandOver(successor)) => successor,
        other => {
            // What blocks may go on for a while; nothing of it is needed.
            runtime.shutdown_background();
            return other.map(|_| ());
        }
    };
    // Every task ends where it waits, as if the process had been killed there: the next one finds
    // what is to be finished. With the last of them the store is closed.
    runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    let id = successor.id.clone();
    match successor.take_over(&config, &place) {
        Ok(()) => {
            tracing::info!("another wharfd has taken over");
            Ok(())
        }
        Err(failure) => {
            tracing::error!(failure, "the upgrade is taken back");
            Err(place.begin_anew(upgrade::failed(id, failure)))
        }
    }
}

async fn run(config: &Arc<Config>, place: &mut Place) -> Result<End, Error> {
    let (upgrades, wanted) = Upgrades::new(place.outcome.clone());
    faultpoint::reach("startup.locked").await;
    // Reads the store and sweeps folders: nothing is served yet that could wait for it.
    let services = tokio::task::block_in_place(|| assemble(config, upgrades.clone()))?;
    faultpoint::reach("startup.assembled").await;
    let (switch, drain) = Drain::new();
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ContainersServer<ContainersApi>>().await;
    health.set_serving::<ImagesServer<ImagesApi>>().await;
    health.set_serving::<RegistriesServer<RegistriesApi>>().await;
    health.set_serving::<EventsServer<EventsApi>>().await;
    health.set_serving::<SystemServer<SystemApi>>().await;
    health.set_serving::<VolumesServer<VolumesApi>>().await;
    health.set_serving::<FilesServer<FilesApi>>().await;
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reflection = described().build_v1().map_err(Error::Reflection)?;
    // Python's client and older grpcurl ask for this one.
    let reflection_alpha = described().build_v1alpha().map_err(Error::Reflection)?;
    let Services { events, images, containers, volumes, system, requests } = services;
    let once = Once::new(requests, MAX_MESSAGE);
    let journal = events.clone().keep_bounded();
    let bounds = Bounds {
        calls: config.max_calls,
        streams: config.max_streams,
        deadline: config.call_deadline,
    };
    let router = server(config)?
        .layer(DrainLayer(drain.clone()))
        .layer(Admission::new(bounds))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(reflection_alpha)
        .add_service(once.wrap(limited(ContainersServer::new(ContainersApi {
            containers: containers.clone(),
            drain: drain.clone(),
        }))))
        .add_service(once.wrap(RegistriesServer::new(RegistriesApi { images: images.clone() })))
        .add_service(
            once.wrap(
                ImagesServer::new(ImagesApi { images: images.clone() })
                    .max_decoding_message_size(MAX_MESSAGE),
            ),
        )
        .add_service(EventsServer::new(EventsApi { events, containers: containers.clone() }))
        .add_service(once.wrap(VolumesServer::new(VolumesApi { volumes: volumes.clone() })))
        .add_service(
            FilesServer::new(FilesApi { containers: containers.clone() })
                .max_decoding_message_size(MAX_MESSAGE),
        )
        .add_service(once.wrap(SystemServer::new(SystemApi {
            system,
            images,
            containers: containers.clone(),
            volumes: volumes.clone(),
            shutdown_timeout: config.shutdown_timeout,
        })));
    // Ends with the daemon.
    tokio::spawn(journal);
    let mut hangups = signal(SignalKind::hangup()).map_err(Error::Signals)?;
    let asked = asked_to_end()?;
    let line = place.line.take();
    let place = &*place;
    let serving = place.socket.serve(router, drain.clone().begun());
    let (mut serving, mut asked) = (std::pin::pin!(serving), std::pin::pin!(asked));
    tracing::info!(address = %config.address, pid = std::process::id(), "serving");
    notify::ready();
    if let Some(line) = line {
        // One that is gone by now needs no word.
        let _ = line.send(&Message::Serving, &[]);
    }
    let mut next = std::pin::pin!(next_one(config, place, &upgrades, wanted, &mut hangups));
    let (successor, progress) = tokio::select! {
        served = &mut serving => return served.map(|()| End::Asked),
        () = &mut asked => {
            if config.on_stop == OnStop::Stop {
                notify::stopping();
                containers.shut_down(config.shutdown_timeout).await;
            }
            return Ok(ending(config, place));
        }
        next = &mut next => next,
    };
    let drained = async {
        tokio::select! {
            served = &mut serving => return served,
            _ = tokio::time::timeout(QUIET_LIMIT, drain.quiet()) => {}
        }
        tracing::info!(pid = successor.pid(), "handing over");
        notify::reloading();
        if let Some(progress) = progress {
            let _ = progress.send(Ok(Progress::Draining)).await;
        }
        switch.begin();
        match tokio::time::timeout(DRAIN_LIMIT, &mut serving).await {
            Ok(served) => served,
            Err(_) => {
                tracing::warn!("calls that did not end in time are broken off");
                Ok(())
            }
        }
    };
    tokio::select! {
        drained = drained => drained.map(|()| End::HandOver(successor)),
        () = &mut asked => Ok(ending(config, place)),
    }
}

fn ending(config: &Config, place: &Place) -> End {
    tracing::info!("ending; containers run on");
    notify::stopping();
    if let (Address::Unix(path), false) = (&config.address, place.socket.activated) {
        // Gone already if somebody tidied up.
        let _ = fs::remove_file(path);
    }
    End::Asked
}

/// Waits until an upgrade is wanted, by call or by SIGHUP, and the next supervisor is ready.
async fn next_one(
    config: &Arc<Config>,
    place: &Place,
    upgrades: &Upgrades,
    mut wanted: mpsc::Receiver<Wanted>,
    hangups: &mut Signal,
) -> (Successor, Option<mpsc::Sender<Result<Progress, UpgradeError>>>) {
    loop {
        let by_call = tokio::select! {
            Some(wanted) = wanted.recv() => Some(wanted),
            Some(()) = hangups.recv() => {
                if !upgrades.begin_by_signal() {
                    continue;
                }
                None
            }
        };
        let (binary, id, progress) = match by_call {
            None => (None, String::new(), None),
            Some(Wanted { binary, id, progress }) => (binary, id, Some(progress)),
        };
        let program = binary.unwrap_or_else(|| place.program.clone());
        let tell = async |step| {
            if let Some(progress) = &progress {
                // Whoever asked may have gone; the upgrade goes on.
                let _ = progress.send(step).await;
            }
        };
        tell(Ok(Progress::Checking(program.clone()))).await;
        match successor(config, &program, id).await {
            Ok(successor) => {
                let version = successor.hello.version.clone();
                tell(Ok(Progress::Ready { pid: successor.pid(), version })).await;
                return (successor, progress);
            }
            Err(error) => {
                tracing::error!(error = crate::fault::chain(&error), "no upgrade");
                upgrades.failed();
                tell(Err(error)).await;
            }
        }
    }
}

async fn successor(
    config: &Arc<Config>,
    program: &Path,
    id: String,
) -> Result<Successor, UpgradeError> {
    upgrade::check(program).await?;
    let (config, program) = (Arc::clone(config), program.to_owned());
    tokio::task::spawn_blocking(move || upgrade::start(&config, &program, id))
        .await
        .expect("starting a process does not panic")
}

fn limited(server: ContainersServer<ContainersApi>) -> ContainersServer<ContainersApi> {
    server.max_decoding_message_size(MAX_MESSAGE)
}

fn server(config: &Config) -> Result<Server, Error> {
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADERS);
    let Some(tls) = config.tls.as_ref().filter(|_| matches!(config.address, Address::Tcp(_)))
    else {
        return Ok(server);
    };
    let read =
        |path: &Path| fs::read(path).map_err(|source| Error::File { path: path.into(), source });
    let identity = tonic::transport::Identity::from_pem(read(&tls.cert)?, read(&tls.key)?);
    let ca = tonic::transport::Certificate::from_pem(read(&tls.client_ca)?);
    let config = tonic::transport::ServerTlsConfig::new().identity(identity).client_ca_root(ca);
    server.tls_config(config).map_err(Error::Tls)
}

fn assemble(config: &Arc<Config>, upgrades: Upgrades) -> Result<Services, Error> {
    let (bundles, logs) = (config.state.join("c"), config.root.join("logs"));
    make_folder(&bundles)?;
    make_folder(&logs)?;
    let care::Opened { store, set_aside, is_anew } = care::open(&config.root)?;
    faultpoint::reach_blocking("startup.store.opened");
    let events = Events::new(store.clone());
    doctor::tell(&store, &events, &set_aside)?;
    // Ends with the daemon.
    let copies = (store.clone(), config.root.clone(), config.metadata_copy_every);
    tokio::spawn(care::keep_copies(copies.0, copies.1, copies.2));
    let requests = Requests::load(store.clone()).map_err(Error::Store)?;
    let snapshots = snapshotter(config, &store)?;
    let table = Arc::new(Table::default());
    let shim = shim_program(config)?;
    let content = ContentStore::open(&config.root).map_err(Error::Content)?;
    let images = Images::with_registries(
        store.clone(),
        events.clone(),
        content.clone(),
        Arc::clone(&snapshots),
        config.registries.clone(),
    );
    images.set_users(Arc::new(TableUsers(Arc::clone(&table))));
    let volumes =
        Volumes::open(&config.root, store.clone(), events.clone()).map_err(Error::Volumes)?;
    volumes.set_users(Arc::new(TableUsers(Arc::clone(&table))));
    let needs_all = doctor::needs_all(&config.root);
    if is_anew {
        volumes.take_in_again().map_err(Error::Volumes)?;
    }
    if !needs_all {
        volumes.sweep().map_err(Error::Volumes)?;
    }
    let (removed, orphans) = mpsc::channel(REMOVED_LEN);
    let doctor = Doctor {
        store: store.clone(),
        content,
        root: config.root.clone(),
        state: config.state.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
    };
    let tools = Arc::new(Tools {
        store,
        events: events.clone(),
        requests: requests.clone(),
        watched: Watched::default(),
        snapshots,
        volumes: volumes.clone(),
        launcher: Launcher::new(
            shim.clone(),
            config.address.to_string(),
            config.state.join("events.sock"),
        ),
        runtimes: Runtimes::new(config.default_runtime.clone(), config.runtimes.clone()),
        table,
        bundles,
        logs,
        log_max_bytes: config.container_log_max_bytes,
        log_max_files: config.container_log_max_files,
        log_driver: config.container_log_driver,
        cgroup_parent: config.cgroup_parent.clone(),
        boot_id: boot_id()?,
        removed,
        restart_turns: Arc::new(tokio::sync::Semaphore::new(RESTARTS_AT_ONCE)),
        probe_turns: Arc::new(tokio::sync::Semaphore::new(PROBES_AT_ONCE)),
        ending: std::sync::atomic::AtomicBool::new(false),
    });
    // Ends with the last container's task.
    tokio::spawn(collect_orphans(images.clone(), orphans));
    let defaults = Defaults {
        network: config.default_network,
        stop_timeout: config.stop_timeout,
        user_namespace: config.default_userns.clone(),
        user_ranges: config.userns_range.clone(),
    };
    let containers = Containers::load(tools, images.clone(), defaults)?;
    faultpoint::reach_blocking("startup.containers.taken.up");
    let needs_all = needs_all || containers.set_aside() > 0;
    images.forbid_collection(needs_all);
    if !needs_all {
        images.sweep(&containers.ids(), &containers.mounted()).map_err(Error::Images)?;
    }
    if is_anew {
        // Ends when all images are there.
        tokio::spawn(doctor::find_images(images.clone(), containers.images_known_as()));
    }
    // Ends with the daemon.
    tokio::spawn(images.clone().keep_below(config.gc, config.root.clone()));
    let system =
        System::new(Arc::clone(config), containers.clone(), images.clone(), shim, upgrades, doctor);
    Ok(Services { events, images, containers, volumes, system, requests })
}

fn snapshotter(config: &Config, store: &Store) -> Result<Arc<dyn Snapshotter>, Error> {
    let is_native = match config.snapshotter {
        SnapshotterChoice::Native => true,
        SnapshotterChoice::Overlay => false,
        SnapshotterChoice::Auto => match Overlay::probe(&config.root) {
            Ok(()) => false,
            Err(error) => {
                tracing::warn!(
                    root = %config.root.display(),
                    %error,
                    "no overlay here: each container gets a copy of its image"
                );
                true
            }
        },
    };
    let (root, store) = (&config.root, store.clone());
    Ok(if is_native {
        Arc::new(Native::open(root, store).map_err(Error::Snapshots)?)
    } else {
        Arc::new(Overlay::open(root, store).map_err(Error::Snapshots)?)
    })
}

/// Collects what a container ran on when its image has gone before it.
async fn collect_orphans(images: Images, mut removed: mpsc::Receiver<(Namespace, String)>) {
    while let Some((namespace, image)) = removed.recv().await {
        if images.get(&namespace, &image).is_ok() {
            continue;
        }
        if let Err(error) = images.collect().await {
            tracing::warn!(error = crate::fault::chain(&error), "garbage not collected");
        }
    }
}

/// Ends at the first SIGTERM or SIGINT.
fn asked_to_end() -> Result<impl Future<Output = ()>, Error> {
    let mut term = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut int = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

fn make_folder(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| Error::File { path: path.into(), source })
}

/// The shim: as configured, beside wharfd, or in PATH.
fn shim_program(config: &Config) -> Result<PathBuf, Error> {
    const NAME: &str = "wharf-shim";
    if let Some(path) = &config.shim {
        return if path.is_file() { Ok(path.clone()) } else { Err(Error::NoShim(path.clone())) };
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(NAME)));
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates =
        beside.into_iter().chain(std::env::split_paths(&in_path).map(|dir| dir.join(NAME)));
    candidates.find(|path| path.is_file()).ok_or_else(|| Error::NoShim(NAME.into()))
}

fn boot_id() -> Result<String, Error> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path);
    text.map(|t| t.trim().to_owned()).map_err(|source| Error::File { path: path.into(), source })
}
