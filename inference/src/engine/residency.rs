//! Which models are in memory, and which have to go.
//!
//! A machine without I/O or clock. It counts the weights of loaded models, the expected size of
//! the one that is being loaded, and for each running request what it needs of the cache to begin
//! with; the rest of the budget is the caches'. Beside all models that requests run on there is
//! room for the largest of these requests to come to its end. Models that nobody runs on are
//! evicted when room is needed, the least recently used first, and unloaded when their time is
//! over. What leaves is handed to the caller, who drops it outside of any lock.
//!
//! The budget is what the operator grants. Where the machine has less to give, because of what
//! else runs on it, the limit is that: idle models leave, caches shrink, and what does not fit is
//! refused for the moment.

use std::time::{Duration, Instant};

use super::{CacheCounts, LoadedModel};

/// Names one registration of one file; a name that is registered anew gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ModelId(pub(super) u64);

/// Loaded models of type `M` within a budget.
#[derive(Debug)]
pub(super) struct Residency<M> {
    budget_bytes: u64,
    /// What the machine can give, at most the budget.
    limit_bytes: u64,
    idle_unload: Duration,
    entries: Vec<Entry<M>>,
    loading: Option<Loading>,
}

#[derive(Debug)]
struct Entry<M> {
    id: ModelId,
    name: String,
    model: M,
    weight_bytes: u64,
    /// What each running request needs of the cache, at first and at most.
    running: Vec<CacheNeed>,
    /// What the cache holds now.
    cache: CacheCounts,
    last_used: Instant,
    /// When an idle model goes; `None` is never.
    unload_at: Option<Instant>,
    /// Its name means another file now, or none: it goes as soon as it is idle.
    is_retired: bool,
    load: LoadSpan,
}

#[derive(Debug)]
struct Loading {
    id: ModelId,
    name: String,
    expected_bytes: u64,
    started: Instant,
}

/// What a request needs of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CacheNeed {
    /// To begin with.
    pub(super) bytes: u64,
    /// The most that it can come to.
    pub(super) bytes_max: u64,
}

/// When a model was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LoadSpan {
    pub(super) started: Instant,
    pub(super) finished: Instant,
}

/// What a request needs of the memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need<'a> {
    pub(super) id: ModelId,
    pub(super) name: &'a str,
    /// What the weights are expected to take, if they have to be loaded.
    pub(super) expected_bytes: u64,
    pub(super) cache: CacheNeed,
}

/// Whether a request can have what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The model is loaded, and there is room.
    Ready,
    /// A file is being read; ask again afterwards.
    Loading,
    /// There is room to load it; the caller starts that now.
    StartLoading,
    /// Others have to finish first.
    Full,
    /// It cannot fit while the machine is short of memory, whatever leaves.
    NotNow { needed_bytes: u64 },
    /// It cannot fit, whatever leaves.
    Never { needed_bytes: u64 },
}

/// An answer, and the models that had to leave for it.
#[derive(Debug)]
pub(super) struct Decision<M> {
    pub(super) place: Place,
    pub(super) evicted: Vec<M>,
}

/// A loaded model that did not fit: it comes back with what it takes.
#[derive(Debug)]
pub(super) struct TooLarge<M> {
    pub(super) model: M,
    pub(super) needed_bytes: u64,
}

impl<M: Clone> Residency<M> {
    pub(super) fn new(budget_bytes: u64, idle_unload: Duration) -> Self {
        Self {
            budget_bytes,
            limit_bytes: budget_bytes,
            idle_unload,
            entries: Vec::new(),
            loading: None,
        }
    }

