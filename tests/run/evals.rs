//! What `distill eval` refuses.

use crate::home::{Home, assert_failure};

const QUESTION: &str = "{\"question\":\"q\",\"choices\":[\"a\",\"b\",\"c\",\"d\"],\"answer\":0}\n";

#[test]
fn what_would_have_no_effect_is_refused() {
    let home = Home::new();
    let perplexity = home.distill(&[
        "eval",
        "perplexity",
        "--model",
        "tiny",
        "--data",
        "train.txt",
        "--records",
        "a.jsonl",
    ]);
    assert_failure(&perplexity, 2, &["`--records`", "perplexity"]);
    let compare = home.distill(&["eval", "--compare", "a", "b", "--limit", "3"]);
    assert_failure(&compare, 2, &["--limit"]);
}

#[test]
fn examples_are_not_the_questions_and_records_are_of_one_evaluation() {
    let home = Home::new();
    home.write("q.jsonl", QUESTION);
    home.write("a.jsonl.partial", "{\"evaluation\":\"other\"}\n");
    let eval = [
        "eval", "mmlu", "--model", "tiny", "--data", "q.jsonl", "--limit", "1",
    ];
    let with = |more: &[&str]| home.distill(&[&eval[..], more].concat());
    let same = with(&["--shots", "1", "--shots-data", "./q.jsonl"]);
    assert_failure(&same, 1, &["--shots-data is --data itself"]);
    let other = with(&["--records", "a.jsonl"]);
    assert_failure(&other, 1, &["a.jsonl.partial", "another evaluation"]);
}

#[test]
fn a_model_that_gives_no_number_has_no_score() {
    let home = Home::new();
    home.write("q.jsonl", QUESTION.repeat(2));
    let path = home.path("tiny").join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let weights = bytes.len() - 64;
    // Not a number, in whatever type.
    bytes[weights..].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    let output = home.distill(&["eval", "mmlu", "--model", "tiny", "--data", "q.jsonl"]);
    assert_failure(&output, 1, &["question 1", "the model gives no number"]);
}
