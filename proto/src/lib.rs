//! The wire of Wharf: every message that crosses a process boundary, and nothing else.
//!
//! Owns the .proto files (`protos/`), the code generated from them, the frames of ttrpc and the
//! closed list of error kinds. Holds no behaviour, opens no socket.

#![forbid(unsafe_code)]

pub mod kind;
pub mod ttrpc;

/// Generated code keeps its own style.
#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    unreachable_pub,
    missing_debug_implementations
)]
mod generated {
    pub mod google {
        pub mod rpc {
            include!(concat!(env!("OUT_DIR"), "/google.rpc.rs"));
        }
    }
    pub mod ttrpc {
        include!(concat!(env!("OUT_DIR"), "/ttrpc.rs"));
    }
    pub mod containerd {
        pub mod types {
            include!(concat!(env!("OUT_DIR"), "/containerd.types.rs"));
        }
        pub mod v1 {
            pub mod types {
                include!(concat!(env!("OUT_DIR"), "/containerd.v1.types.rs"));
            }
        }
        pub mod task {
            pub mod v3 {
                include!(concat!(env!("OUT_DIR"), "/containerd.task.v3.rs"));
            }
        }
        pub mod runc {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/containerd.runc.v1.rs"));
            }
        }
        pub mod bootstrap {
            include!(concat!(env!("OUT_DIR"), "/containerd.runtime.bootstrap.v1.rs"));
        }
        pub mod cgroups {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/io.containerd.cgroups.v1.rs"));
            }
            pub mod v2 {
                include!(concat!(env!("OUT_DIR"), "/io.containerd.cgroups.v2.rs"));
            }
        }
        pub mod events {
            include!(concat!(env!("OUT_DIR"), "/containerd.events.rs"));
        }
        pub mod services {
            pub mod events {
                pub mod ttrpc {
                    pub mod v1 {
                        include!(concat!(
                            env!("OUT_DIR"),
                            "/containerd.services.events.ttrpc.v1.rs"
                        ));
                    }
                }
            }
        }
    }
    pub mod wharf {
        pub mod shim {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/wharf.shim.v1.rs"));
            }
        }
        #[cfg(feature = "grpc")]
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/wharf.v1.rs"));
        }
    }
}

pub use generated::{containerd, google};

/// containerd's Task service. Version 2 has the same messages.
pub mod task {
    pub use crate::generated::containerd::{task::v3::*, types::Mount, v1::types::Status};

    /// Service names on the wire.
    pub const SERVICE_V2: &str = "containerd.task.v2.Task";
    /// The same methods under the newer name.
    pub const SERVICE_V3: &str = "containerd.task.v3.Task";
    /// Type URL of an exec's process, in OCI JSON.
    pub const PROCESS_TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
    /// Type URL of resources for `Update`, in OCI JSON.
    pub const RESOURCES_TYPE_URL: &str =
        "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
}

/// Wharf's own service beside the Task service.
pub mod shim {
    pub use crate::generated::wharf::shim::v1::*;

    /// Service name on the wire.
    pub const SERVICE: &str = "wharf.shim.v1.Shim";
    /// Type URL of [`CreateOptions`] in `CreateTaskRequest.options`.
    pub const CREATE_OPTIONS_TYPE_URL: &str = "wharf.shim.v1.CreateOptions";
    /// The stdio of an exec that stays in the shim.
    pub const STDIO_IN_SHIM: &str = "wharf:";
}

/// The public API, package `wharf.v1`.
#[cfg(feature = "grpc")]
pub mod v1 {
    pub use crate::generated::wharf::v1::*;

    /// All files of the API as an encoded `FileDescriptorSet`, for server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/wharf_v1.fds"));
    /// Key of the call's metadata that names the namespace.
    pub const NAMESPACE_KEY: &str = "wharf-namespace";
    /// Key of the call's metadata that names the request: sent again with the same, a call is done
    /// once and answered as the first time.
    pub const REQUEST_ID_KEY: &str = "wharf-request-id";
    /// Where a call that names no namespace goes.
    pub const DEFAULT_NAMESPACE: &str = "default";
    /// `ErrorInfo.domain` of every error.
    pub const ERROR_DOMAIN: &str = "wharf";
}
