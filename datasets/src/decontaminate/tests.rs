use serde_json::json;

use super::*;

fn benchmarks(records: &[Value], ngram: usize) -> Benchmarks {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("set.jsonl");
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    Benchmarks::read(&[("set".into(), DataConfig::new(path))], ngram).unwrap()
}

#[test]
fn shared_runs_are_found_wherever_they_stand() {
    let question =
        "Which of the following planets has the largest number of known moons in the year 2020?";
    let set = benchmarks(
        &[json!({"question": question, "choices": ["Mars", "Saturn"], "meta": {"id": 3}})],
        13,
    );
    let found = |text: &str| set.find(text).map(|(run, _)| run);
    let thirteen = "which of the following planets has the largest number of known moons";
    assert_eq!(
        found(&format!("Q: {} in? None", thirteen.to_uppercase())).as_deref(),
        Some("which of the following planets has the largest number of known moons in")
    );
    // Twelve words are not thirteen.
    assert_eq!(found(thirteen), None);
    // Neither an answer nor a short field is a proof.
    assert_eq!(found("Saturn"), None);
}

#[test]
fn short_texts_are_compared_whole() {
    let nine = "How many legs does an ordinary house spider have?";
    let five = "Who wrote War and Peace?";
    let set = benchmarks(
        &[
            json!({"question": nine, "answer": "8"}),
            json!({"question": five, "answer": "Tolstoy"}),
        ],
        13,
    );
    assert!(set.find(&format!("I ask: {nine} Eight.")).is_some());
    assert!(
        set.find("How many legs does an ordinary house have?")
            .is_none()
    );
    assert!(set.find("who wrote war, and peace").is_some());
    assert!(set.find(&format!("I ask: {five}")).is_none());
    assert!(set.find("").is_none());
}

#[test]
fn a_set_without_words_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("set.jsonl");
    std::fs::write(&path, "{\"text\": \" … \"}\n").unwrap();
    let error = Benchmarks::read(&[("set".into(), DataConfig::new(path))], 13)
        .err()
        .unwrap();
    assert!(error.to_string().contains("no words"), "{error}");
}
