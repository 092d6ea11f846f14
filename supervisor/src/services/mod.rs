//! The product's behaviour: every rule lives here once.

pub mod containers;
pub mod events;
pub mod images;
pub mod system;
