//! Which positions of two tokenizations of one sample see the same text.
//!
//! A position is aligned with one of the other when both have read exactly the same bytes of a turn that is learned and are
//! about to predict what comes next. Turns are those of the masks: each tokenizer's own template decides what stands around
//! them. White space at the start of a turn, which templates and tokenizers add or take away, is not compared; from the first
//! other byte that differs on, nothing of the turn is aligned.

use datasets::cache::CachedSample;
use datasets::tokenizer::Tokenizer;

/// The end of a turn in a text of bytes: no text in UTF-8 holds this one.
const END: u8 = 0xff;

/// The bytes of every token of a vocabulary.
#[derive(Debug)]
pub struct TokenTexts {
    bytes: Vec<u8>,
    /// Token i has `bytes[ends[i - 1]..ends[i]]`.
    ends: Vec<u32>,
    beginning: Option<u32>,
}

/// What is learned without a gap: a turn, or a whole text.
struct Turn {
    text: Vec<u8>,
    /// The targets, and where their bytes begin in the text.
    targets: Vec<(u32, u32)>,
}

impl TokenTexts {
    pub fn of(tokenizer: &Tokenizer) -> Self {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for id in 0..tokenizer.vocabulary_size() as u32 {
            match tokenizer.eos_ids().contains(&id) {
                true => bytes.push(END),
                false => bytes.extend(tokenizer.token_bytes(id).unwrap_or_default()),
            }
            ends.push(bytes.len() as u32);
        }
        Self {
            bytes,
            ends,
            beginning: tokenizer.bos_id(),
        }
    }

    fn token(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let start = match id {
            0 => 0,
            _ => self.ends.get(id - 1).copied().unwrap_or(0),
        };
        let end = self.ends.get(id).copied().unwrap_or(start);
        &self.bytes[start as usize..end as usize]
    }

    fn turns(&self, sample: CachedSample) -> Vec<Turn> {
        let mut turns: Vec<Turn> = Vec::new();
        let mut is_open = false;
        for (at, (&id, &flag)) in sample.ids.iter().zip(sample.supervised).enumerate() {
            // The first token of a text is no target, because nothing stands before it, but it is text.
            let is_read = at == 0 && sample.splittable && self.beginning != Some(id);
            if flag == 0 && !is_read {
                is_open = false;
                continue;
            }
            if !is_open {
                turns.push(Turn {
                    text: Vec::new(),
                    targets: Vec::new(),
                });
                is_open = true;
            }
            if let Some(turn) = turns.last_mut() {
                if flag != 0 {
                    turn.targets.push((at as u32, turn.text.len() as u32));
                }
                turn.text.extend(self.token(id));
            }
        }
        turns
    }
}

/// The aligned targets of a sample, `(the student's, the teacher's)`: places in their ids, rising.
pub fn align(
    student: (&TokenTexts, CachedSample),
    teacher: (&TokenTexts, CachedSample),
) -> Vec<(u32, u32)> {
    let (ours, theirs) = (student.0.turns(student.1), teacher.0.turns(teacher.1));
    // Without as many turns on both sides it is not known which belong together.
    if ours.len() != theirs.len() {
        return Vec::new();
    }
    let mut pairs = Vec::new();
    for (ours, theirs) in ours.iter().zip(&theirs) {
        align_turn(ours, theirs, &mut pairs);
    }
    pairs
}

fn align_turn(ours: &Turn, theirs: &Turn, pairs: &mut Vec<(u32, u32)>) {
    let blank = |text: &[u8]| {
        text.iter()
            .take_while(|byte| byte.is_ascii_whitespace())
            .count()
    };
    let (a, b) = (blank(&ours.text), blank(&theirs.text));
    let (a, b) = match ours.text[..a] == theirs.text[..b] {
        true => (0, 0),
        false => (a, b),
    };
    let same = (ours.text[a..].iter().zip(&theirs.text[b..]))
        .take_while(|(x, y)| x == y)
        .count();
    let mut others = theirs.targets.iter().peekable();
    for &(target, start) in &ours.targets {
        let Some(offset) = (start as usize).checked_sub(a).filter(|at| *at <= same) else {
            continue;
        };
        while others
            .next_if(|(_, other)| (*other as usize) < offset + b)
            .is_some()
        {}
        if let Some((partner, _)) = others.next_if(|(_, other)| *other as usize == offset + b) {
            pairs.push((target, *partner));
        }
    }
}