    pub(super) fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    pub(super) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Takes note of how much more the machine has, of which a reserve is to be left; returns
    /// whether the limit has changed.
    pub(super) fn note_available(&mut self, available_bytes: u64, reserve_bytes: u64) -> bool {
        // While a file is read nobody knows how much of it is in memory already.
        if self.loading.is_some() {
            return false;
        }
        let held = self.entries.iter().map(Entry::held_bytes);
        let held_bytes = held.fold(0, u64::saturating_add);
        let limit_bytes = held_bytes
            .saturating_add(available_bytes)
            .saturating_sub(reserve_bytes)
            .min(self.budget_bytes);
        std::mem::replace(&mut self.limit_bytes, limit_bytes) != limit_bytes
    }

    /// Evicts idle models that the limit has no room for any more.
    pub(super) fn shrink(&mut self) -> Vec<M> {
        let mut evicted = Vec::new();
        while self.used_bytes() > self.limit_bytes {
            let Some(model) = self.evict_idle() else {
                break;
            };
            evicted.push(model);
        }
        evicted
    }

    /// Decides on a request and makes room for it. [`Place::StartLoading`] reserves that room
    /// until [`loaded`](Self::loaded) or [`load_failed`](Self::load_failed).
    pub(super) fn place(&mut self, need: Need<'_>, now: Instant) -> Decision<M> {
        let refuse = |place| Decision {
            place,
            evicted: Vec::new(),
        };
        let entry = self.entries.iter().find(|entry| entry.id == need.id);
        let (wanted_bytes, own_bytes) = match entry {
            Some(entry) => (need.cache.bytes, entry.weight_bytes),
            None => (need.cache.bytes.saturating_add(need.expected_bytes), 0),
        };
        let more_bytes = need.cache.bytes_max.saturating_sub(need.cache.bytes);
        let needed_bytes = wanted_bytes.saturating_add(own_bytes);
        let needed_bytes = needed_bytes.saturating_add(more_bytes);
        if needed_bytes > self.budget_bytes {
            return refuse(Place::Never { needed_bytes });
        }
        if needed_bytes > self.limit_bytes {
            return refuse(Place::NotNow { needed_bytes });
        }
        let is_loaded = entry.is_some();
        if !is_loaded && self.loading.is_some() {
            return refuse(Place::Loading);
        }
        if self.bytes_to_finish(&need) > self.limit_bytes {
            return refuse(Place::Full);
        }
        let Some(evicted) = self.make_room(wanted_bytes, need.id) else {
            return refuse(Place::Full);
        };
        let place = if is_loaded {
            Place::Ready
        } else {
            self.loading = Some(Loading {
                id: need.id,
                name: need.name.to_owned(),
                expected_bytes: need.expected_bytes,
                started: now,
            });
            Place::StartLoading
        };
        Decision { place, evicted }
    }

    /// Takes a model in that was read; returns those that left for it.
    ///
    /// # Errors
    /// It does not fit even alone.
    pub(super) fn loaded(
        &mut self,
        model: M,
        weight_bytes: u64,
        now: Instant,
    ) -> Result<Vec<M>, TooLarge<M>> {
        let loading = self.loading.take();
        if weight_bytes > self.budget_bytes || loading.is_none() {
            return Err(TooLarge {
                model,
                needed_bytes: weight_bytes,
            });
        }
        let Some(loading) = loading else {
            return Ok(Vec::new());
        };
        // It may be larger than expected. Where running requests are in the way it stays all the
        // same, and the next request waits.
        let evicted = self.make_room(weight_bytes, loading.id).unwrap_or_default();
        self.entries.push(Entry {
            id: loading.id,
            name: loading.name,
            model,
            weight_bytes,
            running: Vec::new(),
            cache: CacheCounts::default(),
            last_used: now,
            unload_at: now.checked_add(self.idle_unload),
            is_retired: false,
            load: LoadSpan {
                started: loading.started,
                finished: now,
            },
        });
        Ok(evicted)
    }

    /// Gives up the room of a model that could not be read.
    pub(super) fn load_failed(&mut self) {
        self.loading = None;
    }

    /// Returns the model that is being read.
    pub(super) fn loading(&self) -> Option<ModelId> {
        self.loading.as_ref().map(|loading| loading.id)
    }

