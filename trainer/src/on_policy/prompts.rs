//! Prompts that are not those of the data: each once an epoch, in an order that follows from seed and epoch.

use datasets::random::Random;

#[derive(Debug)]
pub struct Prompts {
    /// Tokens of each, none empty.
    ids: Vec<Vec<u32>>,
    seed: u64,
    /// The epoch whose order is at hand.
    epoch: u64,
    order: Vec<u32>,
}

impl Prompts {
    /// There is one at least.
    pub fn new(ids: Vec<Vec<u32>>, seed: u64) -> Self {
        let mut prompts = Self {
            ids,
            seed,
            epoch: 0,
            order: Vec::new(),
        };
        prompts.order = prompts.order_of(0);
        prompts
    }

    /// Prompt `number`, counted from 0 over all epochs.
    pub fn get(&mut self, number: u64) -> &[u32] {
        let (epoch, at) = (
            number / self.ids.len() as u64,
            number % self.ids.len() as u64,
        );
        if epoch != self.epoch {
            (self.epoch, self.order) = (epoch, self.order_of(epoch));
        }
        &self.ids[self.order[at as usize] as usize]
    }

    fn order_of(&self, epoch: u64) -> Vec<u32> {
        Random::new(self.seed, "on-policy", epoch, "order of prompts").permutation(self.ids.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comes_once_an_epoch_whatever_was_asked_before() {
        let ids: Vec<Vec<u32>> = (0..7).map(|i| vec![i]).collect();
        let mut prompts = Prompts::new(ids.clone(), 3);
        let all: Vec<u32> = (0..21).map(|number| prompts.get(number)[0]).collect();
        for epoch in all.chunks(7) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6]);
        }
        assert_ne!(all[..7], all[7..14]);
        assert_eq!(Prompts::new(ids, 3).get(16)[0], all[16]);
    }
}