#[cfg(test)]
mod tests {
    use datasets::chat_template::ChatTemplate;
    use datasets::mask::{SampleEncoder, TokenizedSample};
    use datasets::sample::{Message, Sample};

    use super::*;
    use crate::test_tokenizer::byte_tokenizer;

    const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    const INST: &str = "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content | trim }}</s>{% endif %}{% endfor %}";

    fn bytes() -> Tokenizer {
        byte_tokenizer(&[], &["<|im_start|>", "<|im_end|>"], "<|im_end|>")
    }

    /// Pairs of bytes, among them parts of characters and of line ends.
    fn merging() -> Tokenizer {
        let merges: [&[u8]; 10] = [
            b"he",
            b"ll",
            b" w",
            b"12",
            b"123",
            b"\r\n",
            b"  ",
            b"\xec\x95",
            b"\x9f\x98",
            b"\xf0\x9f\x98",
        ];
        byte_tokenizer(&merges, &["<s>", "</s>"], "</s>")
    }

    fn encode(tokenizer: &Tokenizer, template: &str, sample: &Sample) -> TokenizedSample {
        let template = ChatTemplate::new(template, Vec::new()).unwrap();
        let encoder = SampleEncoder::with_template(tokenizer, Some(template));
        encoder.encode(sample).unwrap()
    }

    fn pairs(
        (a, ours): (&Tokenizer, &TokenizedSample),
        (b, theirs): (&Tokenizer, &TokenizedSample),
    ) -> Vec<(u32, u32)> {
        let masks = [ours, theirs].map(|sample| -> Vec<u8> {
            sample
                .supervised
                .iter()
                .map(|flag| u8::from(*flag))
                .collect()
        });
        fn cached<'s>(sample: &'s TokenizedSample, mask: &'s [u8]) -> CachedSample<'s> {
            CachedSample {
                ids: &sample.ids,
                supervised: mask,
                splittable: sample.splittable,
            }
        }
        align(
            (&TokenTexts::of(a), cached(ours, &masks[0])),
            (&TokenTexts::of(b), cached(theirs, &masks[1])),
        )
    }

    /// What was read of the turn that target `at` belongs to.
    fn read(tokenizer: &Tokenizer, sample: &TokenizedSample, at: u32) -> Vec<u8> {
        let at = at as usize;
        let start = (0..at).rev().find(|before| !sample.supervised[*before]);
        let start = match (start, sample.splittable) {
            (Some(before), false) => before + 1,
            _ => 0,
        };
        (sample.ids[start..at].iter())
            .filter(|id| tokenizer.token(**id).as_deref() != Some("<s>"))
            .flat_map(|id| tokenizer.token_bytes(*id).unwrap())
            .collect()
    }

    const TRICKY: [&str; 8] = [
        "hello world",
        " hello  world",
        "1234 and 12.5",
        "안녕 😀😃 naïve",
        "a\r\nb\n\n  c",
        "<|endoftext|> [INST] {{ x }} </div>",
        "x",
        "tail with spaces  ",
    ];

