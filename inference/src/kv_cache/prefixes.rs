//! What sequences have begun with, kept so that the next one need not evaluate it again.
//!
//! A tree of pages: a node stands for the ids of one page after those of its ancestors. A new
//! sequence takes the pages of the longest path that it agrees with, of the last one only the part
//! that it agrees with. The tree holds pages like anybody else, so nobody writes them. Pages that
//! it alone holds are what can be evicted, the least recently used first.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::pages::{PAGE_LEN, Page, PageContent, PagePool, PageTable};

/// Beginnings of sequences of one model.
#[derive(Debug)]
pub struct PrefixTree<C: PageContent> {
    pool: PagePool<C>,
    /// By [`NodeId`]; places of nodes that are gone are used again.
    nodes: Vec<Option<Node<C>>>,
    unused: Vec<NodeId>,
    roots: Vec<NodeId>,
    /// Counts up with every use.
    clock: u64,
}

type NodeId = usize;

struct Node<C: PageContent> {
    /// At most [`PAGE_LEN`]; fewer have no children.
    ids: Vec<u32>,
    page: Page<C>,
    parent: Option<NodeId>,
    children: Vec<NodeId>,
    used: u64,
}

impl<C: PageContent> PrefixTree<C> {
    /// Returns an empty tree for pages of a pool.
    pub fn new(pool: PagePool<C>) -> Self {
        Self {
            pool,
            nodes: Vec::new(),
            unused: Vec::new(),
            roots: Vec::new(),
            clock: 0,
        }
    }

