use std::fs;
use std::path::Path;

use datasets::config::DataConfig;
use datasets::token_estimate::estimated_tokens;
use serde_json::json;

use super::*;
use crate::text_size::{GroupSize, TextSize};

fn read(task: ChoiceTask, path: &Path) -> Result<Questions, DataError> {
    task.questions(&DataConfig::new(path.to_path_buf()))
}

/// The questions of a file that holds `text`.
fn questions(task: ChoiceTask, name: &str, text: &str) -> Result<Questions, DataError> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join(name);
    fs::write(&path, text).unwrap();
    read(task, &path)
}

fn one(task: ChoiceTask, line: serde_json::Value) -> Question {
    let mut found = questions(task, "set.jsonl", &line.to_string()).unwrap();
    assert_eq!(found.questions.len(), 1);
    found.questions.remove(0)
}

#[test]
fn a_question_of_mmlu_is_the_same_in_every_layout() {
    let hub = json!({ "question": " 1 + 1?", "subject": "elementary_mathematics", "choices": ["1", "2", "3", "4"], "answer": 1 });
    let expected = one(ChoiceTask::Mmlu, hub);
    assert_eq!(expected.prompt, "1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:");
    assert_eq!(expected.subject, "elementary mathematics");
    assert_eq!(
        (expected.answer, expected.choices.join("")),
        (1, "ABCD".to_string())
    );
    let columns = json!({ "question": "1 + 1?", "answer_a": "1", "answer_b": "2", "answer_c": "3", "answer_d": "4",
        "correct_answer": "B", "topic": "elementary mathematics" });
    assert_eq!(one(ChoiceTask::Mmlu, columns), expected);
    // The authors' release: a directory of csv files without headers.
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("elementary_mathematics_test.csv");
    fs::write(&file, "1 + 1?,1,2,3,4,B\n\"2, 2?\",4,4,4,4,A\n").unwrap();
    for source in [place.path(), &file] {
        let found = read(ChoiceTask::Mmlu, source).unwrap().questions;
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], expected);
        assert_eq!(found[1].prompt, "2, 2?\nA. 4\nB. 4\nC. 4\nD. 4\nAnswer:");
    }
    // Below other directories, too, but not among other tables.
    let below = place.path().join("b");
    fs::create_dir(&below).unwrap();
    fs::write(below.join("anatomy_test.csv"), "Where?,1,2,3,4,A\n").unwrap();
    fs::write(place.path().join("README.txt"), "About it.").unwrap();
    let found = read(ChoiceTask::Mmlu, place.path()).unwrap().questions;
    assert_eq!((found.len(), found[0].subject.as_str()), (3, "anatomy"));
    fs::write(below.join("more.jsonl"), "{}\n").unwrap();
    let error = read(ChoiceTask::Mmlu, place.path())
        .unwrap_err()
        .to_string();
    assert!(error.contains("more.jsonl"), "{error}");
    // Worked examples of lm-eval, two files one behind the other.
    let yaml = "dataset_name: elementary_mathematics\nfewshot_config:\n  sampler: first_n\n  samples:\n  - question: '1 + 1?\n\n      \
        (A) 1 (B) 2 (C) 3 (D) 4'\n    target: Let's think. The answer is (B).\n  - question: no choices\n    target: none\n\
        dataset_name: anatomy\nfewshot_config:\n  samples:\n  - question: \"Where?\\n(A) here\\n(B) there\\n(C) a\\n(D) b\"\n    target: (D).\n";
    let found = questions(ChoiceTask::Mmlu, "dev.yaml", yaml)
        .unwrap()
        .questions;
    assert_eq!(found.len(), 2);
    assert_eq!(found[0], expected);
    assert_eq!((found[1].subject.as_str(), found[1].answer), ("anatomy", 3));
    // The directory that they lie in, with what else lies there.
    let place = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(place.path().join(name), text).unwrap();
    write("mmlu_all.yaml", yaml);
    write("_mmlu.yaml", "group: mmlu\ntask:\n  - mmlu_all\n");
    write("_cot_prompts.json", "{\"anatomy\": \"Think.\"}");
    let all = read(ChoiceTask::Mmlu, place.path()).unwrap().questions;
    assert_eq!(all, found);
}

