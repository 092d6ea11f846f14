//! Images through the supervisor's services, on real input: archives and registries of other tools,
//! and layers made by an enemy.
//!
//! A test that needs a tool or root that is not there prints why it is skipped.

#![allow(clippy::print_stdout, reason = "a test says why it is skipped")]

mod archives;
mod gc;
mod hostile;
mod layers;
mod liar;
mod lies;
mod pushes;
mod registries;
mod signed;
mod world;
