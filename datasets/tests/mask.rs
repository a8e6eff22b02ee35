//! Masks of conversations and completions, down to each border.

use std::path::Path;

use datasets::chat_template::ChatTemplate;
use datasets::error::DataError;
use datasets::gguf_tokenizer::GgufVocabulary;
use datasets::mask::{SampleEncoder, TokenizedSample};
use datasets::sample::{Message, Sample};
use datasets::tokenizer::Tokenizer;

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn tiny() -> Tokenizer {
    Tokenizer::from_directory(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny"))
        .unwrap()
}

fn conversation(turns: &[(&str, &str)]) -> Sample {
    Sample::Conversation(
        turns
            .iter()
            .map(|(role, content)| Message::new(*role, *content))
            .collect(),
    )
}

/// The text with what is learned in brackets.
fn shown(tokenizer: &Tokenizer, sample: &TokenizedSample) -> String {
    let mut text = String::new();
    let mut learned = false;
    for (id, supervised) in sample.ids.iter().zip(&sample.supervised) {
        if *supervised != learned {
            text.push(if *supervised { '[' } else { ']' });
            learned = *supervised;
        }
        text.push_str(&String::from_utf8_lossy(
            &tokenizer.token_bytes(*id).unwrap(),
        ));
    }
    if learned {
        text.push(']');
    }
    text
}

fn with(template: &str, turns: &[(&str, &str)]) -> Result<String, DataError> {
    let tokenizer = tiny();
    let special = vec![
        ("eos_token", "<|im_end|>".to_string()),
        ("bos_token", "<|endoftext|>".to_string()),
    ];
    let template = ChatTemplate::new(template, special)?;
    let encoder = SampleEncoder::with_template(&tokenizer, Some(template));
    Ok(shown(&tokenizer, &encoder.encode(&conversation(turns))?))
}

const TURNS: [(&str, &str); 5] = [
    ("system", "be"),
    ("user", "a b"),
    ("assistant", " c\n"),
    ("user", "d"),
    ("assistant", "e 12"),
];

#[test]
fn assistant_turns_and_their_ends_are_learned_and_nothing_else() {
    assert_eq!(
        with(CHATML, &TURNS).unwrap(),
        "<|im_start|>system\nbe<|im_end|>\n<|im_start|>user\na b<|im_end|>\n<|im_start|>assistant\n[ c\n<|im_end|>]\n\
         <|im_start|>user\nd<|im_end|>\n<|im_start|>assistant\n[e 12<|im_end|>]\n"
    );
}

#[test]
fn turns_after_the_last_answer_and_tool_results_are_only_read() {
    let turns = [
        ("user", "a"),
        ("assistant", "b"),
        ("tool", "c"),
        ("assistant", "d"),
        ("user", "e"),
    ];
    assert_eq!(
        with(CHATML, &turns).unwrap(),
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n<|im_start|>tool\nc<|im_end|>\n\
         <|im_start|>assistant\n[d<|im_end|>]\n<|im_start|>user\ne<|im_end|>\n"
    );
}

#[test]
fn ids_are_those_of_the_pieces_joined() {
    let tokenizer = tiny();
    let encoder = SampleEncoder::new(&tokenizer).unwrap();
    let sample = encoder
        .encode(&conversation(&[("user", "a"), ("assistant", "\n\nthe")]))
        .unwrap();
    let mut joined = tokenizer
        .encode(
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n",
            false,
        )
        .unwrap();
    joined.extend(tokenizer.encode("\n\nthe<|im_end|>\n", false).unwrap());
    assert_eq!(sample.ids, joined);
}

#[test]
fn a_prompt_with_a_template_becomes_a_user_turn() {
    let tokenizer = tiny();
    let encoder = SampleEncoder::new(&tokenizer).unwrap();
    let sample = Sample::Completion {
        prompt: "a".into(),
        completion: "b".into(),
    };
    assert_eq!(
        encoder.encode(&sample).unwrap(),
        encoder
            .encode(&conversation(&[("user", "a"), ("assistant", "b")]))
            .unwrap()
    );
}

#[test]
fn without_a_template_the_completion_and_the_end_are_learned() {
    let tokenizer = tiny();
    let encoder = SampleEncoder::with_template(&tokenizer, None);
    let completion = Sample::Completion {
        prompt: "the cap".into(),
        completion: "ital".into(),
    };
    let encoded = encoder.encode(&completion).unwrap();
    assert_eq!(
        shown(&tokenizer, &encoded),
        "<|endoftext|>the cap[ital<|im_end|>]"
    );
    assert!(!encoded.splittable);
    let text = encoder.encode(&Sample::Text("the capital".into())).unwrap();
    assert_eq!(
        shown(&tokenizer, &text),
        "<|endoftext|>[the capital<|im_end|>]"
    );
    assert!(text.splittable);
    // The first token has nothing before it that could predict it, also when the prompt is empty.
    let all = json_tokenizer_without_bos();
    let encoder = SampleEncoder::with_template(&all, None);
    let sample = Sample::Completion {
        prompt: String::new(),
        completion: "xy".into(),
    };
    let encoded = encoder.encode(&sample).unwrap();
    assert!(!encoded.supervised[0]);
    assert_eq!(encoded.supervised_count(), encoded.ids.len() - 1);
}

fn json_tokenizer_without_bos() -> Tokenizer {
    Tokenizer::from_gguf(GgufVocabulary {
        model: "gpt2".into(),
        tokens: ["x", "y", "z", "xy", "</s>"].map(String::from).to_vec(),
        merges: vec!["x y".into()],
        token_types: vec![1, 1, 1, 1, 3],
        eos: Some(4),
        ..GgufVocabulary::default()
    })
    .unwrap()
}

#[test]
fn a_conversation_without_a_template_is_an_error() {
    let tokenizer = tiny();
    let encoder = SampleEncoder::with_template(&tokenizer, None);
    let error = encoder.encode(&conversation(&TURNS)).unwrap_err();
    assert!(matches!(error, DataError::NoTemplate));
}

#[test]
fn a_template_that_rewrites_earlier_turns_is_an_error_that_names_the_turn() {
    // Shows only the last answer in full, as reasoning templates do.
    let forgetful = "{% for m in messages %}{{ m.role }}:{{ m.content if loop.last or m.role != 'assistant' else '…' }}\
                     <|im_end|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    let error = with(forgetful, &TURNS).unwrap_err();
    assert!(
        matches!(&error, DataError::TemplatePrefix { turn: 5, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("turn 5 (assistant)"), "{error}");
    // The last user turn changes the text before it.
    let counting = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}";
    assert!(matches!(
        with(counting, &[("user", "a"), ("assistant", "b")]).unwrap_err(),
        DataError::TemplatePrefix { turn: 2, .. }
    ));
    // A generation prompt that the turn itself does not begin with.
    let other = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<model>{% endif %}";
    assert!(with(other, &TURNS).is_err());
}

#[test]
fn an_end_of_sequence_outside_of_the_turn_is_an_error() {
    // The end is written before the next turn, not after the answer.
    let late = "{% for m in messages %}{{ '' if loop.first else eos_token }}{{ m.role }}:{{ m.content }}{% endfor %}\
                {% if add_generation_prompt %}{{ eos_token }}assistant:{% endif %}";
    let error = with(late, &TURNS).unwrap_err();
    assert!(
        matches!(&error, DataError::MaskedEndOfSequence { turn: 3, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("<|im_end|>"), "{error}");
}

#[test]
fn a_template_without_a_generation_prompt_works_too() {
    let mistral = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}\
                   {% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}";
    assert_eq!(
        with(
            mistral,
            &[
                ("user", "a"),
                ("assistant", "b"),
                ("user", "c"),
                ("assistant", "d")
            ]
        )
        .unwrap(),
        "<|endoftext|>[INST] a[/INST][ b<|im_end|>][INST] c[/INST][ d<|im_end|>]"
    );
}

#[test]
fn sentence_piece_turns_join_without_spaces_that_nobody_wrote() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vocabularies.json");
    let all: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let vocabulary: GgufVocabulary =
        serde_json::from_value(all["sentence_piece"]["vocabulary"].clone()).unwrap();
    let tokenizer = Tokenizer::from_gguf(vocabulary).unwrap();
    let template = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}\
                    {% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}";
    let special = vec![
        ("bos_token", "<s>".to_string()),
        ("eos_token", "</s>".to_string()),
    ];
    let template = ChatTemplate::new(template, special).unwrap();
    let turns = [
        ("user", "the dog"),
        ("assistant", "the cap"),
        ("user", "x"),
        ("assistant", "y"),
    ];
    let whole = "<s>[INST] the dog [/INST] the cap</s>[INST] x [/INST] y</s>";
    let encoder = SampleEncoder::with_template(&tokenizer, Some(template));
    let encoded = encoder.encode(&conversation(&turns)).unwrap();
    assert_eq!(encoded.ids, tokenizer.encode(whole, false).unwrap());
    assert_eq!(
        shown(&tokenizer, &encoded),
        "<s> [INST] the dog [/INST][ the cap</s>] [INST] x [/INST][ y</s>]"
    );
}

#[test]
fn a_question_is_what_stands_before_the_last_answer() {
    let tokenizer = tiny();
    let template = ChatTemplate::new(CHATML, Vec::new()).unwrap();
    let encoder = SampleEncoder::with_template(&tokenizer, Some(template));
    let question = |sample: &Sample| {
        let ids = encoder.question(sample).unwrap();
        tokenizer.decode(&ids, false).unwrap()
    };
    let user = "<|im_start|>user\na<|im_end|>\n";
    let next = "<|im_start|>assistant\n";
    assert_eq!(question(&Sample::Text("a".into())), format!("{user}{next}"));
    let turns = [
        ("user", "a"),
        ("assistant", "b"),
        ("user", "a"),
        ("assistant", "c"),
    ];
    let expected = format!("{user}{next}b<|im_end|>\n{user}{next}");
    assert_eq!(question(&conversation(&turns)), expected);
    // As `generate` reads a conversation that goes on behind its last answer.
    let first = question(&conversation(&turns[..1]));
    assert_eq!(question(&conversation(&turns[..3])), first);
    let plain = SampleEncoder::with_template(&tokenizer, None);
    assert!(plain.question(&conversation(&turns)).is_err());
    let completion = Sample::Completion {
        prompt: "the cap".into(),
        completion: "ital".into(),
    };
    let ids = plain.question(&completion).unwrap();
    assert_eq!(
        shown(
            &tokenizer,
            &TokenizedSample {
                supervised: vec![false; ids.len()],
                ids,
                splittable: false
            }
        ),
        "<|endoftext|>the cap"
    );
}
