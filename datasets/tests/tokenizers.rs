//! Token ids against Hugging Face's pipelines and SentencePiece; `golden/make_tokenizer.py` made the numbers.

use std::path::{Path, PathBuf};

use datasets::gguf_tokenizer::GgufVocabulary;
use datasets::tokenizer::Tokenizer;
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The byte-level vocabulary under the pre-tokenizer of one case.
fn byte_level(all: &Value, case: &Value) -> GgufVocabulary {
    let mut merged = case["vocabulary"].clone();
    for (key, value) in all["byte_level"].as_object().unwrap() {
        merged[key] = value.clone();
    }
    serde_json::from_value(merged).unwrap()
}

fn compare(tokenizer: &Tokenizer, cases: &Value, label: &str) {
    for row in cases.as_array().unwrap() {
        let text = row[0].as_str().unwrap();
        assert_eq!(
            tokenizer.encode(text, true).unwrap(),
            ids(&row[1]),
            "{label}: {text:?}"
        );
    }
}

#[test]
fn every_pre_tokenizer_gives_the_ids_of_hugging_face() {
    let all = json("vocabularies.json");
    for case in all["cases"].as_array().unwrap() {
        let label = case["vocabulary"]["pre"].as_str().unwrap().to_string();
        let tokenizer = Tokenizer::from_gguf(byte_level(&all, case)).unwrap();
        compare(&tokenizer, &case["ids"], &label);
        assert_eq!(tokenizer.eos_ids(), [2]);
    }
}

#[test]
fn sentence_piece_gives_its_own_ids() {
    let all = json("vocabularies.json");
    let vocabulary: GgufVocabulary =
        serde_json::from_value(all["sentence_piece"]["vocabulary"].clone()).unwrap();
    let tokenizer = Tokenizer::from_gguf(vocabulary).unwrap();
    compare(&tokenizer, &all["sentence_piece"]["ids"], "sentence_piece");
}

#[test]
fn sentence_piece_puts_a_space_before_a_text_but_not_before_its_continuation() {
    let all = json("vocabularies.json");
    let vocabulary: GgufVocabulary =
        serde_json::from_value(all["sentence_piece"]["vocabulary"].clone()).unwrap();
    let bos = vocabulary.bos;
    let tokenizer = Tokenizer::from_gguf(vocabulary).unwrap();
    let first = tokenizer.encode_after(None, "the").unwrap();
    assert_eq!(first, tokenizer.encode("the", false).unwrap());
    assert_eq!(first, tokenizer.encode_after(bos, "the").unwrap());
    let after = tokenizer
        .encode_after(first.last().copied(), "the")
        .unwrap();
    let bytes = |ids: &[u32]| {
        ids.iter()
            .flat_map(|id| tokenizer.token_bytes(*id).unwrap())
            .collect::<Vec<u8>>()
    };
    assert_eq!(bytes(&first), b" the");
    assert_eq!(bytes(&after), b"the");
}

#[test]
fn a_directory_gives_what_transformers_gives_and_survives_saving() {
    let tokenizer = Tokenizer::from_directory(&golden("tiny")).unwrap();
    assert_eq!(tokenizer.eos_ids(), [2, 0]);
    assert_eq!((tokenizer.bos_id(), tokenizer.pad_id()), (Some(0), Some(2)));
    assert!(tokenizer.chat_template().unwrap().contains("<|im_start|>"));
    let saved = tempfile::tempdir().unwrap();
    tokenizer.save(saved.path()).unwrap();
    let again = Tokenizer::from_directory(saved.path()).unwrap();
    assert_eq!(again.chat_template(), tokenizer.chat_template());
    for row in json("tiny.json").as_array().unwrap() {
        let text = row[0].as_str().unwrap();
        for tokenizer in [&tokenizer, &again] {
            assert_eq!(
                tokenizer.encode(text, true).unwrap(),
                ids(&row[1]),
                "{text:?}"
            );
            assert_eq!(
                tokenizer.encode(text, false).unwrap(),
                ids(&row[2]),
                "{text:?}"
            );
        }
    }
    // The list of end tokens is the model's, not the tokenizer's.
    let mut again = again;
    again.add_eos_ids(&[0, 2, 99_999]);
    assert_eq!(again.digest(), tokenizer.digest());
}

#[test]
fn token_bytes_join_to_the_text() {
    let all = json("vocabularies.json");
    let case = &all["cases"][1];
    let mut vocabulary = byte_level(&all, case);
    let padding = vocabulary.tokens.len();
    vocabulary.tokens.push(format!("[PAD{padding}]"));
    vocabulary.token_types.push(5);
    let tokenizer = Tokenizer::from_gguf(vocabulary).unwrap();
    assert_eq!(tokenizer.vocabulary_size(), padding);
    assert_eq!(tokenizer.token_bytes(padding as u32), None);
    for row in case["ids"].as_array().unwrap() {
        let bytes: Vec<u8> = ids(&row[1])
            .iter()
            .flat_map(|id| tokenizer.token_bytes(*id).unwrap())
            .collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), row[0].as_str().unwrap());
        assert_eq!(
            tokenizer.decode(&ids(&row[1]), false).unwrap(),
            row[0].as_str().unwrap()
        );
    }
}

