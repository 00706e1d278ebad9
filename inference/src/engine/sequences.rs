//! The sequences that run on one model, their pages, and what is kept of those that ended.

use std::collections::BTreeMap;

use crate::{
    generate::{Part, SequenceId},
    kv_cache::{CacheFull, PageContent, PagePool, PageTable, PrefixTree},
};

/// Sequences in pages.
#[derive(Debug)]
pub(super) struct Sequences<C: PageContent> {
    pool: PagePool<C>,
    prefixes: PrefixTree<C>,
    live: BTreeMap<SequenceId, Sequence<C>>,
    last_id: u64,
}

/// One sequence.
#[derive(Debug)]
struct Sequence<C: PageContent> {
    /// What it has seen.
    ids: Vec<u32>,
    /// None while a pass has it.
    table: Option<PageTable<C>>,
}

/// Tables that a pass has. They come back when it is dropped, also by a panic.
pub(super) struct Lent<'a, C: PageContent> {
    pub(super) tables: Vec<PageTable<C>>,
    sequences: &'a mut Sequences<C>,
    parts: &'a [Part],
    is_done: bool,
}

/// Pages of one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PageCounts {
    /// That exist.
    pub(crate) existing: usize,
    /// That may exist.
    pub(crate) max: usize,
    /// Sequences that run.
    pub(crate) sequences: usize,
}

impl<C: PageContent> Sequences<C> {
    pub(super) fn new(pool: PagePool<C>) -> Self {
        Self {
            prefixes: PrefixTree::new(pool.clone()),
            pool,
            live: BTreeMap::new(),
            last_id: 0,
        }
    }

    pub(super) fn counts(&self) -> PageCounts {
        PageCounts {
            existing: self.pool.len(),
            max: self.pool.len_max(),
            sequences: self.live.len(),
        }
    }

    /// Pages that nobody uses now and that can be let go. Looks at each.
    pub(super) fn evictable(&self) -> usize {
        self.prefixes.evictable()
    }

    /// Says how many pages there may be, and lets go of those beyond that nobody uses.
    pub(super) fn set_pages_max(&mut self, pages_max: usize) {
        self.pool.set_len_max(pages_max);
        self.evict(self.pool.len().saturating_sub(pages_max));
    }

    /// Lets go of pages that nobody uses; returns how many those were.
    pub(super) fn evict(&mut self, count: usize) -> usize {
        self.prefixes.evict(count)
    }

    pub(super) fn begin(&mut self) -> SequenceId {
        let table = self.pool.table();
        self.insert(Vec::new(), table)
    }

    /// See [`Decoder::catch_up`](crate::generate::Decoder::catch_up).
    pub(super) fn catch_up(&mut self, id: SequenceId, ids: &[u32]) -> usize {
        let Some(sequence) = self.live.get_mut(&id) else {
            return 0;
        };
        let usable = &ids[..ids.len().saturating_sub(1)];
        if self.prefixes.known(usable) > sequence.ids.len() {
            let table = self.prefixes.find(usable);
            sequence.ids = usable[..table.len()].to_vec();
            sequence.table = Some(table);
        }
        sequence.ids.len()
    }

    pub(super) fn fork(&mut self, id: SequenceId) -> SequenceId {
        let found = self.live.get(&id);
        let table = found.and_then(|sequence| sequence.table.clone());
        let ids = found.map_or_else(Vec::new, |sequence| sequence.ids.clone());
        let table = table.unwrap_or_else(|| self.pool.table());
        self.insert(ids, table)
    }

    pub(super) fn forget_last(&mut self, id: SequenceId, count: usize) {
        if let Some(sequence) = self.live.get_mut(&id) {
            let len = sequence.ids.len().saturating_sub(count);
            sequence.ids.truncate(len);
            if let Some(table) = &mut sequence.table {
                table.truncate(len);
            }
        }
    }

    pub(super) fn remember(&mut self, id: SequenceId) {
        if let Some(Sequence {
            ids,
            table: Some(table),
        }) = self.live.get_mut(&id)
        {
            self.prefixes.insert(ids, table, false);
        }
    }

    pub(super) fn end(&mut self, id: SequenceId) {
        if let Some(Sequence {
            ids,
            table: Some(mut table),
        }) = self.live.remove(&id)
        {
            self.prefixes.insert(&ids, &mut table, true);
        }
    }

    /// Makes room for a pass and hands its tables out, one for each part.
    ///
    /// # Errors
    /// There is no room, whatever is let go; then nothing has changed but for that.
    pub(super) fn lend<'a>(&'a mut self, parts: &'a [Part]) -> Result<Lent<'a, C>, CacheFull> {
        let tables = parts.iter().filter_map(|part| {
            let table = self.live.get(&part.sequence)?.table.as_ref()?;
            Some(table.missing(part.ids.len()))
        });
        let missing: usize = tables.sum();
        let short = missing.saturating_sub(self.pool.free());
        let evicted = self.prefixes.evict(short);
        if evicted < short {
            let missing = short - evicted;
            return Err(CacheFull { missing });
        }
        let tables = parts.iter().map(|part| {
            let sequence = self.live.get_mut(&part.sequence);
            let table = sequence.and_then(|sequence| sequence.table.take());
            table.unwrap_or_else(|| self.pool.table())
        });
        Ok(Lent {
            tables: tables.collect(),
            sequences: self,
            parts,
            is_done: false,
        })
    }

    fn insert(&mut self, ids: Vec<u32>, table: PageTable<C>) -> SequenceId {
        self.last_id += 1;
        let id = SequenceId(self.last_id);
        let table = Some(table);
        self.live.insert(id, Sequence { ids, table });
        id
    }
}

impl<C: PageContent> Lent<'_, C> {
    /// Notes that the parts' ids were seen.
    pub(super) fn done(mut self) {
        self.is_done = true;
    }
}

impl<C: PageContent> Drop for Lent<'_, C> {
    fn drop(&mut self) {
        for (part, mut table) in self.parts.iter().zip(self.tables.drain(..)) {
            if let Some(sequence) = self.sequences.live.get_mut(&part.sequence) {
                if self.is_done {
                    sequence.ids.extend_from_slice(&part.ids);
                }
                table.truncate(sequence.ids.len());
                sequence.table = Some(table);
            }
        }
    }
}