#[test]
fn the_other_sets_are_prompted_as_published() {
    let korean = json!({ "question": "수도는?", "A": "서울", "B": "부산", "C": "대구", "D": "광주", "answer": 1, "Category": "Korean-History" });
    let korean = one(ChoiceTask::Kmmlu, korean);
    assert_eq!(
        korean.prompt,
        "수도는?\nA. 서울\nB. 부산\nC. 대구\nD. 광주\n정답："
    );
    assert_eq!(
        (korean.subject.as_str(), korean.answer),
        ("korean history", 0)
    );
    let endings = ["go [x] on.", "stop."];
    let swag = json!({ "activity_label": "Running", "ctx_a": "A man runs.", "ctx_b": "he THEN", "ctx": "unused", "endings": endings, "label": "1" });
    let swag = one(ChoiceTask::HellaSwag, swag);
    assert_eq!(swag.prompt, "Running: A man runs. He then");
    assert_eq!((swag.choices[0].as_str(), swag.answer), ("go on.", 1));
    let truth =
        json!({ "question": "Why?", "mc1_targets": { "choices": ["a", "b"], "labels": [0, 1] } });
    let truth = one(ChoiceTask::TruthfulqaMc1, truth);
    assert!(
        truth.prompt.starts_with("Q: What is human life")
            && truth.prompt.ends_with("\n\nQ: Why?\nA:")
    );
    assert_eq!(truth.answer, 1);
    let flat = json!({ "question": "Why?", "choices": ["a", "b"], "expected_index": 0 });
    assert_eq!(one(ChoiceTask::TruthfulqaMc1, flat).answer, 0);
}

#[test]
fn what_is_no_question_is_said_with_its_place() {
    let says = |name, text: &str| {
        questions(ChoiceTask::Mmlu, name, text)
            .unwrap_err()
            .to_string()
    };
    let text = says(
        "a.jsonl",
        "{\"question\": \"q\", \"choices\": [\"a\",\"b\",\"c\",\"d\"], \"answer\": \"E\"}",
    );
    assert!(
        text.contains("row 1: column `answer`: found \"E\", expected a letter from A to D"),
        "{text}"
    );
    let text = says(
        "a.jsonl",
        "{\"question\": \"q\", \"choices\": [\"a\"], \"answer\": 0}",
    );
    assert!(text.contains("expected four texts"), "{text}");
    let text = says("a.jsonl", "{\"prompt\": \"q\"}");
    assert!(text.contains("there is no column `question`"), "{text}");
    let text = says("a.txt", "Once upon a time.");
    assert!(text.contains("task files of lm-eval"), "{text}");
    let text = says("a.jsonl", "");
    assert!(text.contains("no questions"), "{text}");
    let header = json!({ "question": "question", "answer_a": "answer_a", "answer_b": "answer_b", "answer_c": "c", "answer_d": "d",
        "correct_answer": "answer", "topic": "x" });
    let text = format!(
        "{header}\n{}",
        json!({ "question": "q", "choices": ["a", "b", "c", "d"], "answer": 3 })
    );
    let found = questions(ChoiceTask::Mmlu, "a.jsonl", &text).unwrap();
    assert_eq!((found.headers, found.questions.len()), (1, 1));
}

fn asked(subject: &str, number: usize) -> Question {
    Question {
        subject: subject.into(),
        prompt: format!("q{number}\nAnswer:"),
        choices: mmlu::LETTERS.map(String::from).to_vec(),
        answer: number % 4,
    }
}

