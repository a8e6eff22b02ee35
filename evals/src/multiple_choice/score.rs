//! How likely a model finds the choices of each question.

use std::time::Instant;

use model::decoder::Decoder;
use model::step;

use super::{Asked, ChoiceError, ChoiceRecord, ChoiceScores};
use crate::likelihood::{Item, SharedPrefix, log_likelihoods, plan};
use crate::sample_records::SampleRecords;
use crate::subject::{RemoteSubject, Subject};

type Records = SampleRecords<ChoiceRecord>;
/// Hears how many questions are done, and says whether to go on.
type Progress<'a> = dyn FnMut(usize) -> bool + 'a;

impl Asked {
    /// Scores a model. What is in `records` already is not asked for again. `progress` hears how many questions are done,
    /// and says whether to go on; `None` where it does not.
    ///
    /// # Errors
    /// A tokenizer of another model; a server that cannot score tokens; records that cannot be written.
    pub fn score(
        &self,
        subject: &Subject,
        mut records: Records,
        progress: &mut Progress,
    ) -> Result<Option<ChoiceScores>, ChoiceError> {
        let reading = subject.reading()?;
        let (items, cut) = self.items(reading.tokenizer, reading.context)?;
        let rows = reading.vocabulary;
        let ids = || items.iter().flatten().flat_map(|scored| &scored.ids);
        if let Some(&id) = ids().find(|&&id| id as usize >= rows) {
            return Err(ChoiceError::TokenOutOfRange { id, rows });
        }
        let is_done = match subject {
            Subject::Local(teacher) => {
                self.score_here(teacher.decoder(), &items, &mut records, progress)?
            }
            Subject::Remote(remote) => self.score_there(remote, &items, &mut records, progress)?,
        };
        match is_done {
            true => Ok(Some(self.scores(&records.finish()?, cut))),
            false => Ok(None),
        }
    }

    /// Questions that begin alike share the keys and values of their beginning.
    fn score_here(
        &self,
        decoder: &Decoder,
        items: &[Item],
        records: &mut Records,
        progress: &mut Progress,
    ) -> Result<bool, ChoiceError> {
        let mut done = 0;
        for group in plan(decoder, items, &self.subject_ranges()) {
            let mut prefix = None;
            for batch in &group.batches {
                done += batch.len();
                if !batch.iter().all(|&item| self.is_known(records, item)) {
                    let _span = step!("batch");
                    let started = Instant::now();
                    let prefix = prefix.get_or_insert_with(|| SharedPrefix::of(decoder, &group));
                    let of_batch: Vec<&Item> = batch.iter().map(|&item| &items[item]).collect();
                    let scores = log_likelihoods(decoder, &of_batch, prefix);
                    self.keep(batch, scores, started, records)?;
                }
                if !progress(done) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// A request for each choice, many at a time.
    fn score_there(
        &self,
        remote: &RemoteSubject,
        items: &[Item],
        records: &mut Records,
        progress: &mut Progress,
    ) -> Result<bool, ChoiceError> {
        let choices = items.iter().map(Vec::len).max().unwrap_or(1);
        let questions = (remote.sequences_at_a_time() / choices.max(1)).max(1);
        let mut done = 0;
        let all: Vec<usize> = (0..items.len()).collect();
        for batch in all.chunks(questions) {
            done += batch.len();
            let unknown = batch.iter().copied();
            let unknown: Vec<usize> = unknown
                .filter(|&item| !self.is_known(records, item))
                .collect();
            let started = Instant::now();
            let sequences = unknown.iter().flat_map(|&item| {
                let name = format!("question {}", self.questions[item].0);
                let choices = items[item].iter();
                choices.map(move |scored| (name.clone(), scored.clone()))
            });
            let sequences: Vec<_> = sequences.collect();
            let Some(told) = remote.log_probs(&sequences)? else {
                return Ok(false);
            };
            let mut told = told.into_iter().map(|tokens| tokens.iter().sum());
            let scores = (unknown.iter())
                .map(|&item| told.by_ref().take(items[item].len()).collect())
                .collect();
            self.keep(&unknown, scores, started, records)?;
            if !progress(done) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_known(&self, records: &Records, item: usize) -> bool {
        records.get(self.questions[item].0).is_some()
    }

    /// Records of the items of a batch that were scored together since `started`; those that are known stay as they are.
    fn keep(
        &self,
        batch: &[usize],
        scores: Vec<Vec<f64>>,
        started: Instant,
        records: &mut Records,
    ) -> Result<(), ChoiceError> {
        let seconds = started.elapsed().as_secs_f64() / batch.len().max(1) as f64;
        let fresh = batch.iter().zip(scores);
        let fresh = fresh.filter(|(item, _)| !self.is_known(records, **item));
        let fresh = fresh.map(|(&item, scores)| {
            let number = self.questions[item].0;
            match scores.iter().all(|score| score.is_finite()) {
                true => Ok((number, self.record(item, scores, seconds))),
                false => Err(ChoiceError::NoNumber { number }),
            }
        });
        let fresh = fresh.collect::<Result<_, _>>()?;
        Ok(records.append(fresh)?)
    }
}
