//! `metrics.jsonl`: one JSON object a step, and one a held-out evaluation. `samples.jsonl` is written in the same way.
//! TensorBoard's events lie beside the metrics.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::heldout::{Heldout, HeldoutPairs};
use crate::objective::dpo::PairMetrics;
use crate::on_policy::samples::OnPolicyRecord;
use crate::tensorboard::{EVENTS, EventFile};

/// A line of the file.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Record {
    Step {
        step: u64,
        loss: f64,
        /// Each listed loss by name and place in the list.
        losses: serde_json::Map<String, Value>,
        learning_rate: f64,
        gradient_norm: f64,
        tokens: usize,
        supervised_tokens: usize,
        seconds: f64,
        #[serde(flatten)]
        pairs: Option<PairMetrics>,
        #[serde(skip_serializing_if = "Option::is_none")]
        on_policy: Option<Box<OnPolicyRecord>>,
    },
    Heldout {
        step: u64,
        heldout_nll: f64,
        heldout_tokens: usize,
    },
    HeldoutPairs {
        step: u64,
        heldout_loss: f64,
        heldout_accuracy: f64,
        heldout_margin: f64,
        heldout_pairs: usize,
    },
}

impl Record {
    pub fn of_heldout(step: u64, heldout: &Heldout) -> Self {
        match heldout {
            Heldout::Tokens(loss) => Self::Heldout {
                step,
                heldout_nll: loss.mean(),
                heldout_tokens: loss.tokens,
            },
            Heldout::Pairs(HeldoutPairs { loss, metrics }) => Self::HeldoutPairs {
                step,
                heldout_loss: *loss,
                heldout_accuracy: metrics.accuracy,
                heldout_margin: metrics.margin,
                heldout_pairs: metrics.pairs,
            },
        }
    }
}

/// An open file of lines that each have a step.
pub struct Metrics {
    file: File,
    events: Option<EventFile>,
}

impl Metrics {
    /// Opens the file and drops what lies after `step`: a resumed run writes those lines again, and one
    /// from the start all of them. A last line that a kill cut off is dropped too.
    ///
    /// # Errors
    /// What the file system says.
    pub fn resume(path: &Path, step: u64) -> io::Result<Self> {
        let (file, _) = resume(path, step)?;
        let events = None;
        Ok(Self { file, events })
    }

    /// As [`resume`](Self::resume), with [`EVENTS`] of the same lines beside the file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn resume_with_events(path: &Path, step: u64) -> io::Result<Self> {
        let (file, kept) = resume(path, step)?;
        let events = Some(EventFile::resume(&path.with_file_name(EVENTS), &kept)?);
        Ok(Self { file, events })
    }

    /// # Errors
    /// What the file system says.
    pub fn write(&mut self, record: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        match &mut self.events {
            Some(events) => events.write(&serde_json::from_slice(&line)?),
            None => Ok(()),
        }
    }
}

/// The file with the lines up to `step`, and these.
fn resume(path: &Path, step: u64) -> io::Result<(File, Vec<u8>)> {
    let mut kept = Vec::new();
    if path.exists() {
        for line in BufReader::new(File::open(path)?).lines() {
            let line = line?;
            let record: Option<Value> = serde_json::from_str(&line).ok();
            let at = record.and_then(|record| record["step"].as_u64());
            if step > 0 && at.is_some_and(|at| at <= step) {
                kept.extend_from_slice(line.as_bytes());
                kept.push(b'\n');
            }
        }
    }
    let temporary = path.with_extension("jsonl.tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(&kept)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    let file = OpenOptions::new().append(true).open(path)?;
    Ok((file, kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_from_the_start_forgets_all() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"step\":0,\"heldout_nll\":1.5}\n{\"step\":1}\n").unwrap();
        Metrics::resume(&path, 0).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn a_resumed_run_forgets_later_lines_and_torn_ones() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"ste").unwrap();
        let mut metrics = Metrics::resume(&path, 2).unwrap();
        let record = Record::Heldout {
            step: 3,
            heldout_nll: 1.5,
            heldout_tokens: 7,
        };
        metrics.write(&record).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let last = "{\"step\":3,\"heldout_nll\":1.5,\"heldout_tokens\":7}";
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            ["{\"step\":1}", "{\"step\":2}", last]
        );
    }
}