    #[test]
    fn aligned_positions_have_read_the_same() {
        let (a, b) = (bytes(), merging());
        for text in TRICKY {
            let sample = Sample::Conversation(vec![
                Message::new("user", "hi 123"),
                Message::new("assistant", text),
                Message::new("user", "so?"),
                Message::new("assistant", "well 12\r\n안"),
            ]);
            let ours = encode(&a, CHATML, &sample);
            let theirs = encode(&b, INST, &sample);
            let found = pairs((&a, &ours), (&b, &theirs));
            for &(x, y) in &found {
                let (x, y) = (read(&a, &ours, x), read(&b, &theirs, y));
                assert_eq!(x.trim_ascii_start(), y.trim_ascii_start(), "{text:?}");
            }
            // A byte is a token for the one, so each of the other's tokens begins where one of its does, but for the space
            // that a template puts before a turn.
            let put = 1 + usize::from(!text.starts_with(' '));
            let expected = theirs.supervised_count() - put;
            assert_eq!(found.len(), expected, "{text:?}");
            // Where a template takes white space from the end, one has more to say.
            if text.trim_end() == text {
                let ends = (ours.ids.len() as u32 - 2, theirs.ids.len() as u32 - 1);
                assert_eq!(found.last(), Some(&ends), "{text:?}");
            }
            let itself = pairs((&a, &ours), (&a, &ours));
            assert_eq!(itself.len(), ours.supervised_count());
            assert!(itself.iter().all(|(x, y)| x == y));
        }
    }

    #[test]
    fn texts_are_aligned_from_their_first_token_on() {
        let (a, b) = (bytes(), merging());
        for text in TRICKY {
            let sample = Sample::Text(text.to_string());
            let ours = encode(&a, CHATML, &sample);
            let theirs = encode(&b, INST, &sample);
            let found = pairs((&a, &ours), (&b, &theirs));
            assert_eq!(found.len(), theirs.supervised_count(), "{text:?}");
            for &(x, y) in &found {
                assert_eq!(read(&a, &ours, x), read(&b, &theirs, y), "{text:?}");
            }
        }
    }

    #[test]
    fn white_space_at_the_start_is_compared_only_where_all_of_it_is_equal() {
        let (a, b) = (bytes(), merging());
        let sample = Sample::Conversation(vec![
            Message::new("user", "q"),
            Message::new("assistant", "\n\nhello world"),
        ]);
        let trimmed = "{{ m.content | replace('\n\n', '\n') }}";
        let shorter = INST.replace(" {{ m.content | trim }}", trimmed);
        let (ours, theirs) = (encode(&a, CHATML, &sample), encode(&b, &shorter, &sample));
        let found = pairs((&a, &ours), (&b, &theirs));
        let ends = (ours.ids.len() as u32 - 2, theirs.ids.len() as u32 - 1);
        assert_eq!(found.last(), Some(&ends));
        assert_eq!(found.len(), theirs.supervised_count() - 1);
    }

    #[test]
    fn what_differs_ends_a_turn_and_other_turns_are_not_guessed() {
        let (a, b) = (bytes(), merging());
        let turn = |text: &str| {
            Sample::Conversation(vec![
                Message::new("user", "q"),
                Message::new("assistant", text),
            ])
        };
        let upper = INST.replace("m.content | trim", "m.content | replace('world', 'World')");
        let (ours, theirs) = (
            encode(&a, CHATML, &turn("hello world")),
            encode(&b, &upper, &turn("hello world")),
        );
        let found = pairs((&a, &ours), (&b, &theirs));
        // "he", "ll", "o", " " and what follows it, which no more is read.
        let last = found.last().map(|pair| read(&a, &ours, pair.0));
        assert_eq!(last.as_deref(), Some(&b"hello "[..]));
        let silent = INST.replace("{{ m.content | trim }}", "ok");
        let theirs = encode(&b, &silent, &turn("hello world"));
        // Both begin, and nothing else is common.
        assert!(pairs((&a, &ours), (&b, &theirs)).len() <= 1);
        let two = Sample::Conversation(vec![
            Message::new("user", "q"),
            Message::new("assistant", "hello world"),
            Message::new("user", "q"),
            Message::new("assistant", "hello world"),
        ]);
        assert!(pairs((&a, &ours), (&b, &encode(&b, INST, &two))).is_empty());
    }
}
