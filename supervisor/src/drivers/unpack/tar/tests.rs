//! Archives made by GNU tar's rules and by nobody's.

#![allow(clippy::print_stdout, reason = "a test says why it is skipped")]

use super::{Entry, EntryKind, Error, Extent, TarReader};
use crate::drivers::unpack::Limits;

/// One entry by hand: header, data, padding.
fn entry(flag: u8, name: &[u8], data: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name);
    block[100..107].copy_from_slice(b"0000644");
    block[108..115].copy_from_slice(b"0001750");
    block[116..123].copy_from_slice(b"0000062");
    block[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
    block[136..147].copy_from_slice(b"14524770000");
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut block);
    block.extend_from_slice(data);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len.to_string().len() + rest != len {
            len += 1;
        }
        bytes.extend_from_slice(format!("{len} {key}=").as_bytes());
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
    }
    entry(b'x', b"pax", &bytes)
}

fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, Error> {
    read_with(bytes, Limits::default())
}

fn read_with(bytes: &[u8], limits: Limits) -> Result<Vec<(Entry, Vec<u8>)>, Error> {
    let mut tar = TarReader::new(bytes, limits);
    let mut entries = Vec::new();
    while let Some(entry) = tar.next_entry()? {
        let mut data = Vec::new();
        loop {
            let lent = tar.data()?;
            let n = lent.len();
            if n == 0 {
                break;
            }
            data.extend_from_slice(lent);
            tar.consume(n);
        }
        entries.push((entry, data));
    }
    Ok(entries)
}

#[test]
fn ustar_pax_and_gnu_names() {
    let long = vec![b'n'; 300];
    let archive = [
        entry(b'0', b"plain", b"hello"),
        entry(b'L', b"././@LongLink", &[&long[..], b"\0"].concat()),
        entry(b'0', b"cut", b"gnu"),
        pax(&[
            ("path", b"dir/p\xc3\xa4x"),
            ("uid", b"70000"),
            ("mtime", b"12.5"),
            ("SCHILY.xattr.user.a=b", b"v=\n1"),
        ]),
        entry(b'5', b"short", b""),
        vec![0; 1024],
        b"and what comes after the end".to_vec(),
    ]
    .concat();
    let entries = read_all(&archive).expect("a tar");
    assert_eq!(entries.len(), 3);
    assert_eq!((&entries[0].0.path[..], &entries[0].1[..]), (&b"plain"[..], &b"hello"[..]));
    assert_eq!((entries[0].0.uid, entries[0].0.gid, entries[0].0.mode), (1000, 50, 0o644));
    assert_eq!(entries[1].0.path, long);
    let dir = &entries[2].0;
    assert_eq!((&dir.path[..], dir.kind, dir.uid), ("dir/päx".as_bytes(), EntryKind::Dir, 70000));
    assert_eq!((dir.mtime_s, dir.mtime_ns), (12, 500_000_000));
    // The key ends at the first equals sign.
    assert_eq!(dir.xattrs, [(b"user.a".to_vec(), b"b=v=\n1".to_vec())]);
}

#[test]
fn sparse_files_in_all_three_forms_of_pax() {
    let map = b"2\n0\n3\n4096\n2\n";
    let mut data = map.to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"abcde");
    let v1 = [
        pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"real"),
            ("GNU.sparse.realsize", b"8192"),
        ]),
        entry(b'0', b"GNUSparseFile.0/real", &data),
    ]
    .concat();
    let v01 = [
        pax(&[
            ("GNU.sparse.size", b"8192"),
            ("GNU.sparse.name", b"real"),
            ("GNU.sparse.map", b"0,3,4096,2"),
        ]),
        entry(b'0', b"x", b"abcde"),
    ]
    .concat();
    let v00 = [
        pax(&[
            ("GNU.sparse.size", b"8192"),
            ("GNU.sparse.offset", b"0"),
            ("GNU.sparse.numbytes", b"3"),
            ("GNU.sparse.offset", b"4096"),
            ("GNU.sparse.numbytes", b"2"),
        ]),
        entry(b'0', b"real", b"abcde"),
    ]
    .concat();
    for archive in [v1, v01, v00] {
        let entries = read_all(&archive).expect("a tar");
        let (entry, data) = &entries[0];
        assert_eq!((&entry.path[..], entry.size), (&b"real"[..], 8192));
        assert_eq!(data, b"abcde");
        let extents = [Extent { offset: 0, len: 3 }, Extent { offset: 4096, len: 2 }];
        assert_eq!(entry.sparse.as_deref(), Some(&extents[..]));
    }
}

