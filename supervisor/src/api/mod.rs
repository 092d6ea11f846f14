//! The edges: each API translates and validates, and decides nothing.

pub mod admission;
pub mod native;
