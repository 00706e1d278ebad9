//! Pages: fixed pieces of cache that sequences share until they write.
//!
//! A [`PagePool`] counts every page that exists; a [`PageTable`] is what one sequence has seen, a
//! page for each [`PAGE_LEN`] positions. Tables that were cloned share pages. Whoever appends
//! first makes sure that the pages it writes are its own, and copies one that others hold
//! ([`PageTable::reserve`]). A page ends with its last holder, so none can leak or be freed early;
//! what a page holds is its user's business.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering, fence},
    },
};

/// Positions of a page: as many as attention takes at once, so that a page is read like a part of
/// one long buffer.
pub const PAGE_LEN: usize = 64;

/// Something that keeps what belongs to [`PAGE_LEN`] positions.
pub trait PageContent: Sized {
    /// What pages of one pool have in common.
    type Shape: fmt::Debug + Send + Sync;

    /// Returns a page's content before anything was written.
    fn empty(shape: &Self::Shape) -> Self;

    /// Takes over the first `positions` positions of another page.
    fn copy(&mut self, from: &Self, positions: usize);
}

/// Counts the pages of one shape. Clones share the count.
pub struct PagePool<C: PageContent> {
    shared: Arc<Shared<C>>,
}

#[derive(Debug)]
struct Shared<C: PageContent> {
    shape: C::Shape,
    /// Pages that may exist at once.
    len_max: AtomicUsize,
    len: AtomicUsize,
}

/// A page in use. Clones share it.
pub(super) struct Page<C: PageContent> {
    held: Arc<Held<C>>,
}

struct Held<C: PageContent> {
    content: C,
    pool: Arc<Shared<C>>,
}

/// The pages of one sequence.
pub struct PageTable<C: PageContent> {
    pool: PagePool<C>,
    pages: Vec<Page<C>>,
    /// Positions that are filled; the pages may have room for more.
    len: usize,
}

/// There are as many pages as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cache is full: {missing} more pages are needed")]
pub struct CacheFull {
    /// How many pages are missing.
    pub missing: usize,
}

