//! The content store on a real folder.

use std::{collections::HashSet, fs, io::Read as _};

use super::{ContentStore, Digest, Error};
use crate::fault::Fault as _;
use wharf_proto::kind::Kind;

fn store() -> (tempfile::TempDir, ContentStore) {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = ContentStore::open(dir.path()).expect("open");
    (dir, store)
}

#[test]
fn a_blob_comes_back_as_it_went_in() {
    let (dir, store) = store();
    let digest = Digest::of(b"hello world");
    let mut ingest = store.ingest(Some(&digest), Some(11)).expect("ingest");
    ingest.write(b"hello ").expect("write");
    ingest.write(b"world").expect("write");
    assert_eq!(store.stat(&digest).expect("stat"), None, "no name before the commit");
    let blob = ingest.commit_flushed().expect("commit");
    assert_eq!((blob.digest, blob.size_bytes), (digest.clone(), 11));
    assert_eq!(store.read(&digest, 64).expect("read"), b"hello world");
    let path = dir.path().join("content/blobs/sha256").join(digest.hex());
    assert!(path.is_file());
    store.delete(&digest).expect("delete");
    store.delete(&digest).expect("a second delete is no error");
    assert!(matches!(store.open_blob(&digest), Err(Error::NotFound(d)) if d == digest));
}

#[test]
fn wrong_bytes_are_refused_and_leave_nothing() {
    let (dir, store) = store();
    let digest = Digest::of(b"good");
    let mut ingest = store.ingest(Some(&digest), Some(4)).expect("ingest");
    ingest.write(b"evil").expect("write");
    let error = ingest.commit().expect_err("another digest");
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains(&digest.to_string()), "{error}");

    let mut ingest = store.ingest(Some(&digest), Some(4)).expect("ingest");
    assert!(matches!(ingest.write(b"good and more"), Err(Error::Size { found: 13, .. })));
    drop(ingest);
    let mut ingest = store.ingest(Some(&digest), Some(4)).expect("ingest");
    ingest.write(b"go").expect("write");
    assert!(matches!(ingest.commit(), Err(Error::Size { found: 2, .. })));
    assert_eq!(fs::read_dir(dir.path().join("content/ingest")).expect("list").count(), 0);
    assert_eq!(store.stat(&digest).expect("stat"), None);
}

#[test]
fn a_blob_that_rots_is_an_error_that_names_it() {
    let (_dir, store) = store();
    let blob = store.put(b"precious bytes").expect("put");
    fs::write(store.path(&blob.digest), b"precious bitez").expect("rot");
    let error = store.read(&blob.digest, 64).expect_err("rotten");
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains(&blob.digest.to_string()), "{error}");
    let mut reader = store.open_blob(&blob.digest).expect("open");
    reader.read_to_end(&mut Vec::new()).expect_err("rotten");
    assert!(matches!(reader.corruption(), Some(Error::Corrupt { .. })));
}

#[test]
fn a_sweep_keeps_what_is_named() {
    let (dir, store) = store();
    let kept = store.put(b"kept").expect("put");
    let dropped = store.put(b"dropped").expect("put");
    fs::write(dir.path().join("content/ingest/77"), b"half").expect("write");
    let keep = HashSet::from([kept.digest.clone()]);
    assert_eq!(store.sweep(&keep).expect("sweep"), [dropped]);
    assert!(store.stat(&kept.digest).expect("stat").is_some());
    assert_eq!(fs::read_dir(dir.path().join("content/ingest")).expect("list").count(), 0);
}

#[test]
fn a_file_that_is_no_blob_is_left_alone() {
    let (dir, store) = store();
    let blob = store.put(b"nobody wants it").expect("put");
    let foreign = dir.path().join("content/blobs/sha256/notes.txt");
    fs::write(&foreign, b"somebody's").expect("write");
    let removed = store.retain(&HashSet::new()).expect("retain");
    assert_eq!(removed.iter().map(|b| &b.digest).collect::<Vec<_>>(), [&blob.digest]);
    assert!(foreign.is_file());
}