#[test]
fn long_texts_are_encoded_in_parallel_to_the_same_ids() {
    let all = json("vocabularies.json");
    let mut text = String::new();
    for (i, row) in all["cases"][0]["ids"]
        .as_array()
        .unwrap()
        .iter()
        .cycle()
        .take(20_000)
        .enumerate()
    {
        text.push_str(row[0].as_str().unwrap());
        text.push_str(["\n", "\n\n", " \n", "\r\n", "x\ny", ".\n!"][i % 6]);
    }
    assert!(text.len() > 500_000);
    for case in all["cases"].as_array().unwrap() {
        let tokenizer = Tokenizer::from_gguf(byte_level(&all, case)).unwrap();
        // Plain pieces below the limit, joined at the same kind of border, are the reference.
        let whole = tokenizer.encode(&text, false).unwrap();
        let reference = tokenizers::Tokenizer::from_bytes(save(&tokenizer)).unwrap();
        assert_eq!(
            whole,
            reference.encode(text.as_str(), false).unwrap().get_ids()
        );
    }
}

fn save(tokenizer: &Tokenizer) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    tokenizer.save(directory.path()).unwrap();
    std::fs::read(directory.path().join("tokenizer.json")).unwrap()
}

/// Every case of the golden file with the label that GGUF gives its pre-tokenizer.
fn all_vocabularies() -> Vec<(GgufVocabulary, Value)> {
    let all = json("vocabularies.json");
    let cases = all["cases"].as_array().unwrap().iter();
    let mut found: Vec<_> = cases
        .map(|case| (byte_level(&all, case), case["ids"].clone()))
        .collect();
    let piece = &all["sentence_piece"];
    let vocabulary = serde_json::from_value(piece["vocabulary"].clone()).unwrap();
    found.push((vocabulary, piece["ids"].clone()));
    found
}

#[test]
fn a_vocabulary_survives_the_way_through_a_tokenizer() {
    for (vocabulary, cases) in all_vocabularies() {
        let label = format!("{} {:?}", vocabulary.model, vocabulary.pre);
        let rows = vocabulary.tokens.len() + 3;
        let (first, last) = (vocabulary.bos, vocabulary.eos);
        let tokenizer = Tokenizer::from_gguf(vocabulary.clone()).unwrap();
        // By way of the files that a training stage leaves.
        let saved = tempfile::tempdir().unwrap();
        tokenizer.save(saved.path()).unwrap();
        let tokenizer = Tokenizer::from_directory(saved.path()).unwrap();
        let mut back = tokenizer.to_gguf(rows).unwrap();
        assert_eq!(back.tokens.len(), rows, "{label}");
        assert_eq!(back.tokens[..rows - 3], vocabulary.tokens, "{label}");
        assert_eq!(back.token_types[rows - 3..], [5; 3], "{label}");
        assert_eq!(back.merges, vocabulary.merges, "{label}");
        compare(&Tokenizer::from_gguf(back.clone()).unwrap(), &cases, &label);
        let again = Tokenizer::from_gguf(back.clone()).unwrap();
        assert_eq!(again.to_gguf(rows).unwrap(), back, "{label}");

        (back.add_bos, back.add_eos) = (Some(true), Some(true));
        let closed = Tokenizer::from_gguf(back.clone()).unwrap();
        let ids = closed.encode("", true).unwrap();
        assert_eq!(ids, [first.unwrap(), last.unwrap()], "{label}");
        assert_eq!(closed.to_gguf(rows).unwrap(), back, "{label}");
    }
}

#[test]
fn what_gguf_has_no_name_for_is_refused() {
    let (vocabulary, _) = all_vocabularies().swap_remove(0);
    let tokenizer = Tokenizer::from_gguf(vocabulary).unwrap();
    let mut json: Value = serde_json::from_slice(&save(&tokenizer)).unwrap();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("tokenizer.json");
    let mut refused = |part: &str, value: Value| {
        let was = std::mem::replace(&mut json[part], value);
        std::fs::write(&path, json.to_string()).unwrap();
        json[part] = was;
        let tokenizer = Tokenizer::from_file(&path).unwrap();
        let error = tokenizer.to_gguf(4000).unwrap_err().to_string();
        assert!(
            error.contains("GGUF has no name for its") && error.contains(part),
            "{error}"
        );
    };
    refused("normalizer", serde_json::json!({"type": "Lowercase"}));
    let prefixed = serde_json::json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    refused("pre_tokenizer", prefixed);
    refused("pre_tokenizer", serde_json::json!({"type": "Whitespace"}));
}

#[test]
fn broken_vocabularies_are_errors_that_say_what_is_wrong() {
    let all = json("vocabularies.json");
    let good = byte_level(&all, &all["cases"][0]);
    let error = |change: &dyn Fn(&mut GgufVocabulary)| {
        let mut vocabulary = good.clone();
        change(&mut vocabulary);
        Tokenizer::from_gguf(vocabulary).unwrap_err().to_string()
    };
    assert!(error(&|v| v.model = "bert".into()).contains("known: gpt2, llama"));
    assert!(error(&|v| v.pre = Some("tekken".into())).contains("smollm"));
    assert!(error(&|v| v.tokens.clear()).contains("tokens"));
    assert!(error(&|v| v.token_types.truncate(3)).contains("3 entries"));
    assert!(error(&|v| v.eos = Some(5_000_000)).contains("5000000"));
    assert!(error(&|v| v.merges[7] = "nospace".into()).contains("merges[7]"));
    assert!(error(&|v| v.merges[7] = "notthere neither".into()).contains("notthere"));
    assert!(error(&|v| v.merges.clear()).contains("merges"));
    assert!(error(&|v| v.model = "llama".into()).contains("scores"));

    let directory = tempfile::tempdir().unwrap();
    let missing = Tokenizer::from_directory(directory.path())
        .unwrap_err()
        .to_string();
    assert!(missing.contains("tokenizer.json"), "{missing}");
    std::fs::write(directory.path().join("tokenizer.json"), "{").unwrap();
    assert!(Tokenizer::from_directory(directory.path()).is_err());
}
