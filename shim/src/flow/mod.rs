//! Where decisions meet effects: one file a verb of the protocol, around the [`Shim`].
//!
//! Knows no wire types: the edge turns requests into calls and [`Completion`]s into answers.
//! Nothing here waits for a peer; what takes time ends in a completion.

mod adopt;
pub(crate) mod boot;
mod checkpoint;
pub(crate) mod cleanup;
mod create;
mod delete;
mod error;
mod event;
mod exec;
mod exit;
mod foreign;
mod input;
mod io;
mod keep;
mod log;
pub(crate) mod logger;
mod process;
mod pump;
mod read_output;
mod records;
mod shim;
mod signal;
mod start;
mod stdio;
mod tell;
mod upgrade;

pub(crate) use checkpoint::{Checkpoint, Restore, Switch};
pub(crate) use create::{CreateTask, Mount, Options};
pub(crate) use error::Error;
pub(crate) use event::{Created as CreatedEvent, Event, Happened};
pub(crate) use exec::AddExec;
pub(crate) use foreign::{Foreign, own_command};
pub(crate) use keep::{KeptError, Message, found_in};
pub(crate) use log::LogTarget;
pub(crate) use read_output::ReadOutput;
pub(crate) use shim::{Completion, Force, Identity, Outcome, Shim, Ticket};
pub(crate) use signal::Reach;
pub(crate) use stdio::{Owner, Uris};
pub(crate) use upgrade::Parts;
