//! Rates that probes have measured on this machine, kept in the cache for runs, which do not probe.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::work::Rates;
use crate::source::Cache;
use crate::stages::write_json;

/// Shapes that are kept at most.
const KEPT: usize = 256;

/// What was measured: last, and for the shapes of stages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub last: Rates,
    pub shapes: BTreeMap<String, Rates>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    threads: usize,
    #[serde(flatten)]
    measured: Measured,
}

impl Measured {
    /// For a shape, or the last ones.
    pub fn at(&self, shape: &str) -> Rates {
        *self.shapes.get(shape).unwrap_or(&self.last)
    }

    fn is_usable(&self) -> bool {
        let all = self.shapes.values().chain([&self.last]);
        let mut all = all.flat_map(|rates| {
            let Rates {
                train,
                head,
                ask,
                bytes,
                disk,
                round,
            } = *rates;
            [train, head, ask, bytes, disk, round]
        });
        all.all(|rate| rate.is_finite() && rate > 0.0)
    }
}

fn path(cache: &Cache) -> PathBuf {
    cache.root().join("rates.json")
}

/// Of as many threads as this process has; what is broken is as if it were not there.
pub fn stored(cache: &Cache) -> Option<Measured> {
    let text = std::fs::read_to_string(path(cache)).ok()?;
    let Stored { threads, measured } = serde_json::from_str(&text).ok()?;
    (measured.is_usable() && threads == rayon::current_num_threads()).then_some(measured)
}

/// Adds to what was stored.
///
/// # Errors
/// A cache that cannot be written.
pub fn store(cache: &Cache, mut measured: Measured) -> anyhow::Result<()> {
    let earlier = stored(cache).map_or(BTreeMap::new(), |stored| stored.shapes);
    for (shape, rates) in earlier {
        if measured.shapes.len() < KEPT {
            measured.shapes.entry(shape).or_insert(rates);
        }
    }
    std::fs::create_dir_all(cache.root())?;
    let threads = rayon::current_num_threads();
    let stored = serde_json::to_value(Stored { threads, measured })?;
    write_json(&path(cache), &stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_there_for_its_shape_and_the_last_for_others() {
        let place = tempfile::tempdir().unwrap();
        let cache = Cache::at(place.path().join("new"));
        assert_eq!(stored(&cache), None);
        let rates = |train| Rates {
            train,
            head: 1.0,
            ask: 1.0,
            bytes: 1.0,
            disk: 1.0,
            round: 1.0,
        };
        let measured = |shape: &str, train| Measured {
            last: rates(train),
            shapes: [(shape.to_owned(), rates(train))].into(),
        };
        store(&cache, measured("a", 2.0)).unwrap();
        store(&cache, measured("b", 3.0)).unwrap();
        let found = stored(&cache).unwrap();
        for (shape, train) in [("a", 2.0), ("b", 3.0), ("c", 3.0)] {
            assert_eq!(found.at(shape).train, train);
        }
        store(&cache, measured("a", f64::MAX * 2.0)).unwrap();
        assert_eq!(stored(&cache), None);
    }
}
