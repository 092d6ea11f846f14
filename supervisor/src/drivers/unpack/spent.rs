//! Where the time of a layer goes.

use std::{
    iter::Sum,
    ops::AddAssign,
    time::{Duration, Instant},
};

/// Time on the threads of a layer; those run beside each other, so the sum is more than the clock's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Waiting for the network, or reading the content store.
    pub network: Duration,
    /// Digests of blobs and layers.
    pub hash: Duration,
    /// Decompressing.
    pub inflate: Duration,
    /// Writing blobs and files.
    pub write: Duration,
    /// Flushing all of it.
    pub flush: Duration,
}

impl AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.network += other.network;
        self.hash += other.hash;
        self.inflate += other.inflate;
        self.write += other.write;
        self.flush += other.flush;
    }
}

impl Sum for Spent {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, one| {
            sum += one;
            sum
        })
    }
}

/// Runs `work` and adds what it took.
pub fn timed<T>(spent: &mut Duration, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    *spent += begun.elapsed();
    done
}
