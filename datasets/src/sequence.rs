//! Sequences that are taken out of a batch, or come from elsewhere, and laid into rows again.

use std::cmp::Reverse;

use crate::batch::Batch;

/// A sequence on its way into a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    pub ids: Vec<u32>,
    /// Whether predicting the token *after* each counts; never at the last.
    pub supervised: Vec<bool>,
}

impl Sequence {
    /// A prompt and its answer, of which every token counts. The prompt is not empty.
    pub fn answered(prompt: &[u32], answer: &[u32]) -> Self {
        let length = prompt.len() + answer.len();
        Self {
            ids: [prompt, answer].concat(),
            supervised: (1..=length)
                .map(|next| next >= prompt.len() && next < length)
                .collect(),
        }
    }

    /// The tokens that its last answer follows; `None` where everything counts, as in plain text: a first token alone is
    /// no prompt.
    pub fn prompt(&self) -> Option<&[u32]> {
        let last = self.supervised.iter().rposition(|counts| *counts)?;
        let before = self.supervised[..last].iter().rposition(|counts| !*counts);
        let prompt = before.map_or(0, |at| at + 1) + 1;
        (prompt >= 2).then(|| &self.ids[..prompt])
    }
}

impl Batch {
    /// The pieces of samples that the batch holds, in the order of its rows.
    pub fn sequences(&self) -> Vec<Sequence> {
        let sequence = |cells: std::ops::Range<usize>| Sequence {
            ids: self.ids[cells.clone()].to_vec(),
            supervised: self.supervised[cells].to_vec(),
        };
        let cells = self.pieces.iter().map(|placed| placed.cells());
        cells.map(sequence).collect()
    }

    /// Sequences, none longer than `length`, in as few rows as the first that fits gives, the longest first; with
    /// `alone` a row each.
    pub fn of_sequences(sequences: &[Sequence], length: usize, pad: u32, alone: bool) -> Self {
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by_key(|&number| Reverse(sequences[number].ids.len()));
        // The tokens of each row so far, and what lies in it.
        let mut rows: Vec<(usize, Vec<usize>)> = Vec::new();
        for number in order {
            let tokens = sequences[number].ids.len();
            let free = |row: &&mut (usize, Vec<usize>)| !alone && row.0 + tokens <= length;
            match rows.iter_mut().find(free) {
                Some(row) => {
                    row.0 += tokens;
                    row.1.push(number);
                }
                None => rows.push((tokens, vec![number])),
            }
        }
        let mut batch = Self::padding(rows.len(), length, pad);
        for (row, (_, numbers)) in rows.iter().enumerate() {
            let mut at = row * length;
            for (segment, &number) in numbers.iter().enumerate() {
                let Sequence { ids, supervised } = &sequences[number];
                let end = at + ids.len();
                batch.ids[at..end].copy_from_slice(ids);
                batch.targets[at..end - 1].copy_from_slice(&ids[1..]);
                batch.supervised[at..end].copy_from_slice(supervised);
                for (position, slot) in batch.positions[at..end].iter_mut().enumerate() {
                    *slot = position as u32;
                }
                batch.segments[at..end].fill(segment as u32 + 1);
                at = end;
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_to_its_last_token() {
        let sequence = Sequence::answered(&[5, 6, 7], &[8, 9]);
        assert_eq!(sequence.ids, [5, 6, 7, 8, 9]);
        assert_eq!(sequence.supervised, [false, false, true, true, false]);
        assert_eq!(sequence.prompt(), Some(&[5, 6, 7][..]));
    }

    #[test]
    fn the_prompt_is_what_the_last_answer_follows() {
        let prompt = |supervised: [u8; 6]| {
            let sequence = Sequence {
                ids: (0..6).collect(),
                supervised: supervised.map(|s| s == 1).to_vec(),
            };
            sequence.prompt().map(<[u32]>::len)
        };
        assert_eq!(prompt([0, 1, 1, 0, 1, 0]), Some(5));
        assert_eq!(prompt([0, 0, 1, 1, 1, 0]), Some(3));
        assert_eq!(prompt([1, 1, 0, 0, 1, 0]), Some(5));
        // Plain text, a prompt of one token, and nothing that counts.
        assert_eq!(prompt([1, 1, 1, 1, 1, 0]), None);
        assert_eq!(prompt([0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn rows_hold_each_sequence_once_and_what_was_taken_out_is_what_goes_in() {
        let sequences: Vec<Sequence> = [3_u32, 7, 2, 5, 4]
            .iter()
            .map(|&n| Sequence::answered(&[n, 1], &(0..n).collect::<Vec<_>>()))
            .collect();
        let batch = Batch::of_sequences(&sequences, 12, 99, false);
        // 9 · 7 + 5 · 6 + 4, the longest first.
        assert_eq!(batch.rows, 3);
        assert_eq!(batch.segments[..12], [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]);
        assert_eq!(batch.segments[12..24], [1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]);
        assert_eq!(
            batch.positions[12..24],
            [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4]
        );
        assert_eq!(batch.supervised_count(), 21);
        assert_eq!(batch.token_count(), 21 + 2 * 5);
        for cell in (0..batch.ids.len()).filter(|&cell| batch.supervised[cell]) {
            assert_eq!(batch.targets[cell], batch.ids[cell + 1]);
            assert_eq!(batch.segments[cell], batch.segments[cell + 1]);
        }
        assert_eq!(Batch::of_sequences(&sequences, 12, 99, true).rows, 5);
    }
}
