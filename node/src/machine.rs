//! What this machine has: memory, of which a node takes a share.

use std::time::Duration;

use aither_inference::Engine;
use sysinfo::{MemoryRefreshKind, System};
use tokio::time::{self, MissedTickBehavior};

/// How often the memory is looked at.
const MEMORY_PERIOD: Duration = Duration::from_secs(2);
/// One part in so many of the memory is left for what else runs here.
const RESERVE_PARTS: u64 = 20;

/// This machine's memory, or the container's that the process runs in.
#[derive(Debug)]
pub struct Memory {
    system: System,
}

impl Memory {
    /// Returns nothing where the system does not tell.
    pub fn new() -> Option<Self> {
        let mut memory = Self {
            system: System::new().ok()?,
        };
        memory.refresh();
        (memory.system.total_memory() > 0).then_some(memory)
    }

    /// All of it, in bytes.
    pub fn total_bytes(&self) -> u64 {
        let limits = self.system.cgroup_limits();
        let limit = limits
            .map(|limits| limits.total_memory)
            .filter(|total| *total > 0);
        limit.unwrap_or(u64::MAX).min(self.system.total_memory())
    }

    /// What programs can have now without any being moved to the disk, in bytes.
    pub fn available_bytes(&mut self) -> u64 {
        self.refresh();
        let limits = self.system.cgroup_limits();
        // Files in memory give way, so only what programs hold counts.
        let of_container = limits
            .filter(|limits| limits.total_memory > 0)
            .map(|limits| limits.total_memory.saturating_sub(limits.rss));
        of_container
            .unwrap_or(u64::MAX)
            .min(self.system.available_memory())
    }

    fn refresh(&mut self) {
        let kind = MemoryRefreshKind::nothing().with_ram();
        self.system.refresh_memory_specifics(kind);
    }
}

/// Keeps telling the engine how much memory there is for it. Never ends by itself.
pub async fn watch_memory(engine: Engine) {
    let Some(mut memory) = Memory::new() else {
        tracing::warn!(
            "the system does not say how much memory is free; models keep to the budget"
        );
        return std::future::pending().await;
    };
    let reserve_bytes = memory.total_bytes() / RESERVE_PARTS;
    let mut ticks = time::interval(MEMORY_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_short = false;
    loop {
        ticks.tick().await;
        let available_bytes = memory.available_bytes();
        engine.note_available_memory(available_bytes, reserve_bytes);
        let is_short = available_bytes < reserve_bytes;
        if is_short && !was_short {
            tracing::warn!(
                available_bytes,
                "the machine is short of memory; caches shrink"
            );
        }
        was_short = is_short;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_and_not_all_of_it_is_free() {
        let mut memory = Memory::new().expect("tests run where the system tells");
        let (total, available) = (memory.total_bytes(), memory.available_bytes());
        assert!(0 < available && available < total, "{available} of {total}");
    }
}
