//! A model that blocks, fails or answers on demand.

use super::*;

/// The id that panics.
pub(super) const PANIC: u32 = 13;
/// The id that it always says.
pub(super) const SAID: u32 = 65;

/// What tests see and steer of the scripted models.
#[derive(Debug, Default)]
pub(super) struct Controls {
    pub(super) loads: AtomicUsize,
    /// While set, a step takes a message from here first.
    pub(super) gate: Mutex<Option<Receiver<()>>>,
    /// While set, a load takes a message from here first.
    pub(super) load_gate: Mutex<Option<Receiver<()>>>,
    pub(super) alive: AtomicUsize,
}

pub(super) struct ScriptedLoader(pub(super) Arc<Controls>);

/// Says the same whatever it is asked.
#[derive(Debug)]
struct ScriptedModel {
    controls: Arc<Controls>,
    vocabulary_size: usize,
    weight_bytes: u64,
    sequences: Sequences<Numbers>,
}

fn pass(gate: &Mutex<Option<Receiver<()>>>) {
    if let Some(gate) = &*gate.lock().unwrap() {
        // A dropped sender opens the gate for good.
        let _ = gate.recv();
    }
}

impl Loader for ScriptedLoader {
    fn load(&self, gguf: &Gguf, _is_busy: bool) -> Result<Box<dyn LoadedDecoder>> {
        pass(&self.0.load_gate);
        self.0.loads.fetch_add(1, Atomic::SeqCst);
        self.0.alive.fetch_add(1, Atomic::SeqCst);
        let embedding = gguf.tensor("token_embd.weight").unwrap();
        Ok(Box::new(ScriptedModel {
            controls: Arc::clone(&self.0),
            vocabulary_size: embedding.shape[1] as usize,
            weight_bytes: gguf.size_bytes(),
            sequences: Sequences::new(PagePool::new((), usize::MAX)),
        }))
    }
}

impl Drop for ScriptedModel {
    fn drop(&mut self) {
        self.controls.alive.fetch_sub(1, Atomic::SeqCst);
    }
}

impl LoadedDecoder for ScriptedModel {
    fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    fn page_bytes(&self) -> u64 {
        0
    }

    fn page_counts(&self) -> PageCounts {
        self.sequences.counts()
    }

    fn evictable(&self) -> usize {
        self.sequences.evictable()
    }

    fn set_pages_max(&mut self, pages_max: usize) {
        self.sequences.set_pages_max(pages_max);
    }

    fn evict(&mut self, count: usize) -> usize {
        self.sequences.evict(count)
    }
}

impl Decoder for ScriptedModel {
    fn begin(&mut self) -> SequenceId {
        self.sequences.begin()
    }

    fn catch_up(&mut self, sequence: SequenceId, ids: &[u32]) -> usize {
        self.sequences.catch_up(sequence, ids)
    }

    fn fork(&mut self, sequence: SequenceId) -> SequenceId {
        self.sequences.fork(sequence)
    }

    fn forget_last(&mut self, sequence: SequenceId, count: usize) {
        self.sequences.forget_last(sequence, count);
    }

    fn remember(&mut self, sequence: SequenceId) {
        self.sequences.remember(sequence);
    }

    fn end(&mut self, sequence: SequenceId) {
        self.sequences.end(sequence);
    }

    fn extend(&mut self, parts: &[Part]) -> Result<LogitRows> {
        let mut lent = self.sequences.lend(parts)?;
        pass(&self.controls.gate);
        let mut rows = Vec::new();
        for (part, table) in parts.iter().zip(&mut lent.tables) {
            assert!(!part.ids.contains(&PANIC), "scripted panic");
            table.reserve(part.ids.len())?;
            table.advance(part.ids.len());
            let mut logits = vec![0.0; self.vocabulary_size];
            logits[SAID as usize] = 50.0;
            rows.extend(std::iter::repeat_n(logits, part.logits_len()));
        }
        lent.done();
        Ok(rows.into_iter().collect())
    }
}
