//! Which prompts are written together, and what of them is read once.

use std::cmp::Reverse;

use model::decoder::Decoder;
use model::generate::engine::ROWS_AT_A_TIME;
use teacher::local::Together;
use teacher::{GenerationRequest, LocalTeacher, Prompt};

use super::{Asked, SubjectError};

/// Most bytes of keys and values that are held for the texts under way.
const CACHED_BYTES: usize = 2 << 30;
/// A shorter common start is not worth a forward pass of its own.
const LEAST_SHARED: usize = 16;
/// Batches' worth of prompts between two looks at whether to stop.
const BATCHES: usize = 2;

/// Which prompts are taken together. It follows from the prompts and the model alone, not from what is known already.
pub(super) struct Batches {
    /// The tokens of each prompt, of a model here.
    pub ids: Vec<Vec<u32>>,
    pub order: Vec<usize>,
    pub size: usize,
    pub together: Together,
}

impl Batches {
    pub fn here(
        teacher: &LocalTeacher,
        prompts: &[Asked],
        request: &GenerationRequest,
    ) -> Result<Self, SubjectError> {
        let ids = prompts.iter().map(|asked| {
            let ids = teacher.prompt_ids(None, &Prompt::Text(asked.text.to_owned()));
            ids.map_err(|source| SubjectError::Prompt {
                name: asked.name.clone(),
                source: Box::new(source),
            })
        });
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by_key(|&at| Reverse(ids[at].len()));
        let longest = order.first().map_or(0, |&at| ids[at].len());
        let rows = rows_at_a_time(teacher.decoder(), longest + request.max_new_tokens);
        let shared = shared_length(&ids);
        Ok(Self {
            ids,
            order,
            size: BATCHES * rows,
            together: Together { rows, shared },
        })
    }

    pub fn there(prompts: usize, concurrency: usize) -> Self {
        Self {
            ids: Vec::new(),
            order: (0..prompts).collect(),
            size: BATCHES * concurrency.max(1),
            together: Together { rows: 1, shared: 0 },
        }
    }
}

/// As many sequences of this length as the cache has room for.
fn rows_at_a_time(decoder: &Decoder, length: usize) -> usize {
    let config = &decoder.config;
    let width = config.num_key_value_heads * config.head_dim;
    let position_bytes = 2 * decoder.blocks.len() * width * size_of::<f32>();
    let length = length.min(config.max_position_embeddings);
    (CACHED_BYTES / (position_bytes * length).max(1)).clamp(1, ROWS_AT_A_TIME)
}

/// How many first tokens all prompts share, short of the last of each; 0 where that is not worth the while.
fn shared_length(prompts: &[Vec<u32>]) -> usize {
    let [first, others @ ..] = prompts else {
        return 0;
    };
    let shared = others.iter().fold(first.len() - 1, |shared, other| {
        let most = shared.min(other.len() - 1);
        (first.iter().zip(other).take(most))
            .take_while(|(a, b)| a == b)
            .count()
    });
    match shared >= LEAST_SHARED && !others.is_empty() {
        true => shared,
        false => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_start_is_shared_where_it_is_long_and_each_prompt_goes_on() {
        let long: Vec<u32> = (0..20).collect();
        let other = [&long[..18], &[99, 98]].concat();
        assert_eq!(shared_length(&[long.clone(), other]), 18);
        assert_eq!(shared_length(&[long.clone(), long.clone()]), 19);
        assert_eq!(shared_length(&[long.clone(), long[..16].to_vec()]), 0);
        assert_eq!(shared_length(&[long]), 0);
        assert_eq!(shared_length(&[]), 0);
    }
}
