//! Conversations with a real model: what was read before is not computed again, and the answers are the same.

use std::path::Path;

use serde_json::Value;

use crate::verbs::SMOLLM2;
use crate::{distill, distill_told, stderr, stdout};

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Stdout and stderr of a conversation.
fn chat(arguments: &[&str], lines: &str) -> (String, String) {
    let verb = ["chat", "--model", SMOLLM2, "--max-tokens", "24", "--stats"];
    let output = distill_told(here(), &[&verb[..], arguments].concat(), lines);
    assert!(output.status.success(), "{}", stderr(&output));
    (stdout(&output), stderr(&output))
}

/// Reused tokens, tokens of the prompt and new ones, a line each answer.
fn counts(stderr: &str) -> Vec<[usize; 3]> {
    let told = stderr.lines().filter(|line| line.contains("reused"));
    told.map(|line| {
        let numbers: Vec<usize> = line
            .split([' ', ','])
            .filter_map(|word| word.parse().ok())
            .collect();
        [numbers[0], numbers[1], numbers[2]]
    })
    .collect()
}

/// What the model makes of a text without a conversation: the answer and the tokens of the prompt.
fn from_scratch(prompt: &str) -> (String, usize) {
    let output = distill(
        here(),
        &[
            "generate",
            "--model",
            SMOLLM2,
            "--raw",
            "--json",
            "--stats",
            "--max-tokens",
            "24",
            "--prompt",
            prompt,
        ],
    );
    assert!(output.status.success(), "{}", stderr(&output));
    let lines: Vec<Value> = (stdout(&output).lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let tokens = lines[1]["stats"]["prompt_tokens"].as_u64().unwrap();
    (
        lines[0]["text"].as_str().unwrap().to_owned(),
        tokens as usize,
    )
}

#[test]
fn a_conversation_goes_on_where_it_was_and_says_what_it_would_from_scratch() {
    let system = "Answer in one short sentence.";
    let questions = [
        "What is the capital of France?",
        "And which river is it on?",
    ];
    let lines = questions.map(|question| format!("{question}\n")).concat();
    let (told, words) = chat(&["--system", system], &lines);
    let mut prompt = format!("<|im_start|>system\n{system}<|im_end|>\n");
    let mut expected = String::new();
    let mut tokens = Vec::new();
    for question in questions {
        prompt += &format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n");
        let (answer, count) = from_scratch(&prompt);
        expected += &format!("{answer}\n");
        prompt += &format!("{answer}<|im_end|>\n");
        tokens.push(count);
    }
    assert_eq!(told, expected);
    assert!(told.contains("Paris"), "{told}");
    let found = counts(&words);
    assert_eq!(found.len(), 2, "{words}");
    assert_eq!([found[0][0], found[0][1]], [0, tokens[0]]);
    // The token that was drawn last has not been read.
    assert_eq!(found[1][0], found[0][1] + found[0][2] - 1, "{words}");
    assert_eq!(found[1][1], tokens[1]);

    // What comes behind /exit is not read; after /reset only the beginning is common.
    let again = format!(
        "{}\n/reset\n\n{}\n/exit\n{}\n",
        questions[0], questions[0], questions[1]
    );
    let (told, words) = chat(&["--system", system], &again);
    let first = expected.lines().next().unwrap();
    assert_eq!(told, format!("{first}\n{first}\n"));
    let reset = counts(&words);
    assert_eq!(reset[1], [tokens[0] - 1, tokens[0], reset[0][2]]);
}

#[test]
fn what_is_no_conversation_is_told() {
    let long = format!("{}\n", "word ".repeat(9000));
    let output = distill_told(here(), &["chat", "--model", SMOLLM2], &long);
    assert_eq!(output.status.code(), Some(1));
    let shown = stderr(&output);
    assert!(
        shown.contains("no room in the model's context of 8192"),
        "{shown}"
    );
    assert!(shown.contains("/reset"), "{shown}");
}
