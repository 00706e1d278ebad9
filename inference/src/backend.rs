//! The device that runs the models, chosen at run time.
//!
//! The CPU is always there: burn's flex backend with this crate's kernels. GPU backends are cargo
//! features, because they cost many minutes to build; [`Backend::choose`] says how to get
//! one where a build lacks it, and falls back with a warning where `auto` finds none that works.

use std::{num::NonZero, sync::Arc};

use burn::tensor::Device;

use crate::{
    engine::BackendChoice,
    error::{Error, Result},
    ops::cpu::{InstructionSet, pool::Pool},
};

#[cfg(feature = "gpu")]
mod gpu;

/// A device and the threads that feed it. Clones share them.
#[derive(Debug, Clone)]
pub struct Backend {
    device: Device,
    is_gpu: bool,
    description: String,
    pool: Arc<Pool>,
}

impl Backend {
    /// Chooses a device. `threads` of 0 takes one per core.
    ///
    /// # Errors
    /// `gpu` was demanded and there is none, or the threads cannot be started.
    pub fn choose(choice: BackendChoice, threads: usize) -> Result<Self> {
        let gpu = match choice {
            BackendChoice::Cpu => return Self::cpu(threads, "as configured"),
            BackendChoice::Auto | BackendChoice::Gpu => open_gpu(choice == BackendChoice::Auto),
        };
        match (gpu, choice) {
            (Ok((device, name)), _) => {
                let description = format!("gpu ({name})");
                let pool = pool(threads)?;
                Ok(Self {
                    device,
                    is_gpu: true,
                    description,
                    pool,
                })
            }
            (Err(why), BackendChoice::Gpu) => Err(Error::BackendUnavailable {
                backend: "gpu".into(),
                message: why,
            }),
            (Err(why), _) => {
                if cfg!(feature = "gpu") {
                    tracing::warn!(why, "no usable GPU: falling back to the CPU");
                }
                Self::cpu(threads, &why)
            }
        }
    }

    /// Returns the CPU backend.
    ///
    /// # Errors
    /// The threads cannot be started.
    fn cpu(threads: usize, why: &str) -> Result<Self> {
        let pool = pool(threads)?;
        let set = InstructionSet::detect().name();
        let count = pool.threads();
        let description = format!("cpu ({count} threads, {set}): {why}");
        Ok(Self {
            device: Device::flex(),
            is_gpu: false,
            description,
            pool,
        })
    }

    /// Burn's handle on the device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether weights live in a GPU's memory.
    pub fn is_gpu(&self) -> bool {
        self.is_gpu
    }

    /// The device in words, and why it was chosen.
    pub fn describe(&self) -> &str {
        &self.description
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Runs work whose operations on the CPU share threads of their own, so many with this one.
    /// They end with it.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn run_apart<R>(&self, threads: usize, work: impl FnOnce() -> R) -> Result<R> {
        Ok(pool(threads)?.install(work))
    }

    /// Runs work whose operations on the CPU share the backend's threads. This thread is one of
    /// them.
    pub fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        self.pool.install(work)
    }
}

/// Starts threads; 0 means one per core.
fn pool(threads: usize) -> Result<Arc<Pool>> {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, NonZero::get),
        threads => threads,
    };
    Pool::new(threads)
        .map(Arc::new)
        .map_err(|error| Error::BackendUnavailable {
            backend: "cpu".into(),
            message: format!("cannot start {threads} compute threads: {error}"),
        })
}

#[cfg(feature = "gpu")]
fn open_gpu(needs_room: bool) -> std::result::Result<(Device, String), String> {
    gpu::open(needs_room)
}

#[cfg(not(feature = "gpu"))]
fn open_gpu(_needs_room: bool) -> std::result::Result<(Device, String), String> {
    Err("this build has no GPU backend; \
         rebuild with `cargo build --release --features vulkan` (or cuda, webgpu)"
        .into())
}
