//! Stage `rate`: a teacher rates answers, and the ratings become pairs of a better and a worse answer, or the best answers.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use datasets::answers::{AnswerRecord, read_answers};
use datasets::selection::COUNTS;
use teacher::synth::asker::Asker;
use teacher::synth::pairs::{Best, RatingCounts, Unpaired, best, pair};
use teacher::synth::rate::{Plan, Rating, candidates, rate};

use super::asking::{Lines, Questions, read_records};
use super::{Chain, DATA, write_json};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::{Keep, Rate};

/// Every rating, a line each.
const RATINGS: &str = "ratings.jsonl";

impl Chain<'_> {
    /// The number of ratings that were written, if the stage was stopped from outside.
    pub fn rate(
        &self,
        stage: &PlannedStage,
        config: &Rate,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let keys = (0..config.answers.len()).map(|i| format!("answers.{i}"));
        let answers = keys.map(|key| self.answers(stage, &key));
        let answers = Arc::new(candidates(answers.collect::<Result<Vec<_>>>()?));
        let plan = Arc::new(Plan {
            system: config.system.clone(),
            prompt: config.prompt.clone(),
            aspects: config.aspects.clone(),
            sampling: self.sampling(&config.sampling),
            schema: config.schema.unwrap_or(self.remote(stage)?.is_some()),
        });
        let questions = Questions {
            count: answers.len(),
            seed: "answers",
            record: "ratings",
            budget: config.budget,
            allow_failed: config.allow_failed,
            file: RATINGS,
        };
        let ask = |asker: Arc<Asker>, number: usize| {
            let (plan, answers) = (plan.clone(), answers.clone());
            async move { rate(&asker, &plan, &answers[number]).await }
        };
        let stopped = self.ask(stage, &questions, &ask, progress)?;
        if stopped.is_none() {
            let counts = RatingCounts {
                answers: answers.len(),
                groups: answers.last().map_or(0, |last| last.group + 1),
                ..RatingCounts::default()
            };
            self.keep_of_ratings(stage, config, counts)?;
        }
        Ok(stopped)
    }

    /// The answers of the data that `key` of the stage names.
    pub(super) fn answers(&self, stage: &PlannedStage, key: &str) -> Result<Vec<AnswerRecord>> {
        let (name, config) = self.data_config(stage, key)?;
        let found = read_answers(&config).with_context(|| format!("data `{name}`"))?;
        if found.without > 0 {
            eprintln!(
                "      {name}: {} records without an answer are passed over",
                found.without
            );
        }
        Ok(found.records)
    }

    /// Writes what is kept of the ratings, group by group.
    fn keep_of_ratings(
        &self,
        stage: &PlannedStage,
        config: &Rate,
        mut counts: RatingCounts,
    ) -> Result<()> {
        let path = stage.directory.join(RATINGS);
        let partial = stage.directory.join(format!("{DATA}.partial"));
        let mut out = Lines::create(&partial)?;
        let seed = config.seed.unwrap_or(self.recipe.seed);
        let mut group: Vec<Rating> = Vec::new();
        let mut seen = 0;
        for rating in read_records::<Rating>(&path, "ratings")? {
            let rating = rating?;
            counts.count(&rating);
            if group.last().is_some_and(|last| last.group != rating.group) {
                keep(&group, config.keep, seed, &mut out, &mut counts)?;
                group.clear();
            }
            seen += usize::from(group.is_empty());
            group.push(rating);
        }
        keep(&group, config.keep, seed, &mut out, &mut counts)?;
        for _ in seen..counts.groups {
            counts.drop(Unpaired::NotRated);
        }
        write_json(
            &stage.directory.join(COUNTS),
            &serde_json::to_value(&counts)?,
        )?;
        if counts.kept == 0 {
            let why = counts.dropped.iter();
            let why: Vec<String> = why
                .map(|(why, count)| format!("{count} with {}", why.describe()))
                .collect();
            bail!(
                "none of {} prompts makes a pair: {}; the ratings are in {}\n\
                 hint: let there be more candidates, of several models or at a higher temperature; or keep = \"best\"",
                counts.groups,
                why.join(", "),
                path.display()
            );
        }
        out.finish(&partial, &stage.directory.join(DATA))
    }

    /// The counts that a finished stage left.
    ///
    /// # Errors
    /// When the file is missing or holds something else.
    pub fn rating_counts(stage: &PlannedStage) -> Result<RatingCounts> {
        super::read_counts(stage)
    }
}

fn keep(
    group: &[Rating],
    what: Keep,
    seed: u64,
    out: &mut Lines,
    counts: &mut RatingCounts,
) -> Result<()> {
    match what {
        Keep::Best => {
            if let Some(rating) = best(group) {
                out.write(&Best::of(rating))?;
                counts.kept += 1;
            }
        }
        Keep::Pairs => match pair(group, seed) {
            Ok(pair) => {
                out.write(&pair)?;
                counts.kept += 1;
            }
            Err(why) => counts.drop(why),
        },
    }
    Ok(())
}
