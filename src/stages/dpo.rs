//! Stage `dpo`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use datasets::cache::TokenCache;
use datasets::loader::{BatchLoader, BatchSize};
use datasets::mixture::Corpus;
use serde_json::Value;
use teacher::{TeacherError, vocabulary};
use trainer::config::TrainConfig;
use trainer::objective::dpo::Dpo as DpoObjective;
use trainer::objective::reference::Digests;
use trainer::objective::{Objective, Trainee, reference};

use super::Chain;
use super::corpus::encoder;
use super::models::OpenModel;
use super::train::{Training, used_ids};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::Dpo;

/// Where a stage keeps what the reference model says.
const REFERENCE: &str = "reference.safetensors";

/// What was measured on held-out pairs before the first step and after the last.
pub struct PairScores {
    pub name: String,
    pub data: String,
    pub pairs: u64,
    pub before: PairScore,
    pub after: PairScore,
}

pub struct PairScore {
    pub loss: f64,
    pub accuracy: f64,
    pub margin: f64,
}

impl Chain<'_> {
    pub fn dpo(
        &self,
        stage: &PlannedStage,
        config: &Dpo,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let train = &config.train;
        let (student, base) = self.open_student(stage, "model", train)?;
        self.check_context(stage, "model", &student.decoder, train)?;
        let encoder = encoder(train.chat_template.as_deref(), &student.tokenizer)?;
        let parts =
            (config.inputs.data.names().zip(&config.inputs.data.0)).map(|((key, _), share)| {
                Ok((
                    self.tokens_by(stage, &key, &encoder, TokenCache::of_pairs)?,
                    share.weight,
                ))
            });
        let corpus = Corpus::new(parts.collect::<Result<Vec<_>>>()?)?;
        let loader = |corpus: Corpus, rows| {
            let rows = BatchSize::Rows(rows);
            BatchLoader::of_pairs(corpus, self.loader_config(train, &student.tokenizer, rows))
        };
        let data = loader(corpus, train.rows_per_step())?;
        let heldout = match train.heldout {
            None => None,
            Some(_) => {
                let pairs = self.tokens_by(stage, "heldout", &encoder, TokenCache::of_pairs)?;
                let rows = train.micro_batch.unwrap_or(4);
                Some(loader(Corpus::new(vec![(pairs, 1.0)])?, rows)?)
            }
        };
        let reference = match config.inputs.loss.reference_free() {
            true => Some([Vec::new(), Vec::new()]),
            false => self.reference(stage, config, &student, &data, heldout.as_ref())?,
        };
        let Some([of_data, of_heldout]) = reference else {
            return Ok(Some(0));
        };
        let training = Training {
            trainee: Trainee::new(student.decoder),
            tokenizer: student.tokenizer,
            objective: Objective::Dpo(DpoObjective {
                loss: config.inputs.loss.clone(),
                reference: of_data,
                heldout_reference: of_heldout,
            }),
            data,
            heldout,
            config: train,
            on_policy: None,
            base,
        };
        self.train(stage, training, progress)
    }

    /// What the reference model says of the pairs of training and of held-out data: from the stage's file, or computed now.
    /// None when the run is stopped meanwhile.
    fn reference(
        &self,
        stage: &PlannedStage,
        config: &Dpo,
        student: &OpenModel,
        data: &BatchLoader,
        heldout: Option<&BatchLoader>,
    ) -> Result<Option<[Vec<f64>; 2]>> {
        let train = &config.train;
        let key = match config.inputs.reference {
            Some(_) => "reference",
            None => "model",
        };
        let digests = self.reference_digests(stage, key, train, data, heldout)?;
        let wanted = [
            data.pairs_of(train.total_steps(data.batches_per_epoch())),
            heldout.map_or_else(Vec::new, |heldout| {
                heldout.pairs_of(heldout.batches_per_epoch())
            }),
        ];
        let samples = |loader: Option<&BatchLoader>| loader.map_or(0, |l| l.corpus().len());
        let path = stage.directory.join(REFERENCE);
        if let Some(mut kept) = reference::read(&path, &digests) {
            let of = |name: &str, kept: &mut HashMap<String, Vec<f64>>| kept.remove(name);
            let known = [of("train", &mut kept), of("heldout", &mut kept)];
            if let [Some(first), Some(second)] = known
                && reference::covers(&first, samples(Some(data)), &wanted[0])
                && reference::covers(&second, samples(heldout), &wanted[1])
            {
                Progress::reference(wanted[0].len() + wanted[1].len(), true);
                return Ok(Some([first, second]));
            }
        }
        let other = match &config.inputs.reference {
            Some(_) => Some(self.open_reference(stage, train, student, [Some(data), heldout])?),
            None => None,
        };
        let decoder = &other.as_ref().unwrap_or(student).decoder;
        Progress::reference(wanted[0].len() + wanted[1].len(), false);
        let stop = || self.stop.load(Ordering::Relaxed);
        let rows = train.micro_batch.unwrap_or(4);
        let mut found = [Vec::new(), Vec::new()];
        let loaders = [Some(data), heldout];
        for ((found, loader), wanted) in found.iter_mut().zip(loaders).zip(&wanted) {
            let Some(loader) = loader else { continue };
            let said = reference::reference_log_probs(decoder, loader, wanted, rows, &stop);
            match said {
                Some(log_probs) => *found = log_probs,
                None => return Ok(None),
            }
            if !reference::covers(found, loader.corpus().len(), wanted) {
                bail!("the reference model gives an answer a log-probability that is not finite");
            }
        }
        reference::write(
            &path,
            &digests,
            &[("train", &found[0]), ("heldout", &found[1])],
        )
        .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Some(found))
    }

    /// Another model, to be asked with the tokens of the one that is trained.
    fn open_reference(
        &self,
        stage: &PlannedStage,
        train: &TrainConfig,
        student: &OpenModel,
        data: [Option<&BatchLoader>; 2],
    ) -> Result<OpenModel> {
        let opened = self.open_model(stage, "reference")?;
        self.check_context(stage, "reference", &opened.decoder, train)?;
        let compared = vocabulary::compare(
            &student.tokenizer,
            &opened.tokenizer,
            data.into_iter().flatten().flat_map(used_ids),
            student.decoder.head().rows(),
            opened.decoder.head().rows(),
        );
        match compared {
            Ok(_) => Ok(opened),
            Err(TeacherError::VocabularyMismatch {
                id,
                student,
                teacher,
            }) => bail!(
                "{}: the reference's vocabulary differs from the model's: token {id} is {student} for the model and {teacher} for the reference\nhint: a reference must share the model's tokenizer; take two models of one family, or leave out `reference`",
                self.key_of(stage, "reference")
            ),
            Err(error) => Err(error).with_context(|| self.key_of(stage, "reference")),
        }
    }

    fn reference_digests(
        &self,
        stage: &PlannedStage,
        key: &str,
        train: &TrainConfig,
        data: &BatchLoader,
        heldout: Option<&BatchLoader>,
    ) -> Result<Digests> {
        let model = (stage.inputs.iter()).find(|input| input.input.reference.key == key);
        let model = model.context("a stage `dpo` has a model")?;
        let tokens = |loader: Option<&BatchLoader>| {
            let caches = loader.iter().flat_map(|loader| loader.corpus().caches());
            caches
                .map(|cache| cache.digest())
                .collect::<Vec<_>>()
                .join(" ")
        };
        Ok(Digests::from([
            ("model", model.digest.to_string()),
            // Of ids and masks: tokenizer and template show in them.
            ("train", tokens(Some(data))),
            ("heldout", tokens(heldout)),
            ("sequence_length", train.sequence_length.to_string()),
        ]))
    }

    /// What a finished stage measured on its held-out pairs; None where it has none.
    ///
    /// # Errors
    /// When its `metrics.jsonl` is gone or damaged.
    pub fn pair_scores(stage: &PlannedStage, name: &str) -> Result<Option<PairScores>> {
        let inputs = (stage.inputs.iter()).map(|input| &input.input.reference);
        let Some(data) = inputs.into_iter().find(|input| input.key == "heldout") else {
            return Ok(None);
        };
        let path = stage.directory.join("metrics.jsonl");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut measured = BTreeMap::new();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line)
                .with_context(|| format!("{} holds no metrics", path.display()))?;
            if line.get("heldout_accuracy").is_some() {
                measured.insert(line["step"].as_u64(), line);
            }
        }
        let (Some(first), Some(last)) = (measured.values().next(), measured.values().last()) else {
            bail!("{} has nothing of held-out pairs", path.display());
        };
        let number = |line: &Value, key: &str| line[key].as_f64().unwrap_or(f64::NAN);
        let score = |line: &Value| PairScore {
            loss: number(line, "heldout_loss"),
            accuracy: number(line, "heldout_accuracy"),
            margin: number(line, "heldout_margin"),
        };
        Ok(Some(PairScores {
            name: name.to_string(),
            data: data.name.clone(),
            pairs: last["heldout_pairs"].as_u64().unwrap_or(0),
            before: score(first),
            after: score(last),
        }))
    }
}
