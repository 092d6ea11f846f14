//! Being told that a log has grown or was rotated (inotify(7)).
//!
//! One instance for all logs: a host has 128 of them for a user (`fs.inotify.max_user_instances`),
//! and closing one waits some 10 ms for the kernel's readers, on whichever thread does it.

use std::{
    collections::HashMap,
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};
use tokio::sync::Notify;

/// A watch on the file that a path names now.
#[derive(Debug)]
pub struct LogWatch {
    hub: Arc<Hub>,
    /// Holds one change that nobody has waited for yet.
    told: Arc<Notify>,
    /// The kernel's number for what is watched.
    watched: Option<i32>,
}

impl LogWatch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// When the host has no more inotify instances (`fs.inotify.max_user_instances`).
    pub fn new() -> io::Result<Self> {
        Ok(Self { hub: Hub::get()?, told: Arc::default(), watched: None })
    }

    /// Watches what `path` names now, in place of what was watched before. Read after this, not
    /// before, and nothing is missed. A file that is not there is no error: ask again soon.
    ///
    /// # Errors
    /// When the kernel refuses the watch (`fs.inotify.max_user_watches`).
    pub fn watch(&mut self, path: &Path) -> io::Result<bool> {
        let Some(watched) = self.hub.add(path, &self.told)? else { return Ok(false) };
        if let Some(old) = self.watched.replace(watched) {
            self.hub.remove(old, &self.told);
        }
        Ok(true)
    }

    /// Waits for a change. Dropping the future loses nothing.
    pub async fn changed(&mut self) {
        self.told.notified().await;
    }
}

impl Drop for LogWatch {
    fn drop(&mut self) {
        if let Some(watched) = self.watched {
            self.hub.remove(watched, &self.told);
        }
    }
}

/// The instance, and who wants to know of what.
#[derive(Debug)]
struct Hub {
    inotify: OwnedFd,
    watched: Mutex<HashMap<i32, Vec<Arc<Notify>>>>,
}

impl Hub {
    /// The process's, which is made with a thread that reads it when it is first asked for.
    fn get() -> io::Result<Arc<Self>> {
        static HUB: Mutex<Option<Arc<Hub>>> = Mutex::new(None);
        let mut place = HUB.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hub) = &*place {
            return Ok(Arc::clone(hub));
        }
        let inotify = inotify::init(CreateFlags::CLOEXEC)?;
        let hub = Arc::new(Self { inotify, watched: Mutex::default() });
        let reader = Arc::clone(&hub);
        thread::Builder::new()
            .name("logs".into())
            .stack_size(64 << 10)
            .spawn(move || reader.read())?;
        Ok(Arc::clone(place.insert(hub)))
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<i32, Vec<Arc<Notify>>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one more who wants to know. The same file has the same number for all; `None` for a
    /// file that is not there.
    fn add(&self, path: &Path, told: &Arc<Notify>) -> io::Result<Option<i32>> {
        let flags = WatchFlags::MODIFY
            | WatchFlags::MOVE_SELF
            | WatchFlags::DELETE_SELF
            | WatchFlags::CLOSE_WRITE;
        // Locked around the call: what it tells at once finds its place.
        let mut watched = self.watched();
        match inotify::add_watch(&self.inotify, path, flags) {
            Ok(number) => {
                watched.entry(number).or_default().push(Arc::clone(told));
                Ok(Some(number))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes one who wanted to know away, once.
    fn remove(&self, number: i32, told: &Arc<Notify>) {
        let mut watched = self.watched();
        let Some(all) = watched.get_mut(&number) else { return };
        if let Some(index) = all.iter().position(|one| Arc::ptr_eq(one, told)) {
            all.swap_remove(index);
        }
        if all.is_empty() {
            watched.remove(&number);
            // Gone with its file, perhaps. Numbers are not given twice.
            let _ = inotify::remove_watch(&self.inotify, number);
        }
    }

    fn read(&self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match events.next() {
                Ok(event) => self.tell(event.wd(), event.events()),
                Err(Errno::INTR) => {}
                // Not to be had with a descriptor that is ours alone.
                Err(error) => {
                    tracing::error!(%error, "logs are no longer followed: inotify can't be read");
                    return;
                }
            }
        }
    }

    fn tell(&self, number: i32, what: ReadFlags) {
        let mut watched = self.watched();
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            watched.values().flatten().for_each(|one| one.notify_one());
        } else if what.contains(ReadFlags::IGNORED) {
            // The last word of a file that is gone.
            watched.remove(&number).iter().flatten().for_each(|one| one.notify_one());
        } else if let Some(all) = watched.get(&number) {
            all.iter().for_each(|one| one.notify_one());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, time::Duration};

    use super::*;

    async fn is_told(watch: &mut LogWatch) -> bool {
        tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn each_of_many_is_told_and_one_who_leaves_takes_nothing_along() {
        let folder = tempfile::tempdir().expect("works");
        let path = folder.path().join("log");
        // More than the host has instances for one user.
        let mut all: Vec<_> = (0..300).map(|_| LogWatch::new().expect("works")).collect();
        assert!(!all[0].watch(&path).expect("works"), "there is no such file yet");
        let mut file = fs::File::create(&path).expect("works");
        for watch in &mut all {
            assert!(watch.watch(&path).expect("works"));
        }
        let number = all[0].watched.expect("works");
        let hub = Arc::clone(&all[0].hub);
        all.truncate(2);
        writeln!(file, "more").expect("works");
        assert!(is_told(&mut all[0]).await && is_told(&mut all[1]).await);
        all.clear();
        assert!(!hub.watched().contains_key(&number), "nobody wants to know of it any more");
    }

    #[tokio::test]
    async fn a_rotated_log_is_followed_under_its_name() {
        let folder = tempfile::tempdir().expect("works");
        let path = folder.path().join("log");
        let mut file = fs::File::create(&path).expect("works");
        let mut watch = LogWatch::new().expect("works");
        watch.watch(&path).expect("works");
        fs::rename(&path, folder.path().join("log.1")).expect("works");
        assert!(is_told(&mut watch).await);
        let old = watch.watched;
        fs::write(&path, "next").expect("works");
        assert!(watch.watch(&path).expect("works"));
        assert_ne!(watch.watched, old);
        writeln!(file, "the old one is no longer heard").expect("works");
        fs::remove_file(&path).expect("works");
        assert!(is_told(&mut watch).await, "its end is told");
    }
}
