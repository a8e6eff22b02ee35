//! What the student wrote some steps ago, to be learned again while it is not too old.

use std::collections::{BTreeSet, VecDeque};

use datasets::random::Random;
use datasets::sequence::Sequence;
use serde::{Deserialize, Serialize};

use super::config::Replay;

/// A prompt and what the student wrote behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// The step, from 0, at which it was written.
    pub step: u64,
    pub prompt: Vec<u32>,
    pub answer: Vec<u32>,
}

impl Written {
    pub fn sequence(&self) -> Sequence {
        Sequence::answered(&self.prompt, &self.answer)
    }
}

/// In the order of writing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplayBuffer(pub VecDeque<Written>);

impl ReplayBuffer {
    /// Forgets what is too old at `step`.
    pub fn forget(&mut self, config: &Replay, step: u64) {
        self.0.retain(|kept| step - kept.step <= config.max_age);
    }

    /// Any that is not among the `taken` of this step, all equally likely; `None` when none is left.
    pub fn draw(&self, taken: &mut BTreeSet<usize>, random: &mut Random) -> Option<&Written> {
        let left = self.0.len() - taken.len();
        if left == 0 {
            return None;
        }
        let chosen = random.below(left as u64) as usize;
        let number = (0..self.0.len())
            .filter(|i| !taken.contains(i))
            .nth(chosen)?;
        taken.insert(number);
        self.0.get(number)
    }

    /// Adds what was written; what is beyond the capacity goes, the oldest first.
    pub fn add(&mut self, config: &Replay, written: Vec<Written>) {
        self.0.extend(written);
        let beyond = self.0.len().saturating_sub(config.capacity);
        self.0.drain(..beyond);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_ones_go_and_none_is_drawn_twice_in_a_step() {
        let config = Replay {
            capacity: 5,
            max_age: 2,
            ..Replay::default()
        };
        let written = |step| Written {
            step,
            prompt: vec![1, 2],
            answer: vec![3],
        };
        let mut buffer = ReplayBuffer::default();
        for step in 0..4 {
            buffer.forget(&config, step);
            buffer.add(&config, vec![written(step), written(step)]);
        }
        let steps: Vec<u64> = buffer.0.iter().map(|written| written.step).collect();
        assert_eq!(steps, [1, 2, 2, 3, 3]);
        buffer.forget(&config, 5);
        assert_eq!(buffer.0.len(), 2);
        let (mut taken, mut random) = (BTreeSet::new(), Random::new(1, "test", 0, "replay"));
        assert!(buffer.draw(&mut taken, &mut random).is_some());
        assert!(buffer.draw(&mut taken, &mut random).is_some());
        assert!(buffer.draw(&mut taken, &mut random).is_none());
    }
}
