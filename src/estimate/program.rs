//! What a stage holds that computes nothing here: the program, what it reads, and what the stages before it have left.
//!
//! The system maps as much of the program as runs, and what lies around it in the file as far as that is in its cache, so these
//! stages take some MiB more at one time than at another. Measured on Linux 6.18, x86-64.

use super::known::Facts;
use super::stage::is_remote;
use crate::recipe::{Action, Recipe};

/// The program once it has read a recipe.
const STARTED: usize = 18 << 20;
/// What asking a server adds, what computing does, and what training does.
const CLIENT: usize = 7 << 20;
const COMPUTING: usize = 3 << 20;
const TRAINING: usize = 3 << 20;
/// What training leaves of a tokenizer in small pieces, a token.
const LEFT_OF_A_TOKEN: usize = 110;
/// Buffers of what reads records, where there are so many; and of a record that is kept to be compared.
const READERS: u64 = 6 << 20;
const COMPARED_RECORD: u64 = 130;
/// Of a record, about, where they are not counted.
const RECORD_BYTES: u64 = 1000;
/// What the runs of words of a benchmark take, a byte of its file.
const OF_A_BENCHMARK: u64 = 5;

/// What such a stage holds, on the CPU.
pub fn memory(recipe: &Recipe, facts: &Facts, stage: usize) -> usize {
    let so_far = &recipe.stages[..=stage];
    let asks = so_far.iter().any(|stage| is_remote(recipe, &stage.action));
    let used = (0..stage).flat_map(|before| facts.models_of_stage(before));
    let vocabularies = used.map(|model| model.config.vocab_size);
    let mut bytes = STARTED + sifting(recipe, facts, stage);
    if asks {
        bytes += CLIENT;
    }
    if let Some(largest) = vocabularies.max() {
        bytes += COMPUTING;
        if so_far.iter().any(|stage| stage.action.training().is_some()) {
            bytes += TRAINING + LEFT_OF_A_TOKEN * largest;
        }
    }
    bytes
}

/// Records are read some at a time; what they are compared with is held.
fn sifting(recipe: &Recipe, facts: &Facts, stage: usize) -> usize {
    let action = &recipe.stages[stage].action;
    let read = |key: &str| facts.data(stage, key).ok();
    let held = match action {
        Action::Filter(_) => 0,
        Action::Dedup(_) => read("data").map_or(0, |data| {
            let counted = (data.samples).unwrap_or(data.text_bytes() / RECORD_BYTES);
            COMPARED_RECORD.saturating_mul(counted)
        }),
        Action::Decontaminate(config) => {
            let sets = config.sets().filter_map(|(key, _)| read(&key));
            OF_A_BENCHMARK * sets.map(|set| set.bytes).sum::<u64>()
        }
        _ => return 0,
    };
    let bytes = read("data").map_or(0, |data| data.text_bytes());
    let readers = READERS.min(bytes.saturating_mul(2));
    usize::try_from(readers + held).unwrap_or(usize::MAX >> 1)
}
