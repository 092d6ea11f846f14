//! Small layers; the hostile corpus is among the crate's integration tests.

use std::io::{Cursor, Write as _};

use super::{Compression, Error, Limits, Target, unpack};
use crate::drivers::content::Digest;

fn layer() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    header.set_uid(rustix::process::getuid().as_raw().into());
    header.set_gid(rustix::process::getgid().as_raw().into());
    header.set_mtime(1_000_000_000);
    builder.append_data(&mut header, "a/deep/file", &b"hello"[..]).expect("append");
    builder.into_inner().expect("finish")
}

#[test]
fn the_same_from_every_compression() {
    let plain = layer();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).expect("gzip");
    let zstd = zstd::encode_all(Cursor::new(&plain), 1).expect("zstd");
    let expected = Digest::of(&plain);
    for blob in [plain.clone(), gzip.finish().expect("gzip"), zstd] {
        let dir = tempfile::tempdir().expect("tempdir");
        let trash = tempfile::tempdir().expect("tempdir");
        let target = Target { folder: dir.path(), trash: trash.path() };
        let unpacked = unpack(&blob[..], target, Some(&expected), &Limits::default())
            .unwrap_or_else(|e| panic!("{:?}: {e:?}", Compression::detect(&blob)));
        assert_eq!(unpacked.size_bytes, 5);
        assert_eq!(unpacked.implicit, [&b""[..], b"a", b"a/deep"]);
        assert_eq!(std::fs::read(dir.path().join("a/deep/file")).expect("read"), b"hello");
    }
}

#[test]
fn errors_say_whose_fault_it_is() {
    let dir = tempfile::tempdir().expect("tempdir");
    let target = Target { folder: dir.path(), trash: dir.path() };
    let limits = Limits::default();
    let plain = layer();
    let wrong = Digest::of(b"something else");
    let error = unpack(&plain[..], target, Some(&wrong), &limits).expect_err("wrong diff id");
    assert!(matches!(&error, Error::DiffId { .. }), "{error:?}");
    assert!(error.to_string().contains(&wrong.to_string()), "{error}");

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).expect("gzip");
    let mut gzip = gzip.finish().expect("gzip");
    gzip.truncate(gzip.len() - 6);
    let error = unpack(&gzip[..], target, None, &limits).expect_err("cut");
    assert!(matches!(error, Error::Decompress(_)), "{error:?}");

    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the wire is cut"))
        }
    }
    let error = unpack(Broken, target, None, &limits).expect_err("broken");
    assert!(matches!(error, Error::Source(_)), "{error:?}");
}
