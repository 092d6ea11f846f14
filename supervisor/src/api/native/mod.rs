//! wharf.v1 over gRPC.

mod containers;
pub mod drain;
mod events;
mod files;
mod health;
mod images;
mod list;
mod once;
mod registries;
pub mod status;
mod streams;
mod system;
mod translate;
mod volumes;

pub use containers::ContainersApi;
pub use events::EventsApi;
pub use files::FilesApi;
pub use images::ImagesApi;
pub use once::{Once, OnceService};
pub use registries::RegistriesApi;
pub use system::SystemApi;
pub use volumes::VolumesApi;
