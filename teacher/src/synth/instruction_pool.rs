//! The pool that Self-Instruct draws its examples from, and what may enter it.

use datasets::random::Random;
use datasets::rouge::{RougeText, is_above};
use rayon::prelude::*;

use super::in_order::Dropped;
use super::instruction::phrase_in;
use super::self_instruct::SelfInstruct;

pub struct Pool {
    /// The seeds, then what was made, in its order.
    texts: Vec<String>,
    compared: Vec<RougeText>,
    seeds: usize,
}

impl Pool {
    pub fn new(seeds: impl IntoIterator<Item = String>) -> Self {
        let texts: Vec<String> = seeds.into_iter().collect();
        Self {
            compared: texts.iter().map(|text| RougeText::new(text)).collect(),
            seeds: texts.len(),
            texts,
        }
    }

    pub fn text(&self, number: usize) -> &str {
        &self.texts[number]
    }

    /// How many were made.
    pub fn made(&self) -> usize {
        self.texts.len() - self.seeds
    }

    /// The numbers of the examples that a request shows: `generated_shots` of those that were made, as far as there are any,
    /// and seeds, in random order.
    pub fn examples(&self, config: &SelfInstruct, random: &mut Random) -> Vec<usize> {
        let made = config.generated_shots.min(self.made());
        let drawn = random.permutation(self.made()).into_iter().take(made);
        let mut examples: Vec<usize> = drawn.map(|at| self.seeds + at as usize).collect();
        let rest = random.permutation(self.seeds).into_iter();
        examples.extend(rest.take(config.shots - made).map(|at| at as usize));
        random.shuffle(&mut examples);
        examples
    }

    /// Takes a new instruction in.
    ///
    /// # Errors
    /// The reason for which it is left out.
    pub fn add(&mut self, text: &str, config: &SelfInstruct) -> Result<(), (Dropped, String)> {
        let compared = RougeText::new(text);
        let words = compared.words();
        if words < config.min_words {
            return Err((Dropped::TooShort, text.to_owned()));
        }
        if words > config.max_words {
            return Err((Dropped::TooLong, format!("{words} words")));
        }
        if let Some(phrase) = phrase_in(text, &config.forbid) {
            return Err((Dropped::Forbidden, format!("`{phrase}`: {text}")));
        }
        let limit = config.max_rouge_l;
        let similar =
            (self.compared.par_iter()).position_first(|own| is_above(own, &compared, limit));
        if let Some(at) = similar {
            return Err((Dropped::Similar, format!("{text} ~ {}", self.texts[at])));
        }
        self.texts.push(text.to_owned());
        self.compared.push(compared);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::self_instruct::tests::config;
    use super::*;

    #[test]
    fn what_enters_is_new_and_of_a_fair_length() {
        let config = config("");
        let mut pool = Pool::new(["Write a short poem about the sea.".to_owned()]);
        let mut why = |text: &str| pool.add(text, &config).err().map(|(why, _)| why);
        assert_eq!(why("Sing a song"), Some(Dropped::TooShort));
        assert_eq!(why(&"word ".repeat(151)), Some(Dropped::TooLong));
        assert_eq!(
            why("Describe the Picture that you see"),
            Some(Dropped::Forbidden)
        );
        assert_eq!(
            why("Write a short poem about a sea!"),
            Some(Dropped::Similar)
        );
        assert_eq!(why("Explain why the sky is blue"), None);
        // It belongs to the pool now.
        assert_eq!(
            why("Explain why the sky is blue today"),
            Some(Dropped::Similar)
        );
        assert_eq!(
            (pool.made(), pool.text(1)),
            (1, "Explain why the sky is blue")
        );
    }

    #[test]
    fn examples_are_of_both_kinds_and_follow_from_the_seed() {
        let config = config("");
        let draw = |pool: &Pool, step| {
            pool.examples(
                &config,
                &mut Random::new(7, "self_instruct", step, "examples"),
            )
        };
        let mut pool = Pool::new((0..10).map(|n| format!("seed {n} {}", "x ".repeat(n * 9))));
        assert_eq!(draw(&pool, 0).len(), 8);
        for n in 0..5 {
            let text = format!("made {n} {}", format!("y{n} ").repeat(5));
            pool.add(&text, &config).unwrap();
        }
        let mut orders = std::collections::BTreeSet::new();
        for step in 0..20 {
            let mut drawn = draw(&pool, step);
            assert_eq!(drawn, draw(&pool, step));
            orders.insert(drawn.clone());
            assert_eq!(drawn.iter().filter(|at| **at >= 10).count(), 2);
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn.len(), 8);
        }
        assert_eq!(orders.len(), 20);
        assert_eq!(draw(&Pool::new(["one".to_owned()]), 0), [0]);
    }
}
