//! Rates that a probe has measured on this machine, kept in the cache for runs, which do not probe.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::work::Rates;
use crate::source::Cache;
use crate::stages::write_json;

#[derive(Serialize, Deserialize)]
struct Stored {
    threads: usize,
    #[serde(flatten)]
    rates: Rates,
}

fn path(cache: &Cache) -> PathBuf {
    cache.root().join("rates.json")
}

/// Of as many threads as this process has; what is broken is as if it were not there.
pub fn stored(cache: &Cache) -> Option<Rates> {
    let text = std::fs::read_to_string(path(cache)).ok()?;
    let stored: Stored = serde_json::from_str(&text).ok()?;
    let Rates {
        train,
        head,
        ask,
        bytes,
        disk,
    } = stored.rates;
    let rates = [train, head, ask, bytes, disk];
    let usable = rates.iter().all(|rate| rate.is_finite() && *rate > 0.0);
    (usable && stored.threads == rayon::current_num_threads()).then_some(stored.rates)
}

/// # Errors
/// A cache that cannot be written.
pub fn store(cache: &Cache, rates: Rates) -> anyhow::Result<()> {
    std::fs::create_dir_all(cache.root())?;
    let threads = rayon::current_num_threads();
    write_json(
        &path(cache),
        &serde_json::to_value(Stored { threads, rates })?,
    )
}
