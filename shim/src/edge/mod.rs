//! Where the shim meets others: its command line and its socket. Wire types stop here.

mod args;
mod bootstrap;
mod commands;
mod connection;
mod create_options;
mod events;
mod handover;
mod metrics;
mod publisher;
mod server;
mod shim_service;
mod status;
mod task_service;

pub(crate) use commands::run;
