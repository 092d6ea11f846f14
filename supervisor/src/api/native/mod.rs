//! wharf.v1 over gRPC.

pub mod status;
