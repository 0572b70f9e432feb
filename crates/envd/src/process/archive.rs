//! The rings of all processes under one bound: envd's memory is the sandbox's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::ring::{Chunk, Kind, Ring};
use crate::random::lower_alphanumeric;
use crate::sync::lock;

/// What all rings may cost together.
const ARCHIVE_MAX: usize = 16 * 1024 * 1024;
/// Letters of a process's name: enough that no two are ever the same.
const NAME_LENGTH: usize = 16;

/// All rings. Processes are numbered as they start, so the first is the oldest.
#[derive(Debug, Default)]
struct Rings {
    started: u64,
    rings: BTreeMap<u64, Ring>,
    /// Those with something in them.
    filled: BTreeSet<u64>,
    cost: usize,
}

impl Rings {
    fn open(&mut self) -> u64 {
        self.started += 1;
        self.rings.insert(self.started, Ring::default());
        self.started
    }

    fn append(&mut self, serial: u64, kind: Kind, data: &Bytes, limit: usize) -> u64 {
        let at = self.change(serial, |ring| ring.append(kind, data));
        while self.cost > limit
            && let Some(oldest) = self.filled.first().copied()
        {
            self.change(oldest, Ring::drop_oldest);
        }
        at.unwrap_or_default()
    }

    /// Changes one ring and keeps the account.
    fn change<T>(&mut self, serial: u64, change: impl FnOnce(&mut Ring) -> T) -> Option<T> {
        let ring = self.rings.get_mut(&serial)?;
        let before = ring.cost();
        let outcome = change(ring);
        self.cost = self.cost + ring.cost() - before;
        if ring.is_empty() {
            self.filled.remove(&serial);
        } else if before == 0 {
            self.filled.insert(serial);
        }
        Some(outcome)
    }

    fn close(&mut self, serial: u64) {
        self.change(serial, Ring::clear);
        self.rings.remove(&serial);
    }
}

/// Where the output of all processes is kept for a while.
#[derive(Debug, Default)]
pub(crate) struct Archive(Mutex<Rings>);

impl Archive {
    /// A place for a new process.
    pub(crate) fn open(self: &Arc<Self>) -> Arc<Tape> {
        Arc::new(Tape {
            archive: Arc::clone(self),
            serial: lock(&self.0).open(),
            name: lower_alphanumeric(NAME_LENGTH),
        })
    }
}

/// The place of one process, given up when its last holder drops it.
#[derive(Debug)]
pub(crate) struct Tape {
    archive: Arc<Archive>,
    serial: u64,
    /// Tells the process from others that have its number before or after it.
    pub(crate) name: String,
}

impl Tape {
    /// Keeps output, and gives its position.
    pub(crate) fn append(&self, kind: Kind, data: &Bytes) -> u64 {
        lock(&self.archive.0).append(self.serial, kind, data, ARCHIVE_MAX)
    }

    /// How much was ever written.
    pub(crate) fn end(&self) -> u64 {
        self.with(Ring::end)
    }

    /// Position of the oldest byte that is still kept; the end when there is none.
    pub(crate) fn start(&self) -> u64 {
        self.with(Ring::start)
    }

    /// What is still kept of the bytes from one position up to another.
    pub(crate) fn between(&self, from: u64, to: u64) -> VecDeque<Chunk> {
        self.with(|ring| ring.between(from, to))
    }

    fn with<T: Default>(&self, look: impl FnOnce(&Ring) -> T) -> T {
        lock(&self.archive.0)
            .rings
            .get(&self.serial)
            .map(look)
            .unwrap_or_default()
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        lock(&self.archive.0).close(self.serial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 100 * 1024;

    fn chunk() -> Bytes {
        Bytes::from(vec![b'x'; 16 * 1024])
    }

    fn held(rings: &Rings, serial: u64) -> u64 {
        let ring = &rings.rings[&serial];
        ring.end() - ring.start()
    }

    #[test]
    fn the_bytes_of_the_oldest_process_go_first() {
        let mut rings = Rings::default();
        let [old, young] = [rings.open(), rings.open()];
        for _ in 0..3 {
            rings.append(old, Kind::Stdout, &chunk(), LIMIT);
            rings.append(young, Kind::Stdout, &chunk(), LIMIT);
        }
        assert_eq!(
            (held(&rings, old), held(&rings, young)),
            (48 * 1024, 48 * 1024)
        );
        rings.append(young, Kind::Stdout, &chunk(), LIMIT);
        assert_eq!(
            (held(&rings, old), held(&rings, young)),
            (32 * 1024, 64 * 1024)
        );
        for _ in 0..10 {
            rings.append(young, Kind::Stdout, &chunk(), LIMIT);
        }
        // Then its own; the old one's position is not forgotten.
        assert_eq!((held(&rings, old), held(&rings, young)), (0, 96 * 1024));
        assert_eq!(rings.append(old, Kind::Stdout, &chunk(), LIMIT), 48 * 1024);
        assert_eq!(
            held(&rings, old),
            0,
            "the oldest has nothing while all is full"
        );
        assert!(rings.cost <= LIMIT);
    }

    #[test]
    fn what_is_given_up_is_no_longer_counted() {
        let archive = Arc::new(Archive::default());
        let (one, two) = (archive.open(), archive.open());
        assert_ne!(one.name, two.name);
        one.append(Kind::Stdout, &chunk());
        two.append(Kind::Stderr, &Bytes::from_static(b"abc"));
        let other_holder = Arc::clone(&one);
        drop(one);
        assert_eq!(other_holder.end(), 16 * 1024);
        drop(other_holder);
        assert_eq!((two.start(), two.end(), two.between(1, 9).len()), (0, 3, 1));
        drop(two);
        let rings = lock(&archive.0);
        assert!(rings.rings.is_empty() && rings.filled.is_empty());
        assert_eq!(rings.cost, 0);
    }

    #[test]
    fn a_quiet_process_takes_no_room() {
        let archive = Arc::new(Archive::default());
        let quiet = archive.open();
        assert_eq!(
            (quiet.start(), quiet.end(), lock(&archive.0).cost),
            (0, 0, 0)
        );
    }
}
