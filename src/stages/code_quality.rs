//! Stage `code_quality`: a teacher scores some records, a forest over embeddings learns that, and what it takes for
//! good is kept (phi-1, arXiv 2306.11644, section 2.1).

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use datasets::config::DataConfig;
use datasets::forest::{Forest, ForestConfig, cross_validated_votes};
use datasets::random::Random;
use datasets::read::DropReason;
use datasets::scan::{Parsed, scan};
use datasets::selection::Selection;
use evals::classification::{Classification, classification};
use model::phase;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use teacher::synth::asker::Asker;
use teacher::synth::educational_value::{self, judge};
use teacher::synth::generate::Plan;

use super::asking::Questions;
use super::embeddings::Embeddings;
use super::{Chain, DATA, write_json, write_whole};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::{CodeQuality, ColumnLabels};

const LABELS: &str = "labels.jsonl";
const FOREST: &str = "forest.json";
/// Under what the dropped records are counted.
const RULE: &str = "low quality";

/// A line of `labels.jsonl`, as far as the forest needs it.
#[derive(Deserialize, Serialize)]
struct Label {
    /// From 1.
    record: u64,
    high: bool,
}

/// What the forest has shown, in `forest.json`.
#[derive(Debug, Deserialize, Serialize)]
pub struct ForestReport {
    pub labels: usize,
    pub high: usize,
    pub folds: usize,
    pub trees: usize,
    pub columns: usize,
    pub threshold: f64,
    /// Each label judged by a forest that has not seen it.
    pub held_out: Classification,
}

/// The records that say something, by their numbers in the data, in rising order.
struct Records {
    numbers: Vec<u64>,
    /// Of those that have one, where labels come from a column.
    labels: Vec<Label>,
}

impl Chain<'_> {
    /// The number of records that were labelled, if the stage was stopped from outside.
    pub fn code_quality(
        &self,
        stage: &PlannedStage,
        config: &CodeQuality,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let (name, data) = self.data_config(stage, "data")?;
        let named = || format!("data `{name}`");
        let records = records(&data, config).with_context(named)?;
        let labels = match &config.labels {
            Some(column) => column_labels(stage, column, &records)?,
            None => match self.ask_for_labels(stage, config, &data, &records, progress)? {
                Some(stopped_after) => return Ok(Some(stopped_after)),
                None => read_labels(stage)?,
            },
        };
        let count = records.numbers.len();
        let embedded = self.embeddings(stage, config, &data, count, progress);
        let Some(embeddings) = embedded.with_context(named)? else {
            return Ok(Some(labels.len() as u64));
        };
        let forest = self.grow(stage, config, &records, &labels, &embeddings)?;
        sift(stage, config, &data, &forest, &embeddings).with_context(named)?;
        Ok(None)
    }

    /// Has the teacher score a random sample; then `labels.jsonl` is there. The number of labels, if it was stopped from
    /// outside.
    fn ask_for_labels(
        &self,
        stage: &PlannedStage,
        config: &CodeQuality,
        data: &DataConfig<PathBuf>,
        records: &Records,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let mut random = Random::new(self.recipe.seed, "code_quality", 0, "sample");
        let mut sample = random.permutation(records.numbers.len());
        sample.truncate(config.labelled);
        sample.sort_unstable();
        let numbers: Vec<u64> = (sample.iter())
            .map(|&row| records.numbers[row as usize])
            .collect();
        let mut asked = Vec::with_capacity(numbers.len());
        let text_of = |parsed: &Parsed| match numbers.binary_search(&parsed.record.number) {
            Ok(_) => parsed.text(config.field.as_deref()),
            Err(_) => Ok(None),
        };
        scan(data, text_of, |record, text| {
            if let Ok(Some(text)) = text {
                let record = record.number;
                asked.push(educational_value::Asked { record, text });
            }
            Ok(())
        })?;
        let plan = Arc::new(Plan::question(
            config.prompt.clone(),
            1,
            self.sampling(&config.sampling),
            config.schema.clone().map(|file| file.0),
        ));
        let questions = Questions {
            count: asked.len(),
            seed: "records",
            record: "labels",
            budget: config.budget,
            allow_failed: config.allow_failed,
            file: LABELS,
        };
        let (asked, high_from) = (Arc::new(asked), config.high_from);
        let ask = |asker: Arc<Asker>, number: usize| {
            let (plan, asked) = (plan.clone(), asked.clone());
            async move { judge(&asker, &plan, number, &asked[number], high_from).await }
        };
        self.ask(stage, &questions, &ask, progress)
    }

    /// Measures forests on labels that they have not seen, and grows one on all labels.
    fn grow(
        &self,
        stage: &PlannedStage,
        config: &CodeQuality,
        records: &Records,
        labels: &[Label],
        embeddings: &Embeddings,
    ) -> Result<Forest> {
        let _phase = phase!("grow the forest");
        let row_of = |label: &Label| records.numbers.binary_search(&label.record).ok();
        let rows: Option<Vec<usize>> = labels.iter().map(row_of).collect();
        let rows = rows.context("a label is that of no record")?;
        let vectors = embeddings.rows(&rows)?;
        let classes: Vec<bool> = labels.iter().map(|label| label.high).collect();
        let forest = ForestConfig {
            trees: config.trees,
            seed: self.recipe.seed,
        };
        let votes = cross_validated_votes(&vectors, &classes, config.folds, &forest)?;
        let held_out = classification(&votes, &classes, config.threshold);
        let report = ForestReport {
            labels: labels.len(),
            high: classes.iter().filter(|high| **high).count(),
            folds: config.folds,
            trees: config.trees,
            columns: embeddings.columns(),
            threshold: config.threshold,
            held_out: held_out.context("labels of one class only")?,
        };
        write_json(&stage.directory.join(FOREST), &json!(report))?;
        Ok(Forest::grow(&vectors, &classes, &forest)?)
    }

    /// What the forest of a finished stage has shown.
    ///
    /// # Errors
    /// When the file is missing or holds something else.
    pub fn forest_report(stage: &PlannedStage) -> Result<ForestReport> {
        let path = stage.directory.join(FOREST);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} tells of no forest", path.display()))
    }
}

