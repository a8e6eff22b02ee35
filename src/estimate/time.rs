//! How long a stage takes: what there is to compute, over what a machine does in a second.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use model::config::DecoderConfig;
use model::linear::lora::BaseForm;
use trainer::config::TrainConfig;

use super::disk;
use super::known::Facts;
use super::layout::RowLayout;
use super::machine::Device;
use super::once;
use super::probe;
use super::shape::ModelShape;
use super::stage::ROWS;
use super::stored_rates::Measured;
use super::trained::Trained;
use super::work::{self, Rates, Work};
use crate::recipe::Recipe;

/// What a training job reaches of a device's dense products, about: 40 % (arXiv 2204.02311 tells 46 % of its own).
const UTILISATION: f64 = 0.4;
/// Bytes a second, where nothing can be measured.
const ASSUMED_DISK: f64 = 1e9;
/// Probes of one plan together.
const PROBE_AT_MOST: Duration = Duration::from_secs(15);

/// Where rates come from.
pub enum Pace {
    /// Nothing was ever measured here.
    Unknown,
    /// Measured earlier, or a device's.
    Given(Measured),
    /// Measured now, at each stage's shapes.
    Probed {
        until: Instant,
        found: BTreeMap<String, Rates>,
        last: Option<Rates>,
        /// Bytes a second.
        disk: f64,
    },
}

impl Pace {
    /// `out` is where runs write, or will.
    pub fn probing(out: &Path) -> Self {
        let mut there = out.ancestors().filter(|path| path.is_dir());
        let disk = probe::writing(there.next().unwrap_or(Path::new(".")));
        Self::Probed {
            disk: disk.unwrap_or(ASSUMED_DISK),
            until: Instant::now() + PROBE_AT_MOST,
            found: BTreeMap::new(),
            last: None,
        }
    }

    pub fn of(device: &Device) -> Self {
        let flops = UTILISATION * device.flops;
        Self::Given(Measured {
            last: Rates {
                train: flops,
                head: flops,
                ask: flops,
                bytes: device.bytes,
                disk: ASSUMED_DISK,
                // Read, and written in a byte.
                round: device.bytes / 5.0,
            },
            shapes: BTreeMap::new(),
        })
    }

    /// The last that were measured, or those that were given.
    pub fn rates(&self) -> Option<Rates> {
        match self {
            Self::Unknown => None,
            Self::Given(measured) => Some(measured.last),
            Self::Probed { last, .. } => *last,
        }
    }

    /// What a probe has measured, to be kept.
    pub fn measured(&self) -> Option<Measured> {
        match self {
            Self::Probed {
                found,
                last: Some(last),
                ..
            } => Some(Measured {
                last: *last,
                shapes: found.clone(),
            }),
            _ => None,
        }
    }

    /// Bytes a second that are written.
    pub fn disk(&self) -> Option<f64> {
        match self {
            Self::Unknown => None,
            Self::Given(measured) => Some(measured.last.disk),
            Self::Probed { disk, .. } => Some(*disk),
        }
    }

    /// The rates for shapes that `key` tells apart. When the time is used up, or they are too large, the last ones serve.
    fn at(&mut self, key: String, measure: impl FnOnce(f64) -> Option<Rates>) -> Option<Rates> {
        let (until, found, last, disk) = match self {
            Self::Unknown => return None,
            Self::Given(measured) => return Some(measured.at(&key)),
            Self::Probed {
                until,
                found,
                last,
                disk,
            } => (until, found, last, disk),
        };
        if let Some(rates) = found.get(&key) {
            return Some(*rates);
        }
        if Instant::now() > *until {
            return *last;
        }
        let Some(rates) = measure(*disk) else {
            return *last;
        };
        found.insert(key, rates);
        *last = Some(rates);
        Some(rates)
    }
}

/// Seconds of a stage and of one of its steps, and steps where they are known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    pub seconds: Option<f64>,
    pub step_seconds: Option<f64>,
    pub steps: Option<u64>,
    /// Whether the number of steps was estimated from lengths of text.
    pub steps_estimated: bool,
    /// Whether there may be fewer: an earlier stage will make the data, and no more than that.
    pub steps_at_most: bool,
    /// Why there is no time, where it is not the machine's pace that is missing.
    pub unknown: Option<String>,
}

pub fn times(recipe: &Recipe, facts: &Facts, stage: usize, pace: &mut Pace) -> Times {
    let action = &recipe.stages[stage].action;
    match action.training() {
        Some(_) => training(recipe, facts, stage, pace).unwrap_or_default(),
        None => match once::seconds(recipe, facts, stage, pace) {
            Ok(seconds) => Times {
                seconds,
                ..Times::default()
            },
            Err(reason) => Times {
                unknown: Some(reason),
                ..Times::default()
            },
        },
    }
}

fn training(recipe: &Recipe, facts: &Facts, stage: usize, pace: &mut Pace) -> Option<Times> {
    let config = recipe.stages[stage].action.training()?;
    let trained = facts.trained(stage).ok()?;
    let steps = trained.steps(config);
    let key = training_key(trained, config);
    let rates = pace.at(key, |disk| probe::training_rates(trained, config, disk));
    let step = step_work(trained, config);
    let step_seconds = rates.map(|rates| step.seconds(&rates));
    let evaluated = evaluation_work(trained, config, steps);
    let saved = Work {
        disk_bytes: steps.map_or(0.0, |steps| {
            let saves = steps.div_ceil(config.checkpoint_every.max(1));
            let result = 4 * trained.trainable();
            (saves * disk::checkpoint_bytes(trained.trainable()) + result) as f64
        }),
        ..Work::default()
    };
    let beside = rates.map_or(0.0, |rates| evaluated.plus(saved).seconds(&rates));
    Some(Times {
        seconds: (step_seconds.zip(steps)).map(|(seconds, steps)| steps as f64 * seconds + beside),
        step_seconds,
        steps,
        steps_estimated: config.steps.is_none(),
        steps_at_most: trained.data.as_ref().is_ok_and(|data| data.at_most),
        unknown: match steps {
            Some(_) => None,
            None => trained.data.as_ref().err().cloned(),
        },
    })
}

