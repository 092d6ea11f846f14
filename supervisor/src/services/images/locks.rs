//! Who may do what at the same time.
//!
//! [`Keyed`]: one at a time for a layer or a blob, so that what two pulls need is fetched once.
//! [`Gate`]: whoever relies on content or layers that no record names yet holds it open; garbage is
//! collected only while nobody does.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{
    Mutex as AsyncMutex, OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock,
};

use crate::drivers::content::Digest;

/// One lock for each digest in use.
#[derive(Debug, Default)]
pub(super) struct Keyed {
    locks: Mutex<HashMap<Digest, Weak<AsyncMutex<()>>>>,
}

impl Keyed {
    /// Waits until nobody else has this key.
    pub(super) async fn lock(&self, key: &Digest) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            match locks.get(key).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    locks.retain(|_, lock| lock.strong_count() > 0);
                    let lock = Arc::new(AsyncMutex::new(()));
                    locks.insert(key.clone(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

/// Open while someone holds it.
#[derive(Debug, Default)]
pub(super) struct Gate {
    lock: Arc<RwLock<()>>,
    wanted: AtomicBool,
    forbidden: AtomicBool,
}

/// Keeps garbage collection away.
#[derive(Debug)]
pub struct Hold {
    /// Taken before the collection is tried.
    guard: Option<OwnedRwLockReadGuard<()>>,
    /// The image that a container is being made of.
    pub(super) image: Option<Made>,
    then: Release,
    quiet: bool,
}

/// Images that containers are being made of at this moment: they have no record yet that says so.
#[derive(Clone, Debug, Default)]
pub(super) struct Making(Arc<Mutex<HashMap<Digest, usize>>>);

/// One of them, for as long as it lives.
#[derive(Debug)]
pub(super) struct Made {
    making: Making,
    image: Digest,
}

impl Making {
    pub(super) fn begin(&self, image: &Digest) -> Made {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(image.clone()).or_default() += 1;
        Made { making: self.clone(), image: image.clone() }
    }

    pub(super) fn has(&self, image: &Digest) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(image)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let mut counts = self.making.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.image) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.image);
            }
        }
    }
}

/// Run when a hold ends: the last one lets a collection through that was put off.
#[derive(Clone)]
pub(super) struct Release(Arc<dyn Fn() + Send + Sync>);

impl Release {
    pub(super) fn new(then: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(then))
    }
}

impl std::fmt::Debug for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Release")
    }
}

impl Gate {
    pub(super) async fn hold(&self, then: Release) -> Hold {
        Hold {
            guard: Some(Arc::clone(&self.lock).read_owned().await),
            image: None,
            then,
            quiet: false,
        }
    }

    /// As long as this is so, the gate can't be shut.
    pub(super) fn forbid(&self, forbid: bool) {
        self.forbidden.store(forbid, Ordering::Release);
    }

    pub(super) fn is_forbidden(&self) -> bool {
        self.forbidden.load(Ordering::Acquire)
    }

    /// Shuts the gate if nobody holds it; if not, notes that a collection is wanted.
    pub(super) fn shut(&self) -> Option<OwnedRwLockWriteGuard<()>> {
        if self.is_forbidden() {
            return None;
        }
        self.wanted.store(true, Ordering::Release);
        let guard = Arc::clone(&self.lock).try_write_owned().ok()?;
        self.wanted.store(false, Ordering::Release);
        Some(guard)
    }

    /// A collection is wanted when the last hold ends.
    pub(super) fn want(&self) {
        self.wanted.store(true, Ordering::Release);
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }
}

impl Hold {
    /// Ends it without the collection that it may have put off: whoever calls this does it next.
    pub(super) fn end_quietly(mut self) {
        self.quiet = true;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.image = None;
        self.guard = None;
        if !self.quiet {
            (self.then.0)();
        }
    }
}
