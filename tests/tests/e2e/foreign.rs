//! Runtimes of others, as Debian has them.

use anyhow::{Result, ensure};
use tonic::Code;
use wharf_proto::v1::ContainerSpec;
use wharf_tests::{
    api::{blamed_fields, script, sleeper},
    world::World,
};

use crate::refused;

/// Whether a program is in PATH; what needs one that is not is left out.
fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn under(runtime: &str, spec: ContainerSpec) -> ContainerSpec {
    ContainerSpec { runtime: runtime.into(), ..spec }
}

#[tokio::test]
async fn another_oci_runtime_by_name() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let status = refused(api.create(under("no-such", sleeper())).await, Code::InvalidArgument)?;
    ensure!(blamed_fields(&status) == ["spec.runtime"], "{status:?}");
    if installed("runc") {
        let (container, outcome) = api.run_to_end(under("runc", script("echo x; exit 6"))).await?;
        ensure!(outcome.out() == "x\n" && outcome.code() == 6, "{outcome:?}");
        ensure!(container.spec.is_some_and(|spec| spec.runtime == "runc"));
        api.remove(&container.id).await?;
    }
    world.finish().await
}
