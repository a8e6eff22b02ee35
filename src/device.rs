//! Where to compute: the user's choice against what this machine and this binary have.

use model::build::Placement;

use crate::cli::DeviceChoice;
use crate::estimate::machine::Backend;

#[cfg(feature = "cuda")]
mod cuda;

/// The placement for a choice: `f32` on the CPU and on Vulkan; on CUDA `f32` weights and `bf16` activations.
///
/// # Errors
/// One line that says why there is no such device.
pub fn place(choice: DeviceChoice) -> anyhow::Result<Placement> {
    match choice {
        DeviceChoice::Cpu => Ok(Placement::cpu()),
        DeviceChoice::Auto => Ok(automatic()),
        DeviceChoice::Cuda(number) => on_cuda(number),
        DeviceChoice::Vulkan(number) => on_vulkan(number),
    }
}

/// What a plan takes the placement of a choice for.
pub fn backend_of(choice: DeviceChoice, placement: &Placement) -> Backend {
    match choice {
        _ if placement.device == Placement::cpu().device => Backend::Cpu,
        DeviceChoice::Vulkan(_) => Backend::Vulkan,
        _ => Backend::Cuda,
    }
}

#[cfg(feature = "cuda")]
fn automatic() -> Placement {
    match cuda::devices() {
        Ok(count) if count > 0 => Placement::cuda(0),
        Ok(_) => Placement::cpu(),
        Err(reason) => {
            tracing::debug!("computing on the CPU: {reason}");
            Placement::cpu()
        }
    }
}

#[cfg(feature = "cuda")]
fn on_cuda(number: usize) -> anyhow::Result<Placement> {
    match cuda::devices() {
        Ok(count) if number < count => Ok(Placement::cuda(number)),
        Ok(count) => {
            anyhow::bail!(
                "--device cuda:{number}: this machine has {count} CUDA devices, numbered from 0"
            )
        }
        Err(reason) => {
            anyhow::bail!("--device cuda:{number}: {reason}; --device cpu works everywhere")
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn automatic() -> Placement {
    Placement::cpu()
}

#[cfg(not(feature = "cuda"))]
fn on_cuda(number: usize) -> anyhow::Result<Placement> {
    anyhow::bail!(
        "--device cuda:{number}: this distill was built without CUDA; build it with \
         `cargo build --release --features cuda`, or use --device cpu"
    )
}

#[cfg(feature = "vulkan")]
fn on_vulkan(number: usize) -> anyhow::Result<Placement> {
    let devices = model::build::vulkan_devices();
    let count = devices.len();
    match devices.into_iter().nth(number) {
        Some(device) => Ok(Placement::vulkan(device)),
        None => anyhow::bail!(
            "--device vulkan:{number}: this machine has {count} Vulkan devices, numbered from 0; \
             --device cpu works everywhere"
        ),
    }
}

#[cfg(not(feature = "vulkan"))]
fn on_vulkan(number: usize) -> anyhow::Result<Placement> {
    anyhow::bail!(
        "--device vulkan:{number}: this distill was built without Vulkan; build it with \
         `cargo build --release --features vulkan`, or use --device cpu"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there_and_what_is_missing_is_told_in_one_line() {
        assert!(place(DeviceChoice::Cpu).is_ok());
        assert!(place(DeviceChoice::Auto).is_ok());
        for choice in [DeviceChoice::Cuda(4096), DeviceChoice::Vulkan(4096)] {
            let Err(error) = place(choice) else {
                panic!("there are not so many devices");
            };
            let line = error.to_string();
            assert!(line.starts_with(&format!("--device {choice}: ")), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }
}
