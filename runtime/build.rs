//! Release builds of the command are static, by the ordinary build command and for the ordinary
//! target: an OCI runtime is copied to hosts whose C library nobody knows, and starts faster so.
//!
//! Linker scripts stand in for the shared libraries that rustc asks for, and name the archives.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

const ARCHIVES: &[&str] = &["c", "m", "dl", "pthread", "rt", "util"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(wharf_static)");
    let is_release = env::var("PROFILE").as_deref() == Ok("release");
    let is_gnu = env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("gnu");
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let is_static = features.split(',').any(|feature| feature == "crt-static");
    if !is_release || !is_gnu || is_static {
        return Ok(());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for name in ARCHIVES {
        fs::write(out.join(format!("lib{name}.so")), format!("INPUT(-l:lib{name}.a)\n"))?;
    }
    // The archives call each other.
    fs::write(out.join("libgcc_s.so"), "GROUP(-l:libgcc_eh.a -l:libgcc.a -l:libc.a)\n")?;
    // An argument for this package's binaries, not a search path: that would reach every package
    // which links the library.
    println!("cargo::rustc-link-arg-bins=-L{}", out.display());
    // Not position independent: relocating at every start costs more than a short run should.
    println!("cargo::rustc-link-arg-bins=-no-pie");
    println!("cargo::rustc-link-arg-bins=-static");
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        // See `sys/code.rs`, which wants to know that pages have 4 KiB, too.
        println!("cargo::rustc-cfg=wharf_static");
    }
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        // The first instruction is the runtime's (its `sys/early.rs`), not the C library's.
        println!("cargo::rustc-link-arg-bins=-Wl,--entry=wharf_entry");
    }
    Ok(())
}
