//! One sequence with the keys and values of its tokens, which serve whatever begins with the same tokens.

use crate::decode::Continuation;
use crate::decoder::Decoder;

/// New tokens that a cache has room for at first.
const ROOM: usize = 256;

/// What a decoder has read last.
pub struct Sequence<'a> {
    decoder: &'a Decoder,
    continuation: Option<Continuation<'a>>,
    /// Tokens whose keys and values are cached.
    ids: Vec<u32>,
}

impl<'a> Sequence<'a> {
    pub fn new(decoder: &'a Decoder) -> Self {
        Self {
            decoder,
            continuation: None,
            ids: Vec::new(),
        }
    }

    pub fn decoder(&self) -> &'a Decoder {
        self.decoder
    }

    /// Reads `ids`: only what lies behind their longest common beginning with the ids that were read before is
    /// computed, and at least the last `wanted` tokens. Returns how many tokens were there already.
    ///
    /// # Panics
    /// When `wanted` is 0 or more than there are ids.
    pub fn read(&mut self, ids: &[u32], wanted: usize) -> usize {
        assert!(wanted > 0, "no logits are wanted");
        let first_wanted = ids.len() - wanted;
        let pairs = self.ids.iter().zip(&ids[..first_wanted]);
        let reused = pairs.take_while(|(old, new)| old == new).count();
        match &mut self.continuation {
            Some(continuation) => {
                continuation.truncate(reused);
                continuation.extend(&ids[reused..], wanted);
            }
            none => {
                let beginning = vec![ids[..=first_wanted].to_vec()];
                let continuation = none.insert(Continuation::new(self.decoder, &beginning, ROOM));
                if wanted > 1 {
                    continuation.truncate(first_wanted);
                    continuation.extend(&ids[first_wanted..], wanted);
                }
            }
        }
        self.ids = ids.to_vec();
        reused
    }

    /// Logits of what comes behind each of the last `wanted` tokens.
    pub fn logits(&self) -> impl Iterator<Item = &[f32]> {
        self.continuation.iter().flat_map(Continuation::logits)
    }

    /// Begins anew: what is read next depends on nothing that was read before, to the bit.
    pub fn forget(&mut self) {
        *self = Self::new(self.decoder);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::batch::TokenBatch;
    use crate::build::Placement;
    use crate::load::load_decoder;
    use crate::ops::check::values;
    use crate::weights::checkpoint::Checkpoint;

    fn golden(name: &str) -> Decoder {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints");
        let checkpoint = Checkpoint::open(&path.join(name)).unwrap();
        load_decoder(&checkpoint, &Placement::cpu()).unwrap()
    }

    fn ids(length: u32, from: u32) -> Vec<u32> {
        (0..length).map(|i| (from + 7 * i) % 31 + 1).collect()
    }

    #[test]
    fn whatever_was_read_before_the_logits_are_those_of_the_whole_text() {
        let mut worst = 0.0_f64;
        for name in ["llama_tied", "qwen2", "qwen3", "mistral"] {
            let decoder = golden(name);
            let rounding = {
                let mut decoder = decoder.clone();
                let rounding = crate::linear::ActivationQuantization::per_token(
                    crate::linear::ActivationScheme::Absmax,
                );
                decoder.blocks[0].mlp.down_proj.activations = Some(rounding);
                decoder
            };
            // The second goes through tensors.
            for decoder in [decoder, rounding] {
                let mut sequence = Sequence::new(&decoder);
                let beginning = ids(9, 3);
                let continued = |more: Vec<u32>| [&beginning[..], &more].concat();
                let texts = [
                    (beginning.clone(), 1, 0),
                    (continued(ids(4, 1)), 5, 8),
                    (continued(ids(4, 1)), 1, 12),
                    (continued(ids(2, 5)), 2, 9),
                    (continued(ids(2, 5)), 3, 8),
                    (ids(5, 3), 1, 4),
                    // More than the fused step takes at a time.
                    (continued(ids(80, 2)), 3, 5),
                    (ids(7, 20), 7, 0),
                ];
                for (text, wanted, reused) in texts {
                    assert_eq!(sequence.read(&text, wanted), reused, "{name}");
                    let hidden = decoder.hidden(&TokenBatch::single(&text));
                    let whole = values(&decoder.logits(&hidden));
                    let expected = &whole[(text.len() - wanted) * decoder.config.vocab_size..];
                    let found: Vec<f32> = sequence.logits().flatten().copied().collect();
                    assert_eq!(found.len(), expected.len());
                    for (a, b) in found.iter().zip(expected) {
                        worst = worst.max((f64::from(*a) - b).abs());
                    }
                }
            }
        }
        println!("largest difference of a logit: {worst:e}");
        assert!(worst < 1e-4, "{worst:e}");
    }
}
