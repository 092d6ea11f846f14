//! The product's behaviour: every rule lives here once.

pub mod events;
