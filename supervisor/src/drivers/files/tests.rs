use std::{
    fs::{self, File},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{MetadataExt as _, symlink},
    },
    path::Path,
};

use super::{Error, Follow, Keep, Owners, extract, find};

struct Root {
    dir: tempfile::TempDir,
    fd: OwnedFd,
}

/// A root with a folder, links that lead out, and something outside that must stay as it is.
fn root() -> Root {
    let dir = tempfile::tempdir().expect("tempdir");
    let at = |path: &str| dir.path().join(path);
    fs::create_dir_all(at("root/data/deep")).expect("mkdir");
    fs::create_dir(at("outside")).expect("mkdir");
    fs::write(at("outside/secret"), "secret").expect("write");
    fs::write(at("root/data/file"), "content").expect("write");
    symlink("../../outside", at("root/data/up")).expect("link");
    symlink(at("outside"), at("root/data/away")).expect("link");
    symlink("/data/deep", at("root/data/inside")).expect("link");
    let fd = File::open(at("root")).expect("open").into();
    Root { dir, fd }
}

impl Root {
    fn path(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join(path)
    }

    fn put(&self, tar: &[u8], folder: &str) -> Result<(), Error> {
        let none = Owners::default();
        extract(tar, self.fd.as_fd(), folder.as_bytes(), Keep::Owners, &none)
    }

    fn check(&self) {
        let outside: Vec<_> = fs::read_dir(self.path("outside")).expect("list").collect();
        assert_eq!(outside.len(), 1);
        assert_eq!(fs::read_to_string(self.path("outside/secret")).expect("read"), "secret");
    }
}

fn header(kind: tar::EntryType, len: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o640);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(1_000_000_000);
    header.set_size(len as u64);
    header
}

fn tar_of(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, kind, text) in entries {
        let is_link = kind.is_symlink() || kind.is_hard_link();
        let data = if is_link { "" } else { text };
        let mut header = header(*kind, data.len());
        if is_link {
            header.set_link_name_literal(text).expect("link");
        }
        // Not `set_path`, which refuses what is hostile.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        tar.append(&header, data.as_bytes()).expect("append");
    }
    tar.into_inner().expect("tar")
}

#[test]
fn what_goes_in_comes_out() {
    use tar::EntryType as E;
    let root = root();
    let tar = tar_of(&[
        ("new/", E::Directory, ""),
        ("new/a", E::Regular, "text"),
        ("new/b", E::Link, "new/a"),
        ("new/c", E::Symlink, "a"),
        ("no/entry/for/these", E::Regular, "x"),
        ("file", E::Regular, "other"),
    ]);
    root.put(&tar, "/data").expect("extract");
    let meta = fs::metadata(root.path("root/data/new/a")).expect("there");
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777, meta.nlink()), (7, 8, 0o640, 2));
    assert_eq!(meta.mtime(), 1_000_000_000);
    assert_eq!(fs::metadata(root.path("root/data/new")).expect("there").mtime(), 1_000_000_000);
    assert_eq!(fs::read_to_string(root.path("root/data/file")).expect("read"), "other");

    let found = find(root.fd.as_fd(), b"/data/new", Follow::No).expect("found");
    let mut packed = Vec::new();
    found.pack(&mut packed, &Owners::default()).expect("pack");
    let mut names = Vec::new();
    for entry in tar::Archive::new(&packed[..]).entries().expect("a tar") {
        let entry = entry.expect("an entry");
        let link = entry.link_name().expect("a name").map(|l| l.display().to_string());
        names.push((entry.path().expect("a path").display().to_string(), link));
    }
    let some = |text: &str| Some(text.to_owned());
    let expected =
        [("new/", None), ("new/a", None), ("new/b", some("new/a")), ("new/c", some("a"))];
    assert_eq!(names, expected.map(|(path, link)| (path.to_owned(), link)));
    let found = find(root.fd.as_fd(), b"/data/new/.", Follow::No).expect("found");
    assert!(found.called.is_empty());
    root.check();
}

#[test]
fn links_lead_only_inside() {
    use tar::EntryType as E;
    let root = root();
    for (folder, path) in [
        ("/data/up", "x"),
        ("/data/away", "x"),
        ("/data", "up/x"),
        ("/data", "away/x"),
        ("/data", "away/secret"),
    ] {
        // Refused, or made below the root: never outside.
        let _ = root.put(&tar_of(&[(path, E::Regular, "bad")]), folder);
        root.check();
    }
    root.put(&tar_of(&[("inside/x", E::Regular, "good")]), "/data").expect("a link inside");
    assert!(root.path("root/data/deep/x").exists());
    // A link that the archive itself makes.
    let tar = tar_of(&[
        ("l", E::Symlink, "../../outside"),
        ("l/x", E::Regular, "bad"),
        ("m", E::Symlink, "/../../outside/secret"),
        ("m", E::Regular, "bad"),
        ("h", E::Link, "away/secret"),
    ]);
    let _ = root.put(&tar, "/data");
    root.check();
    for path in ["../x", "a/../../x", ".."] {
        let error = root.put(&tar_of(&[(path, E::Regular, "bad")]), "/data").expect_err(path);
        assert!(matches!(error, Error::Path { .. }), "{error}");
    }
    for path in ["/data/up/secret", "/data/away/secret", "/../outside/secret"] {
        for follow in [Follow::Yes, Follow::No] {
            assert!(find(root.fd.as_fd(), path.as_bytes(), follow).is_err(), "{path}");
        }
    }
    let link = find(root.fd.as_fd(), b"/data/inside", Follow::No).expect("a link");
    assert_eq!(link.link_target, b"/data/deep");
    let folder = find(root.fd.as_fd(), b"/data/inside", Follow::Yes).expect("a folder");
    assert_eq!(folder.called, b"inside");
    root.check();
}

#[test]
fn a_folder_is_replaced_by_nothing_else() {
    use tar::EntryType as E;
    let root = root();
    for (path, kind) in [("deep", E::Regular), ("deep", E::Symlink), ("file", E::Directory)] {
        let error = root.put(&tar_of(&[(path, kind, "x")]), "/data").expect_err("in the way");
        assert!(matches!(error, Error::FolderInTheWay(_)), "{error}");
    }
    assert!(matches!(root.put(&tar_of(&[]), "/data/file"), Err(Error::NotFolder(_))));
    assert!(matches!(root.put(&tar_of(&[]), "/none"), Err(Error::NotFound(_))));
    assert!(root.put(b"no tar at all, and longer than nothing".as_slice(), "/data").is_err());
    assert!(Path::new(&root.path("root/data/deep")).is_dir());
}
