//! Client library of Wharf: the API `wharf.v1` over a unix socket or TCP with mutual TLS, with what a client should
//! not have to write itself.
//!
//! Owns the connection (made lazily and made again when it broke), deadlines, typed errors, and
//! streams that go on at their cursor after a restart of the supervisor: [`Session`] for attach and
//! exec, [`LogStream`], [`EventStream`]. Must not hold anything of a command line: no printing, no
//! terminal, no signal handling, no process exit.
//!
//! ```no_run
//! # async fn example() -> Result<(), wharf_client::Error> {
//! let client = wharf_client::connect("unix:/run/wharf/wharfd.sock")?;
//! for container in client.list_containers(Default::default()).await? {
//!     println!("{} {:?}", container.id, container.state());
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod address;
mod backoff;
mod calls;
mod care;
mod connection;
mod error;
mod files;
mod link;
mod outbox;
mod registries;
mod session;
mod streams;
mod transfer;
mod upgrade;

pub use address::Address;
pub use care::Backup;
pub use connection::{Client, Namespace, Service, Tls, connect, connect_tls};
pub use error::{Details, Error, FieldError, Refusal, Resource, TransportFailure};
pub use files::{ExportedFiles, Files};
pub use registries::{Push, PushEvent};
pub use session::{Event as SessionEvent, Input, InputSender, Session};
pub use streams::{EventStream, LogStream, StatsStream};
pub use transfer::{Export, Import, Pull, PullEvent};
pub use upgrade::{Upgrade, UpgradeEvent};
/// The messages of the API.
pub use wharf_proto::{kind::Kind, v1};