    /// Starts a request on a model that is [`Place::Ready`].
    pub(super) fn acquire(&mut self, need: Need<'_>, now: Instant) -> Option<(M, LoadSpan)> {
        let entry = self.entry(need.id)?;
        entry.running.push(need.cache);
        entry.last_used = now;
        Some((entry.model.clone(), entry.load))
    }

    /// Ends a request. The model stays for `keep_alive`, or for the default time.
    pub(super) fn release(
        &mut self,
        id: ModelId,
        cache: CacheNeed,
        keep_alive: Option<Duration>,
        now: Instant,
    ) {
        let idle_unload = self.idle_unload;
        if let Some(entry) = self.entry(id) {
            if let Some(index) = entry.running.iter().position(|need| *need == cache) {
                entry.running.swap_remove(index);
            }
            entry.keep(keep_alive.unwrap_or(idle_unload), now);
        }
    }

    /// Sets how long a model stays without starting a request. Returns its load.
    pub(super) fn touch(
        &mut self,
        id: ModelId,
        keep_alive: Option<Duration>,
        now: Instant,
    ) -> Option<LoadSpan> {
        let idle_unload = self.idle_unload;
        let entry = self.entry(id)?;
        entry.keep(keep_alive.unwrap_or(idle_unload), now);
        Some(entry.load)
    }

    /// Lets a model go once it is idle: it is no longer registered.
    pub(super) fn retire(&mut self, id: ModelId, now: Instant) {
        if let Some(entry) = self.entry(id) {
            entry.is_retired = true;
            entry.unload_at = Some(now);
        }
    }

