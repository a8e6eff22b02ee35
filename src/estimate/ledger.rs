//! What a process holds, array after array, in the order in which the work takes and frees them.
//!
//! A step frees most of what it takes, and memory that was used once stays with the process until the stage ends. So the most
//! that a stage holds is not a sum: it is where the program's allocator ends up, which a plan asks by the same rule.

use serde::{Deserialize, Serialize};

use crate::memory::{Heap, LARGE, pages};

/// What memory is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The program, its threads, the tokenizer: there before any model is.
    Process,
    /// Of the model that is trained, or that the stage works on.
    Weights,
    Gradients,
    OptimizerState,
    /// What the forward pass keeps for the backward pass, and what both need on the way.
    Activations,
    /// Logits of some positions and what becomes of them.
    LossChunks,
    KvCache,
    /// Stored targets, mapped from their files.
    SoftTargets,
    /// Weights and activations of the teacher, or of another model that is only asked.
    Teacher,
    /// Tokens, mapped from their files.
    Data,
    /// Freed, and in pieces too small for what came later.
    Gaps,
}

impl Part {
    const COUNT: usize = 11;
    const ALL: [Self; Self::COUNT] = [
        Self::Process,
        Self::Weights,
        Self::Gradients,
        Self::OptimizerState,
        Self::Activations,
        Self::LossChunks,
        Self::KvCache,
        Self::SoftTargets,
        Self::Teacher,
        Self::Data,
        Self::Gaps,
    ];

    pub fn described(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Weights => "weights",
            Self::Gradients => "gradients",
            Self::OptimizerState => "optimizer state",
            Self::Activations => "activations",
            Self::LossChunks => "loss chunks",
            Self::KvCache => "KV cache",
            Self::SoftTargets => "soft targets",
            Self::Teacher => "teacher",
            Self::Data => "tokens",
            Self::Gaps => "gaps",
        }
    }
}

/// Bytes at the moment when the process holds most, by part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    pub total: u64,
    pub parts: Vec<Share>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    pub part: Part,
    pub bytes: u64,
}

impl Memory {
    /// The same, and so much more of a part.
    pub fn beside(mut self, part: Part, bytes: usize) -> Self {
        let bytes = bytes as u64;
        self.total += bytes;
        match self.parts.iter_mut().find(|share| share.part == part) {
            Some(share) => share.bytes += bytes,
            None => self.parts.push(Share { part, bytes }),
        }
        self
    }

    #[cfg(test)]
    pub fn of(&self, part: Part) -> u64 {
        (self.parts.iter())
            .filter(|share| share.part == part)
            .map(|share| share.bytes)
            .sum()
    }
}

/// An array that is held. It has to be given back, or is there to the end.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Array {
    part: Part,
    bytes: usize,
    /// Where it lies among the large ones.
    start: Option<usize>,
}

pub struct Ledger {
    heap: Heap,
    live: [usize; Part::COUNT],
    /// Where what was never used begins, and by part what was held when it moved last.
    end: usize,
    peak: [usize; Part::COUNT],
    /// What is too small for the range of large blocks, by part, and when there was most of it.
    small: [usize; Part::COUNT],
    most_small: [usize; Part::COUNT],
    /// Not allocated: mapped, or there before.
    fixed: [usize; Part::COUNT],
}

impl Ledger {
    pub fn new() -> Self {
        Self {
            heap: Heap::new(usize::MAX),
            live: [0; Part::COUNT],
            peak: [0; Part::COUNT],
            end: 0,
            small: [0; Part::COUNT],
            most_small: [0; Part::COUNT],
            fixed: [0; Part::COUNT],
        }
    }

    pub fn take(&mut self, part: Part, bytes: usize) -> Array {
        if bytes < LARGE {
            self.small[part as usize] += bytes;
            if self.small.iter().sum::<usize>() > self.most_small.iter().sum() {
                self.most_small = self.small;
            }
            let start = None;
            return Array { part, bytes, start };
        }
        let start = self.heap.take(pages(bytes)).map(|(start, _)| start);
        self.live[part as usize] += bytes;
        let end = start.map_or(0, |start| start + pages(bytes));
        if end > self.end {
            self.end = end;
            self.peak = self.live;
        }
        Array { part, bytes, start }
    }

    pub fn give(&mut self, array: Array) {
        let held = match array.start {
            Some(start) => {
                self.heap.give(start, pages(array.bytes));
                &mut self.live
            }
            None => &mut self.small,
        };
        held[array.part as usize] -= array.bytes;
    }

    pub fn give_all(&mut self, arrays: impl IntoIterator<Item = Array>) {
        arrays.into_iter().for_each(|array| self.give(array));
    }

    /// Takes and gives back: what an operation needs on the way.
    pub fn pass(&mut self, part: Part, bytes: usize) {
        let array = self.take(part, bytes);
        self.give(array);
    }

    /// Memory beside what is allocated.
    pub fn fix(&mut self, part: Part, bytes: usize) {
        self.fixed[part as usize] += bytes;
    }

    pub fn memory(&self) -> Memory {
        let used: usize = self.peak.iter().sum();
        let mut parts = self.peak;
        parts[Part::Gaps as usize] += self.end.saturating_sub(used);
        for (number, part) in parts.iter_mut().enumerate() {
            *part += self.most_small[number] + self.fixed[number];
        }
        let shares = (Part::ALL.into_iter().zip(parts))
            .filter(|(_, bytes)| *bytes > 0)
            .map(|(part, bytes)| Share {
                part,
                bytes: bytes as u64,
            });
        Memory {
            total: parts.iter().sum::<usize>() as u64,
            parts: shares.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_is_held_in_parts_and_gaps() {
        const MIB: usize = 1 << 20;
        let mut ledger = Ledger::new();
        ledger.fix(Part::Process, 5 * MIB);
        let first = ledger.take(Part::Activations, 4 * MIB);
        let _weights = ledger.take(Part::Weights, 2 * MIB);
        ledger.give(first);
        // 6 MiB do not fit into the 4 that are free: the end moves to 12.
        let last = ledger.take(Part::LossChunks, 6 * MIB);
        ledger.give(last);
        ledger.pass(Part::Activations, 3 * MIB);
        let memory = ledger.memory();
        assert_eq!(memory.total, 17 * MIB as u64);
        assert_eq!(memory.of(Part::Weights), 2 * MIB as u64);
        assert_eq!(memory.of(Part::LossChunks), 6 * MIB as u64);
        assert_eq!(memory.of(Part::Activations), 0);
        assert_eq!(memory.of(Part::Gaps), 4 * MIB as u64);
    }
}
