//! A disk in memory that loses power, or fills up.
//!
//! What was written and not synced when the power fails is on the disk in part: each write since
//! the last sync is there or not, as a seeded coin says, and the last one may be torn.

use std::{
    io::{Error, ErrorKind},
    sync::{Arc, Mutex},
};

use redb::StorageBackend;

/// Bytes that a disk writes all or none of.
const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What a reader sees.
    now: Vec<u8>,
    /// What is on the disk for sure.
    synced: Vec<u8>,
    /// What was done since.
    since: Vec<Change>,
    /// Writes and syncs so far.
    steps: u64,
    syncs: u64,
    /// The power fails before the step of this number.
    fails_at: Option<u64>,
    /// No more than this fits.
    bytes_max: Option<u64>,
}

#[derive(Debug, Clone)]
enum Change {
    Len(u64),
    Write(u64, Vec<u8>),
}

impl Disk {
    pub(crate) fn steps(&self) -> u64 {
        self.0.lock().unwrap().steps
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.0.lock().unwrap().syncs
    }

    pub(crate) fn fail_at(&self, step: u64) {
        self.0.lock().unwrap().fails_at = Some(step);
    }

    pub(crate) fn fill_up_at(&self, bytes: u64) {
        self.0.lock().unwrap().bytes_max = Some(bytes);
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.0.lock().unwrap().now.len() as u64
    }

    /// Returns the disk as it is found when the power is back.
    pub(crate) fn after_power_cut(&self, seed: u64) -> Self {
        let state = self.0.lock().unwrap();
        let mut random = Random(seed);
        let mut found = state.synced.clone();
        for (index, change) in state.since.iter().enumerate() {
            let is_last = index + 1 == state.since.len();
            match change {
                Change::Len(len) => found.resize(*len as usize, 0),
                Change::Write(offset, bytes) => {
                    let survives = match random.next() % 3 {
                        0 => 0,
                        1 if is_last => bytes.len() / 2 / SECTOR_BYTES * SECTOR_BYTES,
                        _ => bytes.len(),
                    };
                    put(&mut found, *offset, &bytes[..survives]);
                }
            }
        }
        let state = State {
            now: found.clone(),
            synced: found,
            ..State::default()
        };
        Self(Arc::new(Mutex::new(state)))
    }
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn put(bytes: &mut Vec<u8>, offset: u64, written: &[u8]) {
    let begin = offset as usize;
    let end = begin + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[begin..end].copy_from_slice(written);
}

impl State {
    fn step(&mut self) -> Result<(), Error> {
        if self.fails_at.is_some_and(|at| self.steps >= at) {
            return Err(Error::other("the power is off"));
        }
        self.steps += 1;
        Ok(())
    }

    fn check_room(&self, len: u64) -> Result<(), Error> {
        match self.bytes_max {
            Some(max) if len > max => Err(ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.len_bytes())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let state = self.0.lock().unwrap();
        let begin = offset as usize;
        let bytes = state.now.get(begin..begin + out.len());
        out.copy_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        let mut state = self.0.lock().unwrap();
        state.check_room(len)?;
        state.step()?;
        state.now.resize(len as usize, 0);
        state.since.push(Change::Len(len));
        Ok(())
    }

    fn sync_data(&self) -> Result<(), Error> {
        let mut state = self.0.lock().unwrap();
        state.step()?;
        state.syncs += 1;
        for change in std::mem::take(&mut state.since) {
            match change {
                Change::Len(len) => state.synced.resize(len as usize, 0),
                Change::Write(offset, bytes) => put(&mut state.synced, offset, &bytes),
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let mut state = self.0.lock().unwrap();
        state.check_room(offset + data.len() as u64)?;
        state.step()?;
        put(&mut state.now, offset, data);
        state.since.push(Change::Write(offset, data.to_vec()));
        Ok(())
    }
}
