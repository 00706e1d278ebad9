//! The device that runs the models, chosen at run time.
//!
//! The CPU is always there: burn's flex backend with this crate's kernels. GPU backends are cargo
//! features, because they cost many minutes to build; [`Backend::choose`] says how to get
//! one where a build lacks it, and falls back with a warning where `auto` finds none that works.

use std::sync::Arc;

use burn::tensor::Device;

use crate::{
    engine::BackendChoice,
    error::{Error, Result},
    ops::cpu::InstructionSet,
};

#[cfg(feature = "gpu")]
mod gpu;

/// A device and the threads that feed it. Clones share them.
#[derive(Debug, Clone)]
pub struct Backend {
    device: Device,
    is_gpu: bool,
    description: String,
    pool: Arc<rayon::ThreadPool>,
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
        let count = pool.current_num_threads();
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

    /// Runs work on the backend's threads; rayon's operations inside use them and no others.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }
}

fn pool(threads: usize) -> Result<Arc<rayon::ThreadPool>> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("inference-{index}"))
        .build()
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
