//! What a stage holds that computes nothing here: the program, what it reads, and what the stages before it have left.
//!
//! The system maps as much of the program as runs, and what lies around it in the file as far as that is in its cache, so these
//! stages take some MiB more at one time than at another. Measured on Linux 6.18, x86-64.

use super::known::Facts;
use super::stage::is_remote;
use crate::recipe::{Action, Recipe};

/// The program once it has read a recipe.
const STARTED: usize = 19 << 20;
/// What asking a server adds, what computing does, and what training does.
const CLIENT: usize = 7 << 20;
const COMPUTING: usize = 3 << 20;
const TRAINING: usize = 4 << 20;
/// What a tokenizer leaves in small pieces, a token; and where vectors of texts were made with it, which a forest learns from.
const LEFT_OF_A_TOKEN: usize = 80;
const LEFT_OF_VECTORS: usize = 230;
/// The same where what an export reads and writes finds no room in it; measured from 0 to 700.
const LEFT_TO_AN_EXPORT: usize = 350;
/// Buffers of what reads records, where there are so many; and of a record that is kept to be compared.
const READERS: u64 = 6 << 20;
const COMPARED_RECORD: u64 = 130;
/// More than any machine has, and little enough to be added up.
const MOST_BYTES: u64 = 1 << 55;
/// Of a record, about, where they are not counted.
const RECORD_BYTES: u64 = 1000;
/// What the runs of words of a benchmark take, a byte of its file.
const OF_A_BENCHMARK: u64 = 5;

/// What such a stage holds, on the CPU.
pub fn memory(recipe: &Recipe, facts: &Facts, stage: usize) -> usize {
    let so_far = &recipe.stages[..=stage];
    let asks = so_far.iter().any(|stage| is_remote(recipe, &stage.action));
    let trains = so_far.iter().any(|stage| stage.action.training().is_some());
    let used = (0..stage).flat_map(|before| {
        let left = match so_far[before].action {
            Action::CodeQuality(_) => LEFT_OF_VECTORS,
            _ => LEFT_OF_A_TOKEN,
        };
        let models = facts.models_of_stage(before);
        models.map(move |model| COMPUTING + left * model.config.vocab_size)
    });
    STARTED
        + sifting(recipe, facts, stage)
        + if asks { CLIENT } else { 0 }
        + used.max().unwrap_or(0)
        + if trains { TRAINING } else { 0 }
}

/// What tokenizers of the stages before leave beside an export, on the CPU.
pub fn left_to_an_export(facts: &Facts, stage: usize) -> usize {
    let used = (0..stage).flat_map(|before| facts.models_of_stage(before));
    let left = used.map(|model| LEFT_TO_AN_EXPORT * model.config.vocab_size);
    left.max().unwrap_or(0)
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
            let bytes = sets.map(|set| set.bytes).fold(0, u64::saturating_add);
            OF_A_BENCHMARK.saturating_mul(bytes)
        }
        _ => return 0,
    };
    let bytes = read("data").map_or(0, |data| data.text_bytes());
    let readers = READERS.min(bytes.saturating_mul(2));
    readers.saturating_add(held).min(MOST_BYTES) as usize
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::source::Cache;

    fn of(stages: &str) -> Vec<usize> {
        let text = format!(
            r#"
[models.server]
source = {{ kind = "remote", model = "m", endpoints = ["http://127.0.0.1:1/v1"] }}
[data.book]
source = "recipes/data/book.txt"
chunk = "paragraphs"
[data.questions]
source = "recipes/data/questions.txt"
chunk = "lines"
{stages}"#
        );
        let recipe = Recipe::parse(Path::new("r.toml"), &text, None, &[]).unwrap();
        let facts = Facts::new(&recipe, &Cache::at("not-there".into()), false);
        (0..recipe.stages.len())
            .map(|stage| memory(&recipe, &facts, stage))
            .collect()
    }

    #[test]
    fn what_once_asked_a_server_keeps_what_that_took() {
        let sieve = |data: &str, name: &str| {
            format!(
                "[[stage]]\nkind = \"filter\"\ndata = \"{data}\"\nrules = [{{ kind = \"repetition\" }}]\nas = \"{name}\"\n"
            )
        };
        let ask = r#"
[[stage]]
kind = "generate"
teacher = "server"
prompts = "questions"
sampling = { max_tokens = 16 }
as = "answers"
"#;
        let found = of(&format!(
            "{}{ask}{}",
            sieve("book", "before"),
            sieve("before", "behind")
        ));
        let book = 2 * std::fs::metadata("recipes/data/book.txt").unwrap().len() as usize;
        assert_eq!(found[0], STARTED + book);
        assert_eq!(found[1], STARTED + CLIENT);
        assert!(found[2] > STARTED + CLIENT && found[2] < STARTED + CLIENT + 2 * book);
    }

    #[test]
    fn what_is_compared_is_held() {
        let stage = |kind: &str| {
            let found = of(&format!(
                "[[stage]]\nkind = {kind}\ndata = \"book\"\nas = \"kept\"\n"
            ));
            found[0]
        };
        let alone = stage("\"filter\"\nrules = [{ kind = \"repetition\" }]");
        let compared = stage("\"dedup\"\nmethod = { kind = \"exact\" }");
        assert!((alone..alone + (1 << 20)).contains(&compared));
        assert_ne!(alone, compared);
        let questions = std::fs::metadata("recipes/data/questions.txt").unwrap();
        let against = stage("\"decontaminate\"\nagainst = [\"questions\"]");
        let runs = against - alone;
        assert_eq!(runs as u64, OF_A_BENCHMARK * questions.len());
    }

    #[test]
    fn more_than_there_can_be_is_counted_too() {
        let most = i64::MAX;
        let found = of(&format!(
            r#"
[[stage]]
kind = "generate"
teacher = "server"
prompts = "questions"
mode = {{ kind = "self_instruct", prompt = "recipes/prompts/self_instruct.jinja", instructions = {most}, max_requests = {most} }}
sampling = {{ max_tokens = 16 }}
as = "made"
[[stage]]
kind = "dedup"
data = "made"
method = {{ kind = "exact" }}
as = "kept"
"#
        ));
        assert!(found[1] as u64 > MOST_BYTES);
    }
}
