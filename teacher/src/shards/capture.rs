//! A teacher's targets, shard by shard.

use std::path::Path;

use burn::tensor::{DType, Int, Tensor, TensorData};
use datasets::batch::Batch;
use datasets::mixture::Corpus;
use datasets::pieces::PieceList;
use datasets::random::Random;
use half::f16;
use model::ops::host::with_f32;
use model::score::chunk_rows;
use model::span::Cost;
use model::{operation, phase, step};
use rayon::prelude::*;

use super::distribution::Distribution;
use super::plan::CapturePlan;
use super::record::{write_sampled, write_top_k};
use super::shard_file::{ShardArrays, Target, write_shard};
use super::{Description, Encoding, ShardError};
use crate::error::TeacherError;
use crate::signal::token_batch;
use crate::teacher::Teacher;

/// Everything that decides the bits of a directory of shards.
pub struct Capture<'a> {
    pub teacher: &'a dyn Teacher,
    pub corpus: &'a Corpus,
    pub pieces: &'a PieceList,
    /// Rows that the teacher computes together.
    pub rows: usize,
    /// The id that fills rows up.
    pub pad: u32,
    pub plan: &'a CapturePlan,
}

impl Capture<'_> {
    /// Computes a shard (below the plan's count) and writes it.
    ///
    /// # Errors
    /// A teacher whose logits are not finite; a full disk.
    pub fn write(&self, directory: &Path, number: usize) -> Result<(), TeacherError> {
        let plan = &self.plan.shards[number];
        let mut of_pieces: Vec<Vec<Target>> = Vec::new();
        of_pieces.resize_with(plan.pieces.len(), Vec::new);
        // The place of each piece's first target, for what is drawn.
        let mut first = vec![plan.first_target];
        for piece in plan.pieces.clone() {
            let targets = self.pieces.targets(self.corpus, piece) as u64;
            first.push(first[first.len() - 1] + targets);
        }
        let batches = self
            .pieces
            .batches(self.corpus, plan.pieces.clone(), self.rows, self.pad);
        for batch in batches {
            let _step = step!("batch");
            let mut cells = Vec::new();
            let mut owners = Vec::new();
            for placed in &batch.pieces {
                let piece = self.pieces.number(&placed.piece).unwrap_or_default();
                let piece = piece - plan.pieces.start;
                let supervised = placed.cells().filter(|cell| batch.supervised[*cell]);
                for (i, cell) in supervised.enumerate() {
                    cells.push(cell);
                    owners.push((piece, first[piece] + i as u64));
                }
            }
            let numbers: Vec<u64> = owners.iter().map(|(_, number)| *number).collect();
            let targets = self.targets(&batch, &cells, &numbers)?;
            for ((piece, _), target) in owners.into_iter().zip(targets) {
                of_pieces[piece].push(target);
            }
        }
        let _phase = phase!("write shard");
        let mut arrays = ShardArrays::default();
        for piece in &of_pieces {
            arrays.push_piece(piece);
        }
        Ok(write_shard(directory, self.plan.header(number), &arrays)?)
    }

    /// The targets at `cells` of a batch; `numbers` are their places among all targets.
    fn targets(
        &self,
        batch: &Batch,
        cells: &[usize],
        numbers: &[u64],
    ) -> Result<Vec<Target>, TeacherError> {
        let signal = {
            let _phase = phase!("teacher");
            self.teacher.signal(&token_batch(batch), &[])?
        };
        let _phase = phase!("targets");
        let head = signal.head.cast(signal.hidden.dtype());
        let rows = chunk_rows(head.rows());
        let mut targets = Vec::with_capacity(cells.len());
        for (cells, numbers) in cells.chunks(rows).zip(numbers.chunks(rows)) {
            let index: Vec<i32> = cells.iter().map(|cell| *cell as i32).collect();
            let data = TensorData::new(index, [cells.len()]);
            let index = Tensor::<1, Int>::from_data(data, (&signal.hidden.device(), DType::I32));
            let hidden = signal.hidden.clone().select(0, index);
            let logits = {
                let _span = operation!("teacher logits", Cost::weight_product(&hidden, &head));
                head.forward(&hidden).cast(DType::F32)
            };
            let _span = operation!("targets of rows", Cost::arrays([&logits]));
            let found = with_f32(&logits, |logits| {
                self.targets_of_rows(logits, head.rows(), numbers)
            });
            targets.extend(found?);
        }
        Ok(targets)
    }

    fn targets_of_rows(
        &self,
        logits: &[f32],
        columns: usize,
        numbers: &[u64],
    ) -> Result<Vec<Target>, ShardError> {
        let Description {
            encoding,
            temperature,
            vocabulary,
            seed,
            ..
        } = self.plan.description;
        let order = encoding.golomb_order(vocabulary);
        let row = |(logits, &number): (&[f32], &u64)| {
            let distribution = Distribution::new(&logits[..vocabulary], temperature)
                .ok_or(ShardError::NotFinite { target: number })?;
            let mut record = Vec::new();
            match &encoding {
                Encoding::TopK(top) => {
                    let (ids, logs, tail) = distribution.top_k(top.k as usize);
                    write_top_k(top, vocabulary, &ids, &logs, tail, &mut record);
                }
                Encoding::Sampled(sampled) => {
                    let mut random = Random::new(seed, "capture", number, "draws");
                    let (ids, counts) = distribution.draw(sampled.samples as usize, &mut random);
                    write_sampled(order, &ids, &counts, &mut record);
                }
            }
            Ok(Target {
                entropy: f16::from_f64(distribution.entropy),
                record,
            })
        };
        logits.par_chunks(columns).zip(numbers).map(row).collect()
    }
}
