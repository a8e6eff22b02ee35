use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use super::DeviceChoice;
use super::recipe::RecipeArgs;
use super::size::size;
use crate::estimate::machine::{DEVICES, Device, named};

/// What `distill plan` takes.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  distill plan recipes/smollm2-distill.toml --preset short\n  \
                  distill plan recipes/qwen-coder-distill.toml --device h200 --json"
)]
pub struct PlanArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// auto, cpu, cuda, cuda:N, or a machine that is not here: h200, h100, a100, a100-80gb, l40s, rtx4090
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: PlanDevice,
    /// Plan for so much memory, as 16GiB; what is free, or what the device has, when left out
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<u64>,
    /// The directory that holds the runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub out: PathBuf,
    /// Measure nothing: times come from the last probe of this machine, if there was one
    #[arg(long)]
    pub no_probe: bool,
    /// Fetch models and data that are not on this machine yet
    #[arg(long)]
    pub fetch: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A device of this machine, or one by its name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PlanDevice {
    Here(DeviceChoice),
    Named(Device),
}

impl FromStr for PlanDevice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(device) = named(text) {
            return Ok(Self::Named(device));
        }
        let here = text.parse().map(Self::Here);
        here.map_err(|accepted: String| {
            let names = DEVICES.map(|device| device.name).join(", ");
            format!("{accepted}, {names}")
        })
    }
}