impl<C: PageContent> PagePool<C> {
    /// Returns a pool of at most `len_max` pages.
    pub fn new(shape: C::Shape, len_max: usize) -> Self {
        let shared = Shared {
            shape,
            len_max: AtomicUsize::new(len_max),
            len: AtomicUsize::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// What all pages have in common.
    pub fn shape(&self) -> &C::Shape {
        &self.shared.shape
    }

    /// Pages that exist.
    pub fn len(&self) -> usize {
        self.shared.len.load(Ordering::Relaxed)
    }

    /// Whether none exists.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pages that may exist at once.
    pub fn len_max(&self) -> usize {
        self.shared.len_max.load(Ordering::Relaxed)
    }

    /// Changes how many pages may exist. Those beyond a lower bound stay until they are let go.
    pub fn set_len_max(&self, len_max: usize) {
        self.shared.len_max.store(len_max, Ordering::Relaxed);
    }

    /// Pages that may still come.
    pub fn free(&self) -> usize {
        self.len_max().saturating_sub(self.len())
    }

    /// Returns a sequence that has seen nothing.
    pub fn table(&self) -> PageTable<C> {
        PageTable {
            pool: self.clone(),
            pages: Vec::new(),
            len: 0,
        }
    }

    /// Returns a page of its own for the caller, whether or not there may be one more.
    fn page(&self) -> Page<C> {
        self.shared.len.fetch_add(1, Ordering::Relaxed);
        let held = Held {
            content: C::empty(&self.shared.shape),
            pool: Arc::clone(&self.shared),
        };
        Page {
            held: Arc::new(held),
        }
    }
}

impl<C: PageContent> Page<C> {
    /// Whether nobody else holds it.
    pub(super) fn is_sole(&self) -> bool {
        let is_sole = Arc::strong_count(&self.held) == 1;
        // What the last other holder did with it comes before what this one does.
        fence(Ordering::Acquire);
        is_sole
    }

    /// Returns the content for writing, if nobody else holds the page.
    fn content_mut(&mut self) -> Option<&mut C> {
        Arc::get_mut(&mut self.held).map(|held| &mut held.content)
    }
}

impl<C: PageContent> PageTable<C> {
    /// Returns a sequence that has seen `len` positions, which lie in `pages`.
    ///
    /// # Panics
    /// If these are not as many pages as that takes.
    pub(super) fn from_pages(pool: PagePool<C>, pages: Vec<Page<C>>, len: usize) -> Self {
        assert_eq!(pages.len(), len.div_ceil(PAGE_LEN));
        Self { pool, pages, len }
    }

    /// Positions that were seen.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none was seen.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many new pages [`reserve`](Self::reserve) would take.
    pub fn missing(&self, positions: usize) -> usize {
        let end = (self.len + positions).div_ceil(PAGE_LEN);
        let added = end.saturating_sub(self.pages.len());
        added + usize::from(positions > 0 && self.last_is_shared())
    }

    /// Makes room for so many more positions, in pages that are this sequence's alone.
    ///
    /// # Errors
    /// There may not be as many pages; nothing has changed then.
    pub fn reserve(&mut self, positions: usize) -> Result<(), CacheFull> {
        let missing = self.missing(positions);
        let free = self.pool.free();
        if missing > free {
            let missing = missing - free;
            return Err(CacheFull { missing });
        }
        if positions > 0 && self.last_is_shared() {
            let (full, kept) = (self.len / PAGE_LEN, self.len % PAGE_LEN);
            let mut page = self.pool.page();
            if let Some(content) = page.content_mut() {
                content.copy(&self.pages[full].held.content, kept);
            }
            self.pages[full] = page;
        }
        let end = (self.len + positions).div_ceil(PAGE_LEN);
        while self.pages.len() < end {
            self.pages.push(self.pool.page());
        }
        Ok(())
    }

    /// Counts positions in that were written to reserved pages.
    ///
    /// # Panics
    /// If there is no room for them.
    pub fn advance(&mut self, positions: usize) {
        let len = self.len + positions;
        assert!(len.div_ceil(PAGE_LEN) <= self.pages.len(), "reserved first");
        self.len = len;
    }

    /// Forgets all but the first `len` positions, and pages without any.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.pages.truncate(self.len.div_ceil(PAGE_LEN));
    }

    /// Returns the pages' contents, in order.
    pub fn contents(&self) -> impl ExactSizeIterator<Item = &C> {
        self.pages.iter().map(|page| &page.held.content)
    }

    /// Returns the content that holds a position of this sequence's own, for writing. There is
    /// none before it was reserved.
    pub fn content_mut(&mut self, position: usize) -> Option<&mut C> {
        self.pages.get_mut(position / PAGE_LEN)?.content_mut()
    }

    /// Returns the pages, in order, to be replaced by some with the same content.
    pub(super) fn pages_mut(&mut self) -> &mut [Page<C>] {
        &mut self.pages
    }

    /// Whether the next position falls into a page that others hold too.
    fn last_is_shared(&self) -> bool {
        let page = self.pages.get(self.len / PAGE_LEN);
        page.is_some_and(|page| !page.is_sole())
    }
}

impl<C: PageContent> Drop for Held<C> {
    fn drop(&mut self) {
        self.pool.len.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<C: PageContent> Clone for PagePool<C> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<C: PageContent> Clone for Page<C> {
    fn clone(&self) -> Self {
        Self {
            held: Arc::clone(&self.held),
        }
    }
}

impl<C: PageContent> Clone for PageTable<C> {
    fn clone(&self) -> Self {
        let pages = self.pages[..self.len.div_ceil(PAGE_LEN)].to_vec();
        Self {
            pool: self.pool.clone(),
            pages,
            len: self.len,
        }
    }
}

impl<C: PageContent> fmt::Debug for PagePool<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagePool")
            .field("len", &self.len())
            .field("len_max", &self.len_max())
            .finish_non_exhaustive()
    }
}

impl<C: PageContent> fmt::Debug for PageTable<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageTable")
            .field("len", &self.len)
            .field("pages", &self.pages.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A page of plain numbers, one for each position.
    pub(crate) type Numbers = [u64; PAGE_LEN];

    impl PageContent for Numbers {
        type Shape = ();

        fn empty((): &()) -> Self {
            [0; PAGE_LEN]
        }

        fn copy(&mut self, from: &Self, positions: usize) {
            self[..positions].copy_from_slice(&from[..positions]);
        }
    }

    pub(in super::super) fn append(table: &mut PageTable<Numbers>, numbers: &[u64]) {
        table.reserve(numbers.len()).unwrap();
        for number in numbers {
            let position = table.len();
            table.content_mut(position).unwrap()[position % PAGE_LEN] = *number;
            table.advance(1);
        }
    }

    pub(in super::super) fn read(table: &PageTable<Numbers>) -> Vec<u64> {
        let all = table.contents().flatten().copied();
        all.take(table.len()).collect()
    }

    fn numbers(range: std::ops::Range<u64>) -> Vec<u64> {
        range.collect()
    }

    #[test]
    fn what_was_appended_is_there_whatever_clones_append() {
        let pool = PagePool::new((), usize::MAX);
        let mut first = pool.table();
        append(&mut first, &numbers(0..100));
        let mut second = first.clone();
        append(&mut second, &numbers(500..600));
        append(&mut first, &numbers(100..130));
        assert_eq!(read(&first), numbers(0..130));
        let expected = [numbers(0..100), numbers(500..600)].concat();
        assert_eq!(read(&second), expected);
    }

    #[test]
    fn pages_are_shared_until_they_are_written_and_counted_once() {
        let pool = PagePool::new((), usize::MAX);
        let mut first = pool.table();
        append(&mut first, &numbers(0..130));
        assert_eq!(pool.len(), 3);
        let mut second = first.clone();
        assert_eq!(pool.len(), 3, "nothing is copied yet");
        assert_eq!(second.missing(1), 1, "the last page is to be copied");
        append(&mut second, &[1]);
        assert_eq!(pool.len(), 4, "the first two stay shared");
        assert_eq!(first.missing(1), 0, "the other's copy left this one alone");
        drop(first);
        assert_eq!(pool.len(), 3);
        second.truncate(64);
        assert_eq!(pool.len(), 1);
        drop(second);
        assert!(pool.is_empty());
    }

    #[test]
    fn a_full_page_is_never_copied() {
        let pool = PagePool::new((), usize::MAX);
        let mut first = pool.table();
        append(&mut first, &numbers(0..64));
        let mut second = first.clone();
        append(&mut second, &[7]);
        assert_eq!(pool.len(), 2);
    }

    #[test]
    fn what_was_forgotten_is_not_shared_again() {
        let pool = PagePool::new((), usize::MAX);
        let mut first = pool.table();
        append(&mut first, &numbers(0..70));
        let second = first.clone();
        first.truncate(10);
        append(&mut first, &numbers(900..910));
        assert_eq!(read(&second), numbers(0..70));
        assert_eq!(
            read(&first),
            [numbers(0..10), numbers(900..910)].concat(),
            "forgotten positions are written anew, in a copy"
        );
    }

    #[test]
    fn a_full_pool_refuses_and_changes_nothing() {
        let pool = PagePool::new((), 2);
        let mut table = pool.table();
        append(&mut table, &numbers(0..100));
        assert_eq!(table.reserve(100), Err(CacheFull { missing: 2 }));
        assert_eq!((pool.len(), table.len()), (2, 100));
        table.reserve(28).unwrap();
        let mut clone = table.clone();
        assert_eq!(clone.reserve(1), Err(CacheFull { missing: 1 }), "no copy");
        pool.set_len_max(3);
        clone.reserve(1).unwrap();
        assert_eq!(pool.free(), 0);
    }
}
