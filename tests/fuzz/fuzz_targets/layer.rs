//! A layer's tar, applied to a folder: nothing outside of it may change.
#![no_main]

use std::{fs, path::PathBuf, sync::OnceLock};

use wharf_supervisor::drivers::unpack::{Limits, Target, unpack};

/// In memory, so that a run costs no disk.
fn base() -> &'static PathBuf {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let base = PathBuf::from(format!("/dev/shm/wharf-fuzz-{}", std::process::id()));
        fs::create_dir_all(base.join("outside")).expect("mkdir");
        fs::write(base.join("outside/secret"), "secret").expect("write");
        base
    })
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let base = base();
    let (folder, trash) = (base.join("layer"), base.join("trash"));
    for dir in [&folder, &trash] {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir(dir).expect("mkdir");
    }
    let limits = Limits { entries: 1000, total_bytes: 1 << 20, ..Limits::default() };
    let _ = unpack(bytes, Target { folder: &folder, trash: &trash }, None, &limits);
    let names: Vec<_> =
        fs::read_dir(base).expect("list").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(fs::read(base.join("outside/secret")).expect("read"), b"secret");
    assert_eq!(fs::read_dir(base.join("outside")).expect("list").count(), 1);
});