    /// Removes idle models whose time is over.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<M> {
        let is_over = |entry: &Entry<M>| {
            entry.is_idle() && entry.unload_at.is_some_and(|unload_at| unload_at <= now)
        };
        let mut expired = Vec::new();
        while let Some(index) = self.entries.iter().position(is_over) {
            expired.push(self.entries.remove(index).model);
        }
        expired
    }

    /// What caches may take together, beside the weights.
    pub(super) fn cache_budget_bytes(&self) -> u64 {
        let weights = self.entries.iter().map(|entry| entry.weight_bytes);
        let loading = self.loading.iter().map(|loading| loading.expected_bytes);
        let taken = weights.chain(loading).fold(0, u64::saturating_add);
        self.limit_bytes.saturating_sub(taken)
    }

    /// Takes note of the pages that a model's cache has and may have.
    pub(super) fn note_cache(
        &mut self,
        id: ModelId,
        pages: usize,
        pages_max: usize,
        page_bytes: u64,
    ) {
        if let Some(entry) = self.entry(id) {
            entry.cache = CacheCounts {
                pages,
                pages_max,
                page_bytes,
                ..entry.cache
            };
        }
    }

    /// Takes note of how many pages of a model's cache nobody uses.
    pub(super) fn note_idle_pages(&mut self, id: ModelId, pages_idle: usize) {
        if let Some(entry) = self.entry(id) {
            entry.cache.pages_idle = pages_idle;
        }
    }

    /// Returns the loaded models, the least recently used first.
    pub(super) fn models(&self) -> impl Iterator<Item = (ModelId, &M)> {
        let mut entries: Vec<&Entry<M>> = self.entries.iter().collect();
        entries.sort_by_key(|entry| entry.last_used);
        entries.into_iter().map(|entry| (entry.id, &entry.model))
    }

    /// Lets go of the least recently used model that nobody runs on.
    pub(super) fn evict_idle(&mut self) -> Option<M> {
        let idle = self.entries.iter().filter(|entry| entry.is_idle());
        let oldest = idle.min_by_key(|entry| entry.last_used)?.id;
        let index = self.entries.iter().position(|entry| entry.id == oldest)?;
        Some(self.entries.remove(index).model)
    }

    /// Returns when the next idle model's time is over.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let idle = self.entries.iter().filter(|entry| entry.is_idle());
        idle.filter_map(|entry| entry.unload_at).min()
    }

    /// Returns what is loaded, for the status. `on_gpu` says where weights live.
    pub(super) fn view(&self, on_gpu: bool, now: Instant) -> Vec<LoadedModel> {
        let view = |entry: &Entry<M>| {
            let resident_bytes = entry.held_bytes();
            LoadedModel {
                name: entry.name.clone(),
                resident_bytes,
                gpu_bytes: if on_gpu { resident_bytes } else { 0 },
                unloads_in: entry.unload_at.map_or(Duration::MAX, |unload_at| {
                    unload_at.saturating_duration_since(now)
                }),
                running: entry.running.len(),
                cache: entry.cache,
            }
        };
        self.entries.iter().map(view).collect()
    }

    fn entry(&mut self, id: ModelId) -> Option<&mut Entry<M>> {
        self.entries.iter_mut().find(|entry| entry.id == id)
    }

    fn used_bytes(&self) -> u64 {
        let entries = self.entries.iter();
        let entries = entries.map(|entry| {
            let caches = entry.running.iter().map(|need| need.bytes);
            caches.fold(entry.weight_bytes, u64::saturating_add)
        });
        let loading = self.loading.iter().map(|loading| loading.expected_bytes);
        entries.chain(loading).fold(0, u64::saturating_add)
    }

    /// What it takes for any one request to come to its end, while all others are suspended: the
    /// weights that cannot leave, with what is wanted anew, and the largest cache.
    fn bytes_to_finish(&self, need: &Need<'_>) -> u64 {
        let is_loaded = self.entries.iter().any(|entry| entry.id == need.id);
        let stays = |entry: &&Entry<M>| !entry.is_idle() || entry.id == need.id;
        let staying = self.entries.iter().filter(stays);
        let weights = staying.map(|entry| entry.weight_bytes);
        let loading = self.loading.iter().map(|loading| loading.expected_bytes);
        let expected = (!is_loaded).then_some(need.expected_bytes);
        let running = self.entries.iter().flat_map(|entry| &entry.running);
        let caches = running.map(|cache| cache.bytes_max);
        let largest = caches.chain([need.cache.bytes_max]).max();
        let all = weights.chain(loading).chain(expected).chain(largest);
        all.fold(0, u64::saturating_add)
    }

    /// Evicts idle models other than `kept` until `wanted_bytes` are free; evicts nothing and
    /// returns `None` where that would not be enough.
    fn make_room(&mut self, wanted_bytes: u64, kept: ModelId) -> Option<Vec<M>> {
        let is_idle = |entry: &&Entry<M>| entry.is_idle() && entry.id != kept;
        let idle = self.entries.iter().filter(is_idle);
        let idle_bytes: u64 = idle.map(|entry| entry.weight_bytes).sum();
        let busy_bytes = self.used_bytes().saturating_sub(idle_bytes);
        if busy_bytes.saturating_add(wanted_bytes) > self.limit_bytes {
            return None;
        }
        let mut evicted = Vec::new();
        while self.used_bytes().saturating_add(wanted_bytes) > self.limit_bytes {
            let idle = self.entries.iter().filter(is_idle);
            let oldest = idle.min_by_key(|entry| entry.last_used)?.id;
            let index = self.entries.iter().position(|entry| entry.id == oldest)?;
            evicted.push(self.entries.remove(index).model);
        }
        Some(evicted)
    }
}

impl<M> Entry<M> {
    fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// What its weights and its cache take.
    fn held_bytes(&self) -> u64 {
        let cache_bytes = (self.cache.pages as u64).saturating_mul(self.cache.page_bytes);
        self.weight_bytes.saturating_add(cache_bytes)
    }

    fn keep(&mut self, keep_alive: Duration, now: Instant) {
        self.last_used = now;
        self.unload_at = if self.is_retired {
            Some(now)
        } else {
            now.checked_add(keep_alive)
        };
    }
}

#[cfg(test)]
mod tests;
