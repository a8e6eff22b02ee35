//! A teacher with another tokenizer than its student's: it reads the same samples in tokens of its own.

use std::sync::OnceLock;

use datasets::batch::Batch;
use datasets::mixture::Corpus;
use datasets::packing::Piece;
use model::batch::TokenBatch;
use rayon::prelude::*;

use crate::alignment::{TokenTexts, align};
use crate::error::TeacherError;
use crate::signal::Signal;
use crate::teacher::Teacher;

/// The teacher, and what both make of the samples.
pub struct CrossTokenizer<'a> {
    pub teacher: &'a dyn Teacher,
    pub student: Side,
    pub of_teacher: Side,
    /// The teacher's sample of each of the student's; `None` where they are numbered alike.
    pub partners: Option<Vec<Option<u32>>>,
    /// The most tokens that the teacher sees.
    pub context: usize,
    /// The id that fills its rows up.
    pub pad: u32,
    /// Leading columns of its head that are tokens.
    pub valid: usize,
    /// Of every sample, once one is asked for: a text may be cut into many pieces, and comes again in every epoch.
    pub alignments: OnceLock<Vec<Alignment>>,
}

/// The targets of a sample of the student's with those of the teacher's, and the teacher's sample.
#[derive(Debug, Default)]
pub struct Alignment {
    pairs: Vec<(u32, u32)>,
    partner: usize,
}

/// The samples in the tokens of one of the two.
pub struct Side {
    pub corpus: Corpus,
    pub texts: TokenTexts,
}

/// What the teacher says of the positions that have one of its own.
pub struct AlignedSignal {
    pub signal: Signal,
    /// Of each supervised position of the batch in order the teacher's row.
    pub partners: Vec<Option<u32>>,
    pub valid: usize,
}

/// How much of the data is aligned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct AlignedShare {
    /// The student's targets.
    pub targets: u64,
    pub aligned: u64,
}

/// A part of the teacher's sample that a piece of the student's needs.
struct Part {
    sample: usize,
    start: usize,
    length: usize,
    /// `(cell of the student's batch, place in this part)` of the rows that predict aligned targets.
    rows: Vec<(usize, usize)>,
}

impl CrossTokenizer<'_> {
    fn alignments(&self) -> &[Alignment] {
        let samples = 0..self.student.corpus.len();
        let align = || {
            let samples = samples.into_par_iter();
            samples.map(|sample| self.alignment(sample)).collect()
        };
        self.alignments.get_or_init(align)
    }

    fn alignment(&self, sample: usize) -> Alignment {
        let partner = match &self.partners {
            None => Some(sample),
            Some(partners) => partners[sample].map(|partner| partner as usize),
        };
        let Some(partner) = partner else {
            return Alignment::default();
        };
        let ours = (&self.student.texts, self.student.corpus.sample(sample));
        let theirs = (
            &self.of_teacher.texts,
            self.of_teacher.corpus.sample(partner),
        );
        Alignment {
            pairs: align(ours, theirs),
            partner,
        }
    }

    /// Over all samples, uncut.
    pub fn share(&self) -> AlignedShare {
        let alignments = self.alignments();
        let of_sample = |sample: usize| {
            let targets = self.student.corpus.sample(sample).supervised.iter();
            AlignedShare {
                targets: targets.filter(|flag| **flag != 0).count() as u64,
                aligned: alignments[sample].pairs.len() as u64,
            }
        };
        let add = |a: AlignedShare, b: AlignedShare| AlignedShare {
            targets: a.targets + b.targets,
            aligned: a.aligned + b.aligned,
        };
        let samples = 0..self.student.corpus.len();
        (samples.into_par_iter().map(of_sample)).reduce(AlignedShare::default, add)
    }

    /// The teacher's part for a piece of a sample that stands at `at` in the student's batch.
    ///
    /// A text that is cut begins for the teacher where both have a token's border, at the student's cut or before it.
    fn part(&self, piece: &Piece, at: usize) -> Option<Part> {
        let Alignment { pairs, partner } = &self.alignments()[piece.sample as usize];
        let first = piece.start;
        let before = pairs.partition_point(|(ours, _)| *ours <= first);
        let start = match first {
            0 => 0,
            _ => pairs[..before].last().map_or(0, |pair| pair.1),
        } as usize;
        let predicted = piece.predicted();
        let from = pairs.partition_point(|(ours, _)| (*ours as usize) < predicted.start);
        let rows: Vec<(usize, usize)> = (pairs[from..].iter())
            .map(|(ours, theirs)| (*ours as usize, *theirs as usize))
            .take_while(|(ours, _)| predicted.contains(ours))
            .filter(|(_, theirs)| *theirs > start)
            .map(|(ours, theirs)| (at + ours - 1 - first as usize, theirs - 1 - start))
            .take_while(|(_, row)| *row < self.context)
            .collect();
        let length = rows.last()?.1 + 1;
        Some(Part {
            sample: *partner,
            start,
            length,
            rows,
        })
    }

    /// What the teacher says of a batch of the student's; `None` where nothing is aligned.
    ///
    /// # Errors
    /// Those of the teacher.
    pub fn signal(&self, batch: &Batch) -> Result<Option<AlignedSignal>, TeacherError> {
        let parts: Vec<Part> = (batch.pieces.iter())
            .filter_map(|placed| self.part(&placed.piece, placed.at))
            .collect();
        let Some(longest) = parts.iter().map(|part| part.length).max() else {
            return Ok(None);
        };
        let length = longest.max(batch.length.min(self.context));
        let (rows, places) = place(&parts, length);
        let mut tokens = TokenBatch {
            rows,
            length,
            ids: vec![self.pad; rows * length],
            positions: vec![0; rows * length],
            segments: vec![0; rows * length],
        };
        let mut by_cell = vec![None; batch.supervised.len()];
        for (number, (part, &place)) in parts.iter().zip(&places).enumerate() {
            let ids = self.of_teacher.corpus.sample(part.sample).ids;
            let cells = place..place + part.length;
            tokens.ids[cells.clone()].copy_from_slice(&ids[part.start..][..part.length]);
            for (position, cell) in cells.enumerate() {
                tokens.positions[cell] = position as u32;
                tokens.segments[cell] = number as u32 + 1;
            }
            for &(cell, row) in &part.rows {
                by_cell[cell] = Some((place + row) as u32);
            }
        }
        let supervised = by_cell.iter().zip(&batch.supervised);
        Ok(Some(AlignedSignal {
            signal: self.teacher.signal(&tokens, &[])?,
            partners: (supervised.filter(|(_, flag)| **flag))
                .map(|(row, _)| *row)
                .collect(),
            valid: self.valid,
        }))
    }
}

