//! `wharf-mkimage OUT.tar [NAME]`: the demo's image, made on the spot and without network.
//!
//! Busybox where Debian's busybox-static is installed, and always /bin/demo, a static program of
//! this project's own (`wharf-demo-init`, beside this one).

#![expect(clippy::print_stdout, reason = "tells what the image holds")]

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use wharf_tests::{
    host,
    image::{self, Layer, Packing, Recipe},
};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let out = args.next().context("usage: wharf-mkimage OUT.tar [NAME]")?;
    let name = args.next().unwrap_or_else(|| "demo:latest".into());
    let program = host::binary("wharf-demo-init")?;
    if !host::is_static(&program) {
        bail!("{} is not static: build it with `make demo`", program.display());
    }
    let mut recipe = match image::busybox() {
        Ok(recipe) => recipe,
        Err(_) => bare(),
    };
    let with_shell = recipe.layers.len() > 1;
    let layer = Layer::default().file("bin/demo", 0o755, std::fs::read(&program)?);
    recipe.layers.push(layer);
    recipe.config["Cmd"] = json!(["/bin/demo", "hello"]);
    let image = recipe.build(&name)?;
    let tar = image.oci_tar()?;
    std::fs::write(&out, &tar).with_context(|| format!("write {out}"))?;
    let what = if with_shell { "Debian's busybox and a counter" } else { "a counter" };
    println!("{name}: {what}, {} layers, {} KiB", image.layers.len(), tar.len() / 1024);
    Ok(())
}

/// A root file system with nothing in it but the folders that a container needs.
fn bare() -> Recipe {
    let mut layer = Layer::default();
    for folder in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        layer = layer.folder(folder, 0o755);
    }
    let config = json!({"Env": ["PATH=/bin"]});
    Recipe { layers: vec![layer], config, packing: Packing::Gzip }
}