/// One pass over the data: which records say something, and their labels where a column has them.
fn records(data: &DataConfig<PathBuf>, config: &CodeQuality) -> Result<Records> {
    let _phase = phase!("read data");
    let mut found = Records {
        numbers: Vec::new(),
        labels: Vec::new(),
    };
    let mut wrong = None;
    let value_of = |parsed: &Parsed| {
        let column = config.labels.as_ref().map(|labels| labels.column.as_str());
        let value = column.and_then(|column| parsed.value(column)).cloned();
        let text = parsed.text(config.field.as_deref())?;
        Ok(text.map(|_| value))
    };
    scan(data, value_of, |record, value| {
        let Ok(Some(value)) = value else {
            return Ok(());
        };
        found.numbers.push(record.number);
        if let (Some(labels), Some(value)) = (&config.labels, value.filter(|v| !v.is_null())) {
            match is_high(&value, labels, config.high_from) {
                Some(high) => found.labels.push(Label {
                    record: record.number,
                    high,
                }),
                None => {
                    wrong.get_or_insert((record.path.clone(), record.row, value));
                }
            }
        }
        Ok(())
    })?;
    match wrong {
        None => Ok(found),
        Some((path, row, value)) => bail!(
            "{}, row {row}: the label is {value}: expected true or false, \"high\" or \"low\", or a number\n\
             hint: say which values are high: labels = {{ column = \"…\", high = [\"…\"] }}",
            path.display()
        ),
    }
}

/// None for a value that is no label.
fn is_high(value: &Value, labels: &ColumnLabels, high_from: f64) -> Option<bool> {
    if let Some(high) = &labels.high {
        let number = number_of(value);
        let is_value = |one: &Value| one == value || (number.is_some() && number_of(one) == number);
        return Some(high.iter().any(is_value));
    }
    match value {
        Value::Bool(high) => Some(*high),
        Value::String(text) => match text.trim().to_lowercase().as_str() {
            "high" | "true" => Some(true),
            "low" | "false" => Some(false),
            _ => Some(number_of(value)? >= high_from),
        },
        _ => Some(number_of(value)? >= high_from),
    }
}

/// A table may hold numbers as text.
fn number_of(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|number| number.is_finite())
}

/// The labels of a column, which are written down as a teacher's are.
fn column_labels(
    stage: &PlannedStage,
    column: &ColumnLabels,
    records: &Records,
) -> Result<Vec<Label>> {
    if records.labels.is_empty() {
        bail!(
            "no record has a label in the column `{}`\nhint: is `labels.column` the name that you meant?",
            column.column
        );
    }
    let mut text = String::new();
    for label in &records.labels {
        writeln!(text, "{}", serde_json::to_string(label)?)?;
    }
    let path = stage.directory.join(LABELS);
    write_whole(&path, text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    read_labels(stage)
}

fn read_labels(stage: &PlannedStage) -> Result<Vec<Label>> {
    let path = stage.directory.join(LABELS);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let labels = text.lines().map(serde_json::from_str);
    labels
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} holds no labels", path.display()))
}

/// Keeps what enough trees vote for.
fn sift(
    stage: &PlannedStage,
    config: &CodeQuality,
    data: &DataConfig<PathBuf>,
    forest: &Forest,
    embeddings: &Embeddings,
) -> Result<()> {
    let _phase = phase!("filter data");
    let mut selection = Selection::new(&stage.directory, DATA, &[RULE.to_string()])?;
    let (mut file, mut votes) = (0, Vec::new().into_iter());
    let mut failed = None;
    let text = |parsed: &Parsed| parsed.text(config.field.as_deref());
    scan(data, text, |record, text| {
        let text = match text {
            Ok(Some(text)) => text,
            Ok(None) => return selection.unusable(record, DropReason::EmptyText),
            Err(reason) => return selection.unusable(record, reason),
        };
        if votes.len() == 0 && failed.is_none() && file < embeddings.files() {
            let read = embeddings
                .read(file)
                .and_then(|rows| Ok(forest.votes(&rows)?));
            match read {
                Ok(read) => votes = read.into_iter(),
                Err(error) => failed = Some(error),
            }
            file += 1;
        }
        let share: f64 = votes.next().unwrap_or(0.0);
        match share >= config.threshold {
            true => selection.keep(record),
            false => selection.drop(record, 0, &format!("probability {share:.3}"), &text),
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    Progress::sifted(&selection.finish()?);
    Ok(())
}
