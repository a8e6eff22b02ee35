//! Where to compute: the user's choice against what this machine and this binary have.

use model::build::Placement;

use crate::cli::DeviceChoice;

#[cfg(feature = "cuda")]
mod cuda;

/// The placement for a choice: `f32` on the CPU; on CUDA `f32` weights and `bf16` activations.
///
/// # Errors
/// One line that says why there is no such device.
pub fn place(choice: DeviceChoice) -> anyhow::Result<Placement> {
    match choice {
        DeviceChoice::Cpu => Ok(Placement::cpu()),
        DeviceChoice::Auto => Ok(automatic()),
        DeviceChoice::Cuda(number) => on_cuda(number),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there_and_what_is_missing_is_told_in_one_line() {
        assert!(place(DeviceChoice::Cpu).is_ok());
        assert!(place(DeviceChoice::Auto).is_ok());
        let Err(error) = place(DeviceChoice::Cuda(4096)) else {
            panic!("there are not so many devices");
        };
        let line = error.to_string();
        assert!(line.starts_with("--device cuda:4096: "), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }
}