/// The number of rows of `length` cells that hold the parts, and the first cell of each: each goes into the first row with
/// room for it.
fn place(parts: &[Part], length: usize) -> (usize, Vec<usize>) {
    let mut filled: Vec<usize> = Vec::new();
    let places = (parts.iter())
        .map(|part| {
            let fits = |used: &usize| used + part.length <= length;
            let row = filled.iter().position(fits).unwrap_or_else(|| {
                filled.push(0);
                filled.len() - 1
            });
            filled[row] += part.length;
            row * length + filled[row] - part.length
        })
        .collect();
    (filled.len(), places)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use burn::tensor::{DType, Device, Tensor, TensorData};
    use datasets::cache::TokenCache;
    use datasets::loader::{BatchLoader, BatchSize, LoaderConfig};
    use datasets::mask::SampleEncoder;
    use datasets::packing::Packing;
    use datasets::sample::Sample;
    use datasets::tokenizer::Tokenizer;
    use model::linear::Weight;
    use model::parameter::Parameter;

    use super::*;
    use crate::teacher::Vocabulary;
    use crate::test_tokenizer::byte_tokenizer;

    /// Keeps what it is asked about.
    struct Listener {
        tokenizer: Tokenizer,
        heard: Mutex<Option<TokenBatch>>,
    }

    impl Teacher for Listener {
        fn signal(&self, batch: &TokenBatch, _: &[usize]) -> Result<Signal, TeacherError> {
            *self.heard.lock().unwrap() = Some(batch.clone());
            let zeros = |rows: usize| {
                let data = TensorData::new(vec![0.0_f32; rows], [rows, 1]);
                Tensor::from_data(data, (&Device::flex(), DType::F32))
            };
            Ok(Signal {
                hidden: zeros(batch.ids.len()),
                head: Weight::Dense(Parameter::new("head", vec![1, 1], zeros(1))),
                layers: Default::default(),
            })
        }

        fn vocabulary(&self) -> Vocabulary<'_> {
            Vocabulary {
                tokenizer: &self.tokenizer,
                rows: 1,
            }
        }
    }

    fn corpus(tokenizer: &Tokenizer, samples: &[Sample]) -> Corpus {
        let directory = tempfile::tempdir().unwrap();
        let encoder = SampleEncoder::with_template(tokenizer, None);
        let cache = TokenCache::build_or_open(directory.path(), "test", &encoder, |take| {
            take(samples.to_vec())
        });
        let cache = cache.unwrap();
        Corpus::new(vec![(Arc::new(cache), 1.0)]).unwrap()
    }

    /// The text of the segment of `cell` up to and with it; rows are of `length` cells.
    fn read(
        tokenizer: &Tokenizer,
        (ids, segments): (&[u32], &[u32]),
        cell: usize,
        length: usize,
    ) -> Vec<u8> {
        let row = cell / length * length;
        let mut before = (row..=cell).rev();
        let end = before.find(|at| segments[*at] != segments[cell]);
        let start = end.map_or(row, |at| at + 1);
        (ids[start..=cell].iter())
            .flat_map(|id| tokenizer.token_bytes(*id).unwrap())
            .collect()
    }

    #[test]
    fn each_partner_predicts_from_the_same_text() {
        let ours = byte_tokenizer(&[b"th", b"e "], &["<end>"], "<end>");
        let theirs = byte_tokenizer(&[b"he", b" t", b"\xec\x95"], &["</s>"], "</s>");
        let long = "the other 안 the then there ".repeat(9);
        let samples = [
            Sample::Text(long.clone()),
            Sample::Completion {
                prompt: "the question ".into(),
                completion: "then the answer".into(),
            },
            Sample::Text("the end".into()),
        ];
        let student = corpus(&ours, &samples);
        let total = student.caches()[0].supervised() as usize;
        let listener = Listener {
            tokenizer: theirs,
            heard: Mutex::default(),
        };
        let config = LoaderConfig {
            sequence_length: 48,
            batch: BatchSize::Rows(3),
            seed: 1,
            stage: String::new(),
            packing: Packing::Pack,
            pad: 0,
        };
        let loader = BatchLoader::new(corpus(&ours, &samples), config).unwrap();
        for (context, least) in [(1000, total / 2), (20, total / 8)] {
            let across = CrossTokenizer {
                teacher: &listener,
                student: Side {
                    corpus: corpus(&ours, &samples),
                    texts: TokenTexts::of(&ours),
                },
                of_teacher: Side {
                    corpus: corpus(&listener.tokenizer, &samples),
                    texts: TokenTexts::of(&listener.tokenizer),
                },
                partners: None,
                context,
                pad: 0,
                valid: 1,
                alignments: OnceLock::new(),
            };
            assert_eq!(across.share().targets as usize, total);
            let mut aligned = 0;
            for number in 0..loader.batches_per_epoch() {
                let batch = loader.batch(number);
                let Some(found) = across.signal(&batch).unwrap() else {
                    continue;
                };
                let heard = listener.heard.lock().unwrap().take().unwrap();
                assert!(heard.positions.iter().all(|at| (*at as usize) < context));
                let cells = (0..batch.supervised.len()).filter(|cell| batch.supervised[*cell]);
                assert_eq!(found.partners.len(), cells.clone().count());
                for (cell, partner) in cells.zip(&found.partners) {
                    let Some(row) = *partner else {
                        continue;
                    };
                    aligned += 1;
                    let ours = read(&ours, (&batch.ids, &batch.segments), cell, batch.length);
                    let heard_of = (&heard.ids[..], &heard.segments[..]);
                    let theirs = read(&listener.tokenizer, heard_of, row as usize, heard.length);
                    // Where a text is cut the teacher may have read a little more.
                    assert!(theirs.ends_with(&ours), "{theirs:?} {ours:?}");
                    assert!(theirs.len() - ours.len() <= 4);
                }
            }
            println!("{aligned} of {total} aligned");
            assert!(aligned >= least, "{aligned} of {total}");
        }
    }

    #[test]
    fn samples_without_a_partner_are_left_out() {
        let tokenizer = byte_tokenizer(&[], &["<end>"], "<end>");
        let samples = ["one", "two", "six"].map(|text| Sample::Text(text.into()));
        let side = |samples: &[Sample]| Side {
            corpus: corpus(&tokenizer, samples),
            texts: TokenTexts::of(&tokenizer),
        };
        let listener = Listener {
            tokenizer: byte_tokenizer(&[], &["<end>"], "<end>"),
            heard: Mutex::default(),
        };
        let across = CrossTokenizer {
            teacher: &listener,
            student: side(&samples),
            of_teacher: side(&samples[1..]),
            partners: Some(vec![None, Some(0), Some(1)]),
            context: 100,
            pad: 0,
            valid: 1,
            alignments: OnceLock::new(),
        };
        let share = across.share();
        assert_eq!((share.targets, share.aligned), (9, 6));
    }
}
