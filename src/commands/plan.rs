//! `distill plan`: what a recipe will take, from the recipe alone.

use anyhow::Result;
use serde_json::json;

use crate::cli::{DeviceChoice, PlanArgs, PlanDevice};
use crate::device::{self, backend_of};
use crate::estimate::fit::{Limit, disk_needed, most_needed, too_large};
use crate::estimate::known::Facts;
use crate::estimate::machine::Backend;
use crate::estimate::serving::{Serving, serving};
use crate::estimate::stored_rates::{store, stored};
use crate::estimate::table::{Verdict, table};
use crate::estimate::time::Pace;
use crate::estimate::{Setting, advice, estimate, machine};
use crate::recipe::Recipe;
use crate::source::Cache;
use crate::stages::done_stages;

pub fn run(arguments: PlanArgs) -> Result<()> {
    let PlanArgs {
        recipe: from,
        device,
        memory,
        out,
        no_probe,
        fetch,
        json,
    } = arguments;
    let recipe = Recipe::load(&from.recipe, from.preset.as_deref(), &from.set)?;
    let cache = Cache::from_env()?;
    let facts = Facts::new(&recipe, &cache, fetch);
    let backend = match device {
        // A plan for CUDA needs no CUDA.
        PlanDevice::Named(_) | PlanDevice::Here(DeviceChoice::Cuda(_)) => Backend::Cuda,
        PlanDevice::Here(choice) => backend_of(choice, &device::place(choice)?),
    };
    let (setting, is_cpu) = (Setting::on(backend), backend == Backend::Cpu);
    let mut pace = match device {
        PlanDevice::Named(device) => Pace::of(&device),
        PlanDevice::Here(_) if !is_cpu => Pace::Unknown,
        PlanDevice::Here(_) if no_probe => stored(&cache).map_or(Pace::Unknown, Pace::Given),
        PlanDevice::Here(_) => Pace::probing(&out),
    };
    let done = match device {
        PlanDevice::Named(_) => Vec::new(),
        PlanDevice::Here(_) => done_stages(&recipe, &out, &cache),
    };
    let stages = estimate(&recipe, &facts, setting, &done, &mut pace);
    if let Some(measured) = pace.measured()
        && let Err(error) = store(&cache, measured)
    {
        tracing::warn!("the measured rates cannot be kept: {error:#}");
    }
    let limited = memory.map(Limit::Allowed).or(match device {
        PlanDevice::Named(device) => Some(Limit::Device(device.memory())),
        PlanDevice::Here(_) if !is_cpu => None,
        PlanDevice::Here(_) => machine::free_memory().map(Limit::Free),
    });
    let limit = limited.map(Limit::bytes);
    let rates = match device {
        PlanDevice::Named(device) => Some(device.rates()),
        PlanDevice::Here(_) => pace.rates().map(|rates| (rates.ask, rates.bytes)),
    };
    let models: Vec<Serving> = (facts.models())
        .map(|(name, shape)| serving(name, shape, setting.numbers, limit, rates))
        .collect();
    let failing = limit.map_or_else(Vec::new, |limit| too_large(&stages, limit));
    let changes = match (limit, failing.as_slice()) {
        (Some(limit), [_, ..]) => {
            advice::changes(&from, &recipe, &failing, (limit, &done), &cache, setting)
        }
        _ => Vec::new(),
    };
    let disk_free = match device {
        PlanDevice::Named(_) => None,
        PlanDevice::Here(_) => machine::free_disk(&out),
    };
    let disk = disk_needed(&stages);
    if json {
        let flags: Vec<_> = (changes.iter())
            .map(|change| json!({ "set": change.sets, "memory": change.memory }))
            .collect();
        let described = json!({
            "recipe": recipe.path,
            "device": device_name(device, is_cpu),
            "measured": is_cpu,
            "memory": { "needed": most_needed(&stages), "limit": limit },
            "disk": { "needed": disk, "free": disk_free },
            "stages": stages,
            "models": models,
            "too_large": failing.iter().map(|number| number + 1).collect::<Vec<_>>(),
            "disk_too_small": disk_free.is_some_and(|free| disk > free),
            "changes": flags,
        });
        println!("{}", serde_json::to_string_pretty(&described)?);
        return Ok(());
    }
    let verdict = Verdict {
        device: device_name(device, is_cpu),
        is_measured: is_cpu,
        has_rates: pace.rates().is_some(),
        source: match device {
            PlanDevice::Named(device) => Some(device.source),
            PlanDevice::Here(_) => None,
        },
        memory: limited,
        disk: (disk, disk_free),
        too_large: &failing,
        changes: &changes,
    };
    print!("{}", table(&stages, &models, &verdict));
    Ok(())
}

fn device_name(device: PlanDevice, is_cpu: bool) -> String {
    match device {
        PlanDevice::Named(device) => device.name.to_string(),
        PlanDevice::Here(_) if is_cpu => "cpu".to_string(),
        PlanDevice::Here(choice) => choice.to_string(),
    }
}