/// What the rates of a training stage depend on; of how its rows are filled roughly.
fn training_key(trained: &Trained, config: &TrainConfig) -> String {
    format!(
        "{:?} {:?} {} {:?} {:?} {} {} {} {} {:?}",
        shape_key(&trained.student),
        trained.teacher.as_ref().map(shape_key),
        trained.student.config.vocab_size,
        config.adapter,
        config.quantization_aware,
        config.sequence_length,
        trained.row.segment.next_power_of_two(),
        Trained::micro(config).0,
        config.checkpoint_blocks,
        trained.losses,
    )
}

/// Forward over held-out data, before the first step, between and after the last; and what a reference says of all pairs.
fn evaluation_work(trained: &Trained, config: &TrainConfig, steps: Option<u64>) -> Work {
    let over = |model: &DecoderConfig, (row, rows): (RowLayout, u64)| {
        let each = Work {
            ask: model.num_hidden_layers as f64
                * work::block_forward(model, row.length, row.seen()),
            head: work::head_forward(model, row.learned),
            ..Work::default()
        };
        each.times(rows as f64)
    };
    let behind = config
        .evaluate_every
        .map_or(1, |every| steps.unwrap_or(1).div_ceil(every.max(1)));
    let heldout = trained.heldout.map_or(Work::default(), |heldout| {
        over(&trained.student.config, heldout).times((1 + behind) as f64)
    });
    if !trained.asks_reference {
        return heldout;
    }
    let reference = trained.reference.as_ref().unwrap_or(&trained.student);
    let trained_on = steps.map_or(u64::MAX, |steps| {
        steps.saturating_mul(config.rows_per_step() as u64)
    });
    let rows = trained.rows.map_or(0, |rows| rows.min(trained_on));
    let said = [Some((trained.row, rows)), trained.heldout];
    let said = said.into_iter().flatten();
    said.fold(heldout, |sum, rows| sum.plus(over(&reference.config, rows)))
}

/// What a step of training computes. Microbatches of padding alone are left out.
pub fn step_work(trained: &Trained, config: &TrainConfig) -> Work {
    let (micro, batches) = Trained::micro(config);
    let (student, row) = (&trained.student.config, trained.row);
    let filled = trained.filled_rows(config);
    let positions = batches.min(filled.div_ceil(micro)) * micro * row.length;
    let (learned, seen) = (filled * row.learned, filled as f64 * row.seen());
    let layers = student.num_hidden_layers as f64;
    let block = work::block_train(
        student,
        trained.holding(),
        positions,
        seen,
        config.checkpoint_blocks,
    );
    let mut work = Work {
        train: layers * block,
        head: work::head_train(student, trained.lora.is_none(), learned, trained.pairs),
        ..Work::default()
    };
    if let Some(teacher) = &trained.teacher {
        let blocks = teacher.config.num_hidden_layers as f64;
        work.ask += blocks * work::block_forward(&teacher.config, positions, seen);
        work.head += work::head_forward(&teacher.config, learned);
    }
    let after = Work {
        // The norm of the gradients reads them once more.
        optimizer_bytes: work::optimizer_bytes(trained.trainable())
            + 4.0 * trained.trainable() as f64,
        // What the student writes itself, some sequences at a time, reads all weights a token.
        decode_bytes: trained.writing.map_or(0.0, |(share, new)| {
            let written = (share * config.rows_per_step() as f64 / ROWS as f64).ceil();
            written * new as f64 * 4.0 * trained.student.parameters() as f64
        }),
        rounded: match config.quantization_aware {
            Some(_) => trained.student.matrix_values() as f64,
            None => 0.0,
        },
        ..Work::default()
    };
    work.plus(after)
}

/// Forward with logits at every position, in rows of `length`.
pub fn asked(config: &DecoderConfig, tokens: u64, length: usize) -> Work {
    let rows = tokens as f64 / length.max(1) as f64;
    let row = Work {
        ask: config.num_hidden_layers as f64
            * work::block_forward(config, length, work::causal(length, length)),
        head: work::head_forward(config, length),
        ..Work::default()
    };
    row.times(rows)
}

pub fn asking(model: &ModelShape, length: usize, pace: &mut Pace) -> Option<Rates> {
    let key = format!("{:?} {length}", shape_key(model));
    pace.at(key, |disk| probe::asking_rates(model, length, disk))
}

/// What the time of a block depends on.
fn shape_key(model: &ModelShape) -> (usize, usize, usize, usize, Option<String>, BaseForm) {
    let config = &model.config;
    let kind = model
        .tensors
        .iter()
        .find(|tensor| tensor.name.ends_with("gate_proj.weight"));
    (
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads * config.head_dim,
        config.num_key_value_heads * config.head_dim,
        kind.and_then(|tensor| tensor.kind)
            .map(|kind| kind.name().to_string()),
        model.form(),
    )
}
