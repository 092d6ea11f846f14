//! The daemon from its start to its end: folders, lock, store, services, listener.

mod error;
mod listen;
mod lock;

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use error::Error;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tonic::transport::Server;
use wharf_proto::v1::{
    self, containers_server::ContainersServer, events_server::EventsServer,
    images_server::ImagesServer, registries_server::RegistriesServer, system_server::SystemServer,
    volumes_server::VolumesServer,
};

use crate::{
    api::native::{ContainersApi, EventsApi, ImagesApi, RegistriesApi, SystemApi, VolumesApi},
    config::{Address, Config, SnapshotterChoice},
    drivers::{
        content::ContentStore,
        shims::Launcher,
        snapshots::{Native, Overlay, Snapshotter},
    },
    faultpoint,
    ids::Namespace,
    services::{
        containers::{Containers, Defaults, Table, TableUsers, Tools},
        events::Events,
        images::Images,
        system::System,
        volumes::Volumes,
    },
    store::Store,
};
use listen::Listener;
use lock::Lock;

/// Removed containers whose images are still to be looked at.
const REMOVED_LEN: usize = 64;
/// Largest message that a client may send.
const MAX_MESSAGE: usize = 16 << 20;

struct Services {
    events: Events,
    images: Images,
    containers: Containers,
    volumes: Volumes,
    system: System,
}

/// Threads that do asynchronous work; what blocks has threads of its own.
const MAX_WORKERS: usize = 4;

/// Threads for what blocks, at most; each is there only while it is needed.
const MAX_BLOCKING: usize = 32;

/// [`run`] in a runtime of its own.
///
/// # Errors
/// As [`run`].
pub fn main(config: Config) -> Result<(), Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cpus.min(MAX_WORKERS))
        .thread_name("wharfd")
        .max_blocking_threads(MAX_BLOCKING)
        .enable_all()
        .build()
        .map_err(Error::Signals)?;
    let result = runtime.block_on(run(config));
    // What blocks may go on for a while; nothing of it is needed.
    runtime.shutdown_background();
    result
}

/// Runs until SIGTERM or SIGINT. Containers run on.
///
/// # Errors
/// [`Error`] when it can't begin, or its listener fails.
pub async fn run(config: Config) -> Result<(), Error> {
    let config = Arc::new(config);
    for folder in [&config.root, &config.state] {
        make_folder(folder)?;
    }
    let _root = Lock::take(&config.root)?;
    let _state = Lock::take(&config.state)?;
    faultpoint::reach("startup.locked").await;
    let services = assemble(&config)?;
    faultpoint::reach("startup.assembled").await;
    let listener = Listener::bind(&config)?;
    faultpoint::reach("startup.bound").await;
    tracing::info!(address = %config.address, pid = std::process::id(), "serving");
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ContainersServer<ContainersApi>>().await;
    health.set_serving::<ImagesServer<ImagesApi>>().await;
    health.set_serving::<RegistriesServer<RegistriesApi>>().await;
    health.set_serving::<EventsServer<EventsApi>>().await;
    health.set_serving::<SystemServer<SystemApi>>().await;
    health.set_serving::<VolumesServer<VolumesApi>>().await;
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reflection = described().build_v1().map_err(Error::Reflection)?;
    // Python's client and older grpcurl ask for this one.
    let reflection_alpha = described().build_v1alpha().map_err(Error::Reflection)?;
    let Services { events, images, containers, volumes, system } = services;
    let journal = events.clone().keep_bounded();
    let router = server(&config)?
        .add_service(health_service)
        .add_service(reflection)
        .add_service(reflection_alpha)
        .add_service(limited(ContainersServer::new(ContainersApi {
            containers: containers.clone(),
        })))
        .add_service(RegistriesServer::new(RegistriesApi { images: images.clone() }))
        .add_service(
            ImagesServer::new(ImagesApi { images: images.clone() })
                .max_decoding_message_size(MAX_MESSAGE),
        )
        .add_service(EventsServer::new(EventsApi { events, containers: containers.clone() }))
        .add_service(VolumesServer::new(VolumesApi { volumes: volumes.clone() }))
        .add_service(SystemServer::new(SystemApi {
            system,
            images,
            containers,
            volumes: volumes.clone(),
        }));
    // Ends with the daemon.
    tokio::spawn(journal);
    tokio::select! {
        served = listener.serve(router) => served?,
        () = asked_to_end()? => tracing::info!("ending; containers run on"),
    }
    if let Address::Unix(path) = &config.address {
        // Gone already if somebody tidied up.
        let _ = fs::remove_file(path);
    }
    Ok(())
}

fn limited(server: ContainersServer<ContainersApi>) -> ContainersServer<ContainersApi> {
    server.max_decoding_message_size(MAX_MESSAGE)
}

fn server(config: &Config) -> Result<Server, Error> {
    let server = Server::builder();
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

fn assemble(config: &Arc<Config>) -> Result<Services, Error> {
    let (bundles, logs) = (config.state.join("c"), config.root.join("logs"));
    make_folder(&bundles)?;
    make_folder(&logs)?;
    let store = Store::open(&config.root.join("meta"))?;
    faultpoint::reach_blocking("startup.store.opened");
    let events = Events::new(store.clone());
    let snapshots = snapshotter(config, &store)?;
    let table = Arc::new(Table::default());
    let shim = shim_program(config)?;
    let content = ContentStore::open(&config.root).map_err(Error::Content)?;
    let images = Images::with_registries(
        store.clone(),
        events.clone(),
        content,
        Arc::clone(&snapshots),
        config.registries.clone(),
    );
    images.set_users(Arc::new(TableUsers(Arc::clone(&table))));
    let volumes =
        Volumes::open(&config.root, store.clone(), events.clone()).map_err(Error::Volumes)?;
    volumes.set_users(Arc::new(TableUsers(Arc::clone(&table))));
    volumes.sweep().map_err(Error::Volumes)?;
    let (removed, orphans) = mpsc::channel(REMOVED_LEN);
    let tools = Arc::new(Tools {
        store,
        events: events.clone(),
        snapshots,
        volumes: volumes.clone(),
        launcher: Launcher::new(shim.clone(), config.address.to_string()),
        table,
        bundles,
        logs,
        log_max_bytes: config.container_log_max_bytes,
        log_max_files: config.container_log_max_files,
        cgroup_parent: config.cgroup_parent.clone(),
        boot_id: boot_id()?,
        removed,
    });
    // Ends with the last container's task.
    tokio::spawn(collect_orphans(images.clone(), orphans));
    let defaults = Defaults { network: config.default_network, stop_timeout: config.stop_timeout };
    let containers = Containers::load(tools, images.clone(), defaults)?;
    faultpoint::reach_blocking("startup.containers.taken.up");
    if containers.set_aside() == 0 {
        images.sweep(&containers.ids()).map_err(Error::Images)?;
    }
    // Ends with the daemon.
    tokio::spawn(images.clone().keep_below(config.gc, config.root.clone()));
    let system = System::new(Arc::clone(config), containers.clone(), images.clone(), shim);
    Ok(Services { events, images, containers, volumes, system })
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
