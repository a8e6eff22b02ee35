//! Data that student and teacher read in different tokens.

use anyhow::{Context, Result, bail};
use datasets::mask::SampleEncoder;
use datasets::sample::Sample;
use datasets::selection::COUNTS;
use datasets::tokenizer::Tokenizer;
use rayon::prelude::*;
use serde_json::to_value;
use teacher::alignment::TokenTexts;
use teacher::cross_tokenizer::{CrossTokenizer, Side};
use teacher::local::LocalTeacher;
use teacher::teacher::Teacher;
use teacher::vocabulary;

use super::corpus::{encoder, pad_of};
use super::{Chain, write_json};
use crate::plan::PlannedStage;
use crate::recipe::DataMix;

impl Chain<'_> {
    /// The teacher with the samples as both read them; says how much of the data is aligned.
    pub(super) fn across_tokenizers<'t>(
        &self,
        stage: &PlannedStage,
        mix: &DataMix,
        (student, chat_template): (&Tokenizer, Option<&str>),
        teacher: &'t LocalTeacher,
    ) -> Result<CrossTokenizer<'t>> {
        let ours = encoder(chat_template, student)?;
        let theirs = SampleEncoder::new(teacher.tokenizer())?;
        let corpus = self.corpus(stage, mix, &ours)?;
        let of_teacher = (self.corpus(stage, mix, &theirs))
            .context("the data in the teacher's tokens, by its own chat template")?;
        let is_whole = |corpus: &datasets::mixture::Corpus| {
            let mut parts = corpus.caches().iter();
            parts.all(|part| part.without_targets() == 0)
        };
        let partners = match is_whole(&corpus) && is_whole(&of_teacher) {
            true => None,
            false => Some(self.partners(stage, mix, &ours, &theirs)?),
        };
        let decoder = teacher.decoder();
        let rows = decoder.head().rows();
        let tokens = teacher.tokenizer();
        let across = CrossTokenizer {
            teacher: teacher as &dyn Teacher,
            student: Side {
                texts: TokenTexts::of(student),
                corpus,
            },
            of_teacher: Side {
                texts: TokenTexts::of(tokens),
                corpus: of_teacher,
            },
            partners,
            context: decoder.config.max_position_embeddings,
            pad: pad_of(tokens),
            valid: vocabulary::compare(tokens, tokens, [], rows, rows)?,
            alignments: Default::default(),
        };
        let share = across.share();
        if share.aligned == 0 {
            bail!(
                "student and teacher have no position in common: nowhere have both read the same text\nhint: `distill inspect` shows how a model reads the data; a chat template that changes what the assistant says leaves nothing to compare"
            );
        }
        eprintln!(
            "      aligned: {} of {} learned tokens ({:.1} %)",
            share.aligned,
            share.targets,
            100.0 * share.aligned as f64 / share.targets as f64
        );
        write_json(&stage.directory.join(COUNTS), &to_value(share)?)?;
        Ok(across)
    }

    /// The teacher's sample of each of the student's: samples without targets are left out by each for itself.
    fn partners(
        &self,
        stage: &PlannedStage,
        mix: &DataMix,
        ours: &SampleEncoder,
        theirs: &SampleEncoder,
    ) -> Result<Vec<Option<u32>>> {
        let mut partners = Vec::new();
        let mut number = 0;
        for (key, _) in mix.names() {
            let samples = self.samples(stage, &key)?;
            let is_kept = |encoder: &SampleEncoder, sample: &Sample| -> Result<bool> {
                Ok(encoder.encode(sample)?.supervised_count() > 0)
            };
            let kept: Vec<(bool, bool)> = (samples.par_iter())
                .map(|sample| Ok((is_kept(ours, sample)?, is_kept(theirs, sample)?)))
                .collect::<Result<_>>()?;
            for (ours, theirs) in kept {
                if ours {
                    partners.push(theirs.then_some(number));
                }
                number += u32::from(theirs);
            }
        }
        Ok(partners)
    }
}
