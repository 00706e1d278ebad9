//! Opening a GPU through burn, and looking whether it has room.
//!
//! Drivers fail in their own ways, some by panicking inside a library, so a device counts as usable
//! only after it has multiplied two small matrices correctly.

use std::{panic::catch_unwind, process::Command};

use burn::tensor::{Device, Tensor};

/// Set to `1` to accept a software rasterizer as GPU: for tests on machines without one.
const SOFTWARE_VARIABLE: &str = "AITHER_SOFTWARE_GPU";

/// A GPU with less free memory than this is not taken by `auto`: a small model with its cache.
const FREE_BYTES_MIN: u64 = 1 << 30;

/// Opens the best GPU of this build. With `needs_room`, refuses one that is nearly full.
pub(super) fn open(needs_room: bool) -> Result<(Device, String), String> {
    if needs_room
        && let Some(free) = free_bytes()
        && free < FREE_BYTES_MIN
    {
        return Err(format!("the GPU has only {} MiB free", free >> 20));
    }
    let mut reasons = Vec::new();
    for (name, open) in candidates() {
        match catch_unwind(|| probe(open())) {
            Ok(Ok((device, card))) => return Ok((device, format!("{name}: {card}"))),
            Ok(Err(why)) => reasons.push(format!("{name}: {why}")),
            Err(_) => reasons.push(format!("{name}: the driver could not open a device")),
        }
    }
    Err(reasons.join("; "))
}

type Candidate = (&'static str, fn() -> Device);

/// The compiled-in interfaces, fastest first.
fn candidates() -> Vec<Candidate> {
    #[allow(unused_mut, reason = "which lines are there depends on features")]
    let mut list: Vec<Candidate> = Vec::new();
    #[cfg(feature = "cuda")]
    list.push(("cuda", || Device::cuda(0)));
    #[cfg(feature = "vulkan")]
    list.push(("vulkan", || {
        Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)
    }));
    #[cfg(feature = "webgpu")]
    list.push(("webgpu", || Device::wgpu(wgpu_kind())));
    list
}

#[cfg(feature = "webgpu")]
fn wgpu_kind() -> burn::tensor::DeviceKind {
    if software_allowed() {
        burn::tensor::DeviceKind::Cpu
    } else {
        burn::tensor::DeviceKind::DefaultDevice
    }
}

fn software_allowed() -> bool {
    std::env::var(SOFTWARE_VARIABLE).is_ok_and(|value| value == "1")
}

/// Multiplies two matrices on the device and compares.
fn probe(device: Device) -> Result<(Device, String), String> {
    let card = device
        .identity()
        .map_or_else(|| "unnamed".into(), |identity| identity.name);
    let software = ["llvmpipe", "lavapipe", "swiftshader"];
    if software
        .iter()
        .any(|name| card.to_lowercase().contains(name))
        && !software_allowed()
    {
        return Err(format!(
            "{card} is software; set {SOFTWARE_VARIABLE}=1 to use it all the same"
        ));
    }
    let left = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &device);
    let right = Tensor::<2>::from_floats([[5.0, 6.0], [7.0, 8.0]], &device);
    let product = left
        .matmul(right)
        .into_data()
        .try_to_vec::<f32>()
        .map_err(|error| format!("reading a result failed: {error:?}"))?;
    if product == [19.0, 22.0, 43.0, 50.0] {
        Ok((device, card))
    } else {
        Err(format!("{card} multiplies wrongly"))
    }
}

/// Free memory of the first GPU, as far as its driver says: NVIDIA's tool, or amdgpu's files.
fn free_bytes() -> Option<u64> {
    let query = ["--query-gpu=memory.free", "--format=csv,noheader,nounits"];
    if let Ok(output) = Command::new("nvidia-smi").args(query).output()
        && output.status.success()
        && let Ok(text) = String::from_utf8(output.stdout)
        && let Some(mebibytes) = text
            .lines()
            .next()
            .and_then(|line| line.trim().parse().ok())
    {
        let mebibytes: u64 = mebibytes;
        return Some(mebibytes << 20);
    }
    let read = |file: &str| -> Option<u64> {
        let path = format!("/sys/class/drm/card0/device/{file}");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    Some(read("mem_info_vram_total")?.saturating_sub(read("mem_info_vram_used")?))
}
