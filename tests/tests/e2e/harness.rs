//! The harness is checked with other people's tools before it judges.

use std::{fs, process::Command};

use anyhow::{Result, ensure};
use tempfile::TempDir;
use wharf_tests::{
    host,
    image::{self, BUSYBOX},
    registry::Registry,
};

fn skopeo(source: &str) -> Result<String> {
    let output = Command::new("skopeo").args(["inspect", "--tls-verify=false", source]).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "skopeo inspect {source}: {errors}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn our_images_are_images_to_skopeo_too() -> Result<()> {
    if host::tool("skopeo").is_none() {
        return host::skip("our_images_are_images_to_skopeo_too", "no skopeo here");
    }
    let folder = TempDir::new()?;
    let image = image::busybox()?.build(BUSYBOX)?;
    let oci = folder.path().join("oci.tar");
    fs::write(&oci, image.oci_tar()?)?;
    let docker = folder.path().join("docker.tar");
    fs::write(&docker, image.docker_tar()?)?;
    let seen = skopeo(&format!("oci-archive:{}", oci.display()))?;
    ensure!(seen.contains(&image.layers[0].blob.digest), "{seen}");
    let seen = skopeo(&format!("docker-archive:{}", docker.display()))?;
    ensure!(seen.contains("FROM_IMAGE=yes"), "{seen}");
    if let Some(why) = Registry::missing() {
        return host::skip("our_images_are_images_to_skopeo_too", why);
    }
    let registry = Registry::start().await?;
    registry.push(&image, "tests/busybox", "1")?;
    let seen = skopeo(&format!("docker://{}", registry.reference("tests/busybox:1")))?;
    ensure!(seen.contains(&image.manifest.digest), "{seen}");
    Ok(())
}
