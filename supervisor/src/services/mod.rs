//! The product's behaviour: every rule lives here once.

pub mod containers;
pub mod disk;
pub mod doctor;
pub mod events;
pub mod images;
pub mod prune;
pub mod requests;
pub mod system;
pub mod upgrade;
pub mod volumes;