#[test]
fn examples_stand_in_their_order_and_a_draw_follows_the_seed() {
    let questions: Vec<Question> = (0..40)
        .map(|i| asked(["anatomy", "law"][i % 2], i))
        .collect();
    let examples = [
        asked("law", 1),
        asked("anatomy", 2),
        asked("law", 3),
        asked("law", 5),
    ];
    let config = |shots, limit| ChoiceConfig {
        shots,
        limit,
        seed: 7,
    };
    let all = Asked::new(
        ChoiceTask::Mmlu,
        questions.clone(),
        &examples,
        &config(2, None),
    )
    .unwrap();
    assert_eq!(all.few_examples, ["anatomy"]);
    let (number, law) = &all.questions[20];
    assert_eq!(
        (*number, law.prompt.as_str()),
        (
            2,
            "The following are multiple choice questions (with answers) about law.\n\nq1\nAnswer: B\n\nq3\nAnswer: D\n\nq1\nAnswer:"
        )
    );
    let drawn = |seed, limit| {
        let config = ChoiceConfig {
            shots: 0,
            limit: Some(limit),
            seed,
        };
        let asked = Asked::new(ChoiceTask::Mmlu, questions.clone(), &[], &config).unwrap();
        asked
            .questions
            .into_iter()
            .map(|(number, _)| number)
            .collect::<Vec<_>>()
    };
    assert_eq!(drawn(7, 10), drawn(7, 10));
    assert_ne!(drawn(7, 10), drawn(8, 10));
    assert!(
        drawn(7, 5)
            .iter()
            .all(|number| drawn(7, 10).contains(number))
    );
    let missing = Asked::new(
        ChoiceTask::Mmlu,
        questions.clone(),
        &examples[..1],
        &config(1, None),
    );
    assert!(
        missing
            .err()
            .unwrap()
            .to_string()
            .contains("no worked examples of `anatomy`")
    );
    let swag = Asked::new(
        ChoiceTask::HellaSwag,
        questions,
        &examples,
        &config(1, None),
    );
    assert!(
        swag.err()
            .unwrap()
            .to_string()
            .contains("hellaswag have no subjects")
    );
}

#[test]
fn a_beginning_counts_once_and_letters_are_only_scored() {
    let question = |prompt: &str, choices: [&str; 2]| Question {
        subject: "anatomy".into(),
        prompt: prompt.into(),
        choices: choices.map(String::from).into(),
        answer: 0,
    };
    let size = |task, questions: Vec<Question>| {
        let asked = Asked::new(task, questions, &[], &ChoiceConfig::default());
        asked.unwrap().size()
    };
    let letters = ["which one?", "where?"].map(|prompt| question(prompt, ["A", "B"]));
    let described = estimated_tokens(&ChoiceTask::Mmlu.description("anatomy"));
    let found = size(ChoiceTask::Mmlu, letters.into());
    // Both begin with "wh", a word's beginning, behind what is described.
    let [one, other] = [described + 2.9, described + 1.9];
    let shared = described + 1.0;
    assert_eq!(found.sequences, 4);
    assert!((found.tokens - (2.0 * (one + other) + 4.0)).abs() < 1e-9);
    assert!((found.read_here - (one + other - shared)).abs() < 1e-9);
    assert_eq!((found.scored_here, found.groups[0].rows), (4.0, 2));
    assert!((found.groups[0].longest - (one + 1.0)).abs() < 1e-9);
    let endings = vec![question("a man", [" walks.", " is it."])];
    let found = size(ChoiceTask::HellaSwag, endings);
    let expected = TextSize {
        sequences: 2,
        tokens: 2.0 * 2.0 + 1.9 + 2.9,
        read_here: 2.0 + 1.9 + 2.9,
        scored_here: 1.9 + 2.9,
        groups: vec![GroupSize {
            rows: 2,
            shared: 2.0,
            longest: 4.9,
        }],
    };
    assert_eq!(found, expected);
}