    /// Pages held here.
    pub fn len(&self) -> usize {
        self.nodes.len() - self.unused.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a sequence that has seen as many of the ids as are known.
    pub fn find(&mut self, ids: &[u32]) -> PageTable<C> {
        self.clock += 1;
        let (mut pages, mut len) = (Vec::new(), 0);
        let mut parent = None;
        while let Some((id, common)) = self.best_child(parent, &ids[len..]) {
            let Some(node) = self.touch(id) else { break };
            pages.push(node.page.clone());
            len += common;
            if common < PAGE_LEN {
                break;
            }
            parent = Some(id);
        }
        PageTable::from_pages(self.pool.clone(), pages, len)
    }

    /// Returns how many of the ids are known.
    pub fn known(&self, ids: &[u32]) -> usize {
        let mut len = 0;
        let mut parent = None;
        while let Some((id, common)) = self.best_child(parent, &ids[len..]) {
            len += common;
            if common < PAGE_LEN {
                break;
            }
            parent = Some(id);
        }
        len
    }

    /// Keeps the full pages of a sequence that has seen `ids`, and where it has ended and will
    /// write no more (`is_ended`) the page at its end too. Pages that are known already become the
    /// sequence's: it gives up its own, which say the same.
    ///
    /// # Panics
    /// If the sequence has not seen as many.
    pub fn insert(&mut self, ids: &[u32], table: &mut PageTable<C>, is_ended: bool) {
        assert_eq!(ids.len(), table.len());
        self.clock += 1;
        let mut parent = None;
        for (ids, page) in ids.chunks(PAGE_LEN).zip(table.pages_mut()) {
            let is_full = ids.len() == PAGE_LEN;
            if !is_full && !is_ended {
                return;
            }
            let found = self.best_child(parent, ids);
            let known = found.filter(|(_, common)| *common == ids.len());
            parent = match known.and_then(|(id, _)| Some((id, self.touch(id)?))) {
                Some((id, node)) => {
                    *page = node.page.clone();
                    Some(id)
                }
                None => Some(self.add(parent, ids, page.clone())),
            };
        }
    }

    /// Lets go of pages that nobody else holds until `count` of them are free; returns how many
    /// are.
    pub fn evict(&mut self, count: usize) -> usize {
        if count == 0 {
            return 0;
        }
        let leaf = |id: NodeId, node: &Node<C>| {
            let is_leaf = node.children.is_empty() && node.page.is_sole();
            is_leaf.then_some(Reverse((node.used, id)))
        };
        let nodes = self.nodes.iter().enumerate();
        let leaves = nodes.filter_map(|(id, node)| leaf(id, node.as_ref()?));
        let mut leaves: BinaryHeap<_> = leaves.collect();
        for evicted in 0..count {
            let Some(Reverse((_, id))) = leaves.pop() else {
                return evicted;
            };
            let parent = self.node(id).and_then(|node| node.parent);
            self.remove(id);
            let parent = parent.and_then(|id| Some((id, self.node(id)?)));
            leaves.extend(parent.and_then(|(id, node)| leaf(id, node)));
        }
        count
    }

    /// How many pages [`evict`](Self::evict) could free.
    pub fn evictable(&self) -> usize {
        // Whoever holds a page holds all before it, so none of these has a descendant in use.
        let nodes = self.nodes.iter().flatten();
        nodes.filter(|node| node.page.is_sole()).count()
    }

    /// The child whose ids agree longest with the next ones, and how many do. Of several, the
    /// most recently used.
    fn best_child(&self, parent: Option<NodeId>, ids: &[u32]) -> Option<(NodeId, usize)> {
        let children = match parent {
            Some(parent) => &self.node(parent)?.children,
            None => &self.roots,
        };
        let agreeing = children.iter().filter_map(|id| {
            let node = self.node(*id)?;
            let pairs = node.ids.iter().zip(ids);
            let common = pairs.take_while(|(own, other)| own == other).count();
            (common > 0).then_some((common, node.used, *id))
        });
        let (common, _, id) = agreeing.max()?;
        Some((id, common))
    }

    fn add(&mut self, parent: Option<NodeId>, ids: &[u32], page: Page<C>) -> NodeId {
        // Another page's beginning says nothing that this one does not.
        let siblings = match parent.and_then(|parent| self.node(parent)) {
            Some(parent) => parent.children.clone(),
            None => self.roots.clone(),
        };
        for sibling in siblings {
            let is_beginning = |node: &Node<C>| ids.starts_with(&node.ids);
            if self.node(sibling).is_some_and(is_beginning) {
                self.remove(sibling);
            }
        }
        let node = Node {
            ids: ids.to_vec(),
            page,
            parent,
            children: Vec::new(),
            used: self.clock,
        };
        let id = match self.unused.pop() {
            Some(id) => {
                self.nodes[id] = Some(node);
                id
            }
            None => {
                self.nodes.push(Some(node));
                self.nodes.len() - 1
            }
        };
        self.children_of(parent).push(id);
        id
    }

    fn remove(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(id).and_then(Option::take) else {
            return;
        };
        self.unused.push(id);
        self.children_of(node.parent).retain(|child| *child != id);
    }

    fn children_of(&mut self, parent: Option<NodeId>) -> &mut Vec<NodeId> {
        match parent.and_then(|parent| self.nodes.get_mut(parent)?.as_mut()) {
            Some(parent) => &mut parent.children,
            None => &mut self.roots,
        }
    }

    fn node(&self, id: NodeId) -> Option<&Node<C>> {
        self.nodes.get(id)?.as_ref()
    }

    fn touch(&mut self, id: NodeId) -> Option<&Node<C>> {
        let node = self.nodes.get_mut(id)?.as_mut()?;
        node.used = self.clock;
        Some(node)
    }
}

impl<C: PageContent> std::fmt::Debug for Node<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("ids", &self.ids.len())
            .field("children", &self.children)
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::pages::tests::{Numbers, append, read},
        *,
    };

    /// Stands for what evaluation computes: it depends on all ids up to there.
    fn evaluate(table: &mut PageTable<Numbers>, ids: &[u32]) {
        let mut state = read(table).last().copied().unwrap_or(1);
        for id in ids {
            state = state.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(*id);
            append(table, &[state]);
        }
    }

    fn evaluated(pool: &PagePool<Numbers>, ids: &[u32]) -> PageTable<Numbers> {
        let mut table = pool.table();
        evaluate(&mut table, ids);
        table
    }

    fn ids(range: std::ops::Range<u32>) -> Vec<u32> {
        range.collect()
    }

    fn tree() -> (PagePool<Numbers>, PrefixTree<Numbers>) {
        let pool = PagePool::new((), usize::MAX);
        (pool.clone(), PrefixTree::new(pool))
    }

    #[test]
    fn a_sequence_begins_with_what_is_known_to_the_id() {
        let (pool, mut tree) = tree();
        let seen = ids(0..200);
        tree.insert(&seen, &mut evaluated(&pool, &seen), true);
        assert_eq!(tree.len(), 4);
        for common in [0, 1, 63, 64, 65, 128, 199, 200] {
            let wanted = [&seen[..common], &[7777, 8888]].concat();
            assert_eq!(tree.known(&wanted), common);
            let mut table = tree.find(&wanted);
            assert_eq!(table.len(), common);
            evaluate(&mut table, &wanted[common..]);
            assert_eq!(read(&table), read(&evaluated(&pool, &wanted)));
        }
        assert!(tree.find(&[]).is_empty());
    }

    #[test]
    fn a_sequence_that_goes_on_shares_full_pages_only() {
        let (pool, mut tree) = tree();
        let seen = ids(0..100);
        let mut table = evaluated(&pool, &seen);
        tree.insert(&seen, &mut table, false);
        assert_eq!(tree.known(&seen), 64);
        assert_eq!(table.missing(1), 0, "its last page is still its own");
        evaluate(&mut table, &[5]);
        assert_eq!(tree.known(&seen), 64);
    }

    #[test]
    fn what_is_known_is_not_kept_twice() {
        let (pool, mut tree) = tree();
        let seen = ids(0..100);
        for _ in 0..3 {
            tree.insert(&seen, &mut evaluated(&pool, &seen), true);
        }
        tree.insert(&seen[..80], &mut evaluated(&pool, &seen[..80]), true);
        assert_eq!((tree.len(), pool.len()), (2, 2));
        let longer = ids(0..130);
        tree.insert(&longer, &mut evaluated(&pool, &longer), true);
        assert_eq!(tree.len(), 3, "the page that was not full gave way");
        assert_eq!(pool.len(), 3);
    }

    #[test]
    fn the_least_recently_used_goes_first_and_leaves_before_their_parents() {
        let (pool, mut tree) = tree();
        let first = ids(0..128);
        let second = [&first[..64], &ids(500..564)].concat();
        let third = ids(900..964);
        for seen in [&first, &second, &third] {
            tree.insert(seen, &mut evaluated(&pool, seen), true);
        }
        assert_eq!((pool.len(), tree.evictable()), (4, 4));
        tree.find(&first);
        assert_eq!(tree.evict(1), 1);
        assert_eq!(tree.known(&second), 64);
        assert_eq!(tree.evict(1), 1);
        assert_eq!(tree.known(&third), 0);
        assert_eq!(tree.known(&first), 128);
        assert_eq!(tree.evict(1), 1);
        assert_eq!(tree.known(&first), 64);
        assert_eq!(tree.evict(9), 1);
        assert!(tree.is_empty() && pool.is_empty());
    }

    #[test]
    fn pages_of_a_running_sequence_are_not_evicted() {
        let (pool, mut tree) = tree();
        let seen = ids(0..192);
        tree.insert(&seen, &mut evaluated(&pool, &seen), true);
        let running = tree.find(&seen[..130]);
        assert_eq!(running.len(), 130);
        assert_eq!((tree.evictable(), tree.evict(9)), (0, 0));
        let shorter = tree.find(&seen[..64]);
        drop(running);
        assert_eq!(tree.evictable(), 2);
        assert_eq!(tree.evict(9), 2);
        assert_eq!((tree.len(), shorter.len()), (1, 64));
    }

    #[test]
    fn what_two_evaluated_at_once_is_kept_once() {
        let (pool, mut tree) = tree();
        let seen = ids(0..150);
        let mut both = [evaluated(&pool, &seen), evaluated(&pool, &seen)];
        assert_eq!(pool.len(), 6);
        for table in &mut both {
            tree.insert(&seen, table, false);
        }
        assert_eq!(
            pool.len(),
            4,
            "two are shared, and each has an end of its own"
        );
        assert_eq!(read(&both[0]), read(&both[1]));
        assert_eq!(tree.evictable(), 0);
    }

    #[derive(Debug, Clone)]
    enum Action {
        /// Begin a sequence with so many ids of one of a few texts, then some of its own.
        Begin(u8, usize, usize),
        Grow(usize, usize),
        Fork(usize),
        Forget(usize, usize),
        End(usize),
        Evict(usize),
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        let action = prop_oneof![
            (0..3_u8, 0..300_usize, 0..80_usize)
                .prop_map(|(text, common, own)| Action::Begin(text, common, own)),
            (any::<usize>(), 1..100_usize).prop_map(|(of, len)| Action::Grow(of, len)),
            any::<usize>().prop_map(Action::Fork),
            (any::<usize>(), 0..70_usize).prop_map(|(of, len)| Action::Forget(of, len)),
            any::<usize>().prop_map(Action::End),
            (0..8_usize).prop_map(Action::Evict),
        ];
        prop::collection::vec(action, 1..60)
    }

    proptest! {
        /// Whatever sequences share, fork and forget, each reads what it would alone, and a page
        /// exists as long as somebody holds it.
        #[test]
        fn nobody_reads_what_another_wrote(actions in actions()) {
            let (pool, mut tree) = tree();
            let mut running: Vec<(Vec<u32>, PageTable<Numbers>)> = Vec::new();
            let mut own_id = 1000;
            let mut own = |len: usize| -> Vec<u32> {
                (0..len).map(|_| { own_id += 1; own_id }).collect()
            };
            for action in actions {
                let count = running.len().max(1);
                let at = |of: usize| of % count;
                match action {
                    Action::Begin(text, common, len) => {
                        let text = (0..common as u32).map(|i| u32::from(text) * 7 + i / 90);
                        let ids = [text.collect(), own(len)].concat();
                        let mut table = tree.find(&ids);
                        let known = table.len();
                        evaluate(&mut table, &ids[known..]);
                        tree.insert(&ids, &mut table, false);
                        running.push((ids, table));
                    }
                    Action::Grow(of, len) if !running.is_empty() => {
                        let (ids, table) = &mut running[at(of)];
                        let added = own(len);
                        evaluate(table, &added);
                        ids.extend(added);
                    }
                    Action::Fork(of) if !running.is_empty() => {
                        let fork = running[at(of)].clone();
                        running.push(fork);
                    }
                    Action::Forget(of, len) if !running.is_empty() => {
                        let (ids, table) = &mut running[at(of)];
                        ids.truncate(ids.len().saturating_sub(len));
                        table.truncate(ids.len());
                    }
                    Action::End(of) if !running.is_empty() => {
                        let (ids, mut table) = running.swap_remove(at(of));
                        tree.insert(&ids, &mut table, true);
                    }
                    Action::Evict(count) => {
                        let before = (pool.len(), tree.evictable());
                        let evicted = tree.evict(count);
                        prop_assert_eq!(evicted, count.min(before.1));
                        prop_assert_eq!(pool.len(), before.0 - evicted);
                    }
                    _ => {}
                }
                for (ids, table) in &running {
                    prop_assert_eq!(table.len(), ids.len());
                    let mut alone = PagePool::new((), usize::MAX).table();
                    evaluate(&mut alone, ids);
                    prop_assert_eq!(read(table), read(&alone));
                }
            }
            drop(running);
            prop_assert_eq!(pool.len(), tree.len());
            tree.evict(usize::MAX);
            prop_assert!(pool.is_empty() && tree.is_empty());
        }
    }
}
