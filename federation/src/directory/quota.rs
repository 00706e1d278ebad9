//! How many ads each node, each network and all strangers together have in.

use std::collections::BTreeMap;

use aither_protocol::NodeId;

use super::{AddressPrefix, DirectorySettings, Reason, Standing};

/// Most peers whose useless ads are counted at once: more than a node is connected to.
pub(super) const COUNTED_PEERS_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Quotas {
    by_node: BTreeMap<NodeId, usize>,
    by_prefix: BTreeMap<AddressPrefix, usize>,
    strangers: usize,
}

/// What an ad was counted as when it came in. What its node has become since changes nothing
/// about what is given back when it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Charge(Option<AddressPrefix>);

impl Quotas {
    pub(super) fn strangers(&self) -> usize {
        self.strangers
    }

    /// Whether one more ad of a node may come in.
    pub(super) fn admits(
        &self,
        node: &NodeId,
        standing: Standing,
        settings: &DirectorySettings,
    ) -> Result<(), Reason> {
        let of_node = self.by_node.get(node).copied().unwrap_or(0);
        let of_node_max = match standing {
            Standing::Known => settings.ads_per_node_max,
            Standing::Stranger(_) => settings.ads_per_stranger_max,
        };
        if of_node >= of_node_max {
            return Err(Reason::NodeFull);
        }
        let Standing::Stranger(prefix) = standing else {
            return Ok(());
        };
        let of_prefix = self.by_prefix.get(&prefix).copied().unwrap_or(0);
        let full = self.strangers >= settings.strangers_max
            || of_prefix >= settings.strangers_per_prefix_max;
        if full {
            return Err(Reason::StrangersFull);
        }
        Ok(())
    }

    pub(super) fn charge(&mut self, node: &NodeId, standing: Standing) -> Charge {
        *self.by_node.entry(*node).or_default() += 1;
        match standing {
            Standing::Known => Charge(None),
            Standing::Stranger(prefix) => {
                self.strangers += 1;
                *self.by_prefix.entry(prefix).or_default() += 1;
                Charge(Some(prefix))
            }
        }
    }

    pub(super) fn release(&mut self, node: &NodeId, charge: Charge) {
        take_one(&mut self.by_node, node);
        if let Charge(Some(prefix)) = charge {
            self.strangers -= 1;
            take_one(&mut self.by_prefix, &prefix);
        }
    }
}

fn take_one<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