#[test]
fn damaged_and_hostile_archives_are_refused() {
    let good = entry(b'0', b"f", b"data");
    let mut flipped = good.clone();
    flipped[0] ^= 1;
    assert!(matches!(read_all(&flipped), Err(Error::Header(_))));
    assert!(matches!(read_all(&good[..514]), Err(Error::Truncated)));
    assert!(matches!(read_all(&good[..100]), Err(Error::Truncated)));
    let lone = [vec![0; 512], good.clone()].concat();
    assert!(matches!(read_all(&lone), Err(Error::Header(_))));
    assert!(matches!(read_all(&entry(b'Z', b"f", b"")), Err(Error::Kind { kind: 'Z', .. })));
    assert!(read_all(b"").expect("nothing is an empty tar").is_empty());

    let limits = Limits { entries: 2, ..Limits::default() };
    assert!(matches!(read_with(&good.repeat(3), limits), Err(Error::Limit { .. })));
    let mut huge = entry(b'x', b"pax", b"");
    huge[124..136].copy_from_slice(b"77777777777\0");
    seal(&mut huge);
    assert!(matches!(read_all(&huge), Err(Error::Limit { .. })), "nothing is allocated for it");
    let long = pax(&[("path", &vec![b'a'; 5000])]);
    assert!(matches!(read_all(&[long, good.clone()].concat()), Err(Error::Limit { .. })));
    let nul = pax(&[("path", b"a\0b")]);
    assert!(matches!(read_all(&[nul, good.clone()].concat()), Err(Error::Field { .. })));
    for map in [&b"0,3,2,2"[..], b"0,9", b"5,18446744073709551615", b"0,3,9000,2", b"0"] {
        let sparse = pax(&[("GNU.sparse.size", b"8192"), ("GNU.sparse.map", map)]);
        let archive = [sparse, entry(b'0', b"x", b"abcde")].concat();
        assert!(matches!(read_all(&archive), Err(Error::Field { .. })), "{map:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2048)) {
        let _ = read_all(&bytes);
    }

    #[test]
    fn no_sealed_header_makes_it_panic(
        flag in proptest::sample::select(&b"0123456xgLKSV"[..]),
        header in proptest::collection::vec(proptest::num::u8::ANY, 512),
        data in proptest::collection::vec(proptest::num::u8::ANY, 0..1024),
    ) {
        let mut bytes = header;
        bytes[156] = flag;
        bytes[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        bytes[100..124].fill(b'0');
        seal(&mut bytes);
        bytes.extend_from_slice(&data);
        let _ = read_all(&bytes);
    }
}

#[test]
fn reads_what_gnu_tar_writes() {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::write(dir.path().join("file"), b"content").expect("write");
    let sparse = std::fs::File::create(dir.path().join("sparse")).expect("create");
    sparse.set_len(1 << 20).expect("grow");
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 500_000).expect("write");
    for format in ["gnu", "posix", "ustar", "v7", "oldgnu"] {
        let mut command = std::process::Command::new("tar");
        command.arg(format!("--format={format}")).args(["-cSf", "-", "-C"]);
        if matches!(format, "ustar" | "v7") {
            command = std::process::Command::new("tar");
            command.arg(format!("--format={format}")).args(["-cf", "-", "-C"]);
        }
        let Ok(output) = command.arg(dir.path()).arg(".").output() else {
            println!("skipped: no tar on this machine");
            return;
        };
        let entries = read_all(&output.stdout).expect("a tar");
        let find = |name: &[u8]| entries.iter().find(|(e, _)| e.path == name).expect("entry");
        assert_eq!(find(b"./file").1, b"content", "{format}");
        assert_eq!(find(b"./").0.kind, EntryKind::Dir, "{format}");
        assert_eq!(find(b"./sparse").0.size, 1 << 20, "{format}");
    }
}
