//! Prompts and verdicts against lm-eval 0.4.13, whose own are in `tests/golden/written_answers.json`.

use serde_json::{Value, json};

use super::equivalence::{boxed, is_equivalent, normalised};
use super::*;

fn golden() -> Value {
    serde_json::from_str(include_str!("../../tests/golden/written_answers.json")).unwrap()
}

fn rows<R: serde::de::DeserializeOwned>(value: &Value) -> Vec<R> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Reads records as a file of JSON lines holds them.
fn problems(task: AnswerTask, records: &[Value]) -> Result<Vec<Problem>, DataError> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("data.jsonl");
    let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
    std::fs::write(&path, lines).unwrap();
    task.problems(&DataConfig::new(path))
}

fn of(task: AnswerTask, records: &Value) -> Vec<Problem> {
    problems(task, &rows::<Value>(records)).unwrap()
}

#[test]
fn prompts_and_stops_of_gsm8k_are_those_of_lm_eval() {
    let golden = &golden()["gsm8k"];
    let (shots, asked) = (&golden["shots"], &golden["asked"]);
    let task = AnswerTask::Gsm8k;
    let config = AnswerConfig::default();
    let asked = AskedProblems::new(task, of(task, asked), &of(task, shots), &config, 0).unwrap();
    let expected = golden["rows"].as_array().unwrap();
    assert_eq!((asked.len(), expected.len()), (20, 20));
    for ((_, _, prompt), expected) in asked.problems.iter().zip(expected) {
        assert_eq!(*prompt, expected["prompt"]);
    }
    assert_eq!(json!(task.stop()), golden["until"]);
    let math = &self::golden()["math"];
    assert_eq!(json!(AnswerTask::Math.stop()), math["until"]);
    let form = math["doc_to_text"].as_str().unwrap();
    assert_eq!(
        form.replace("{{problem}}", "1 + 1?"),
        AnswerTask::Math.prompt("1 + 1?")
    );
}

#[test]
fn answers_of_gsm8k_are_found_and_judged_as_by_lm_eval() {
    let golden = &golden()["gsm8k"];
    let problems = of(AnswerTask::Gsm8k, &golden["asked"]);
    let mut judged = 0;
    for (problem, row) in problems.iter().zip(golden["rows"].as_array().unwrap()) {
        for (output, strict, strict_correct, flexible, correct) in
            rows::<(String, String, bool, String, bool)>(&row["outputs"])
        {
            let found = AnswerTask::Gsm8k.look(&output, &problem.expected);
            let told = |answer: Option<String>| answer.unwrap_or_else(|| "[invalid]".into());
            assert_eq!(
                (told(found.strict), found.strict_correct),
                (strict, strict_correct),
                "{output:?}"
            );
            assert_eq!(
                (told(found.flexible), found.correct),
                (flexible, correct),
                "{output:?}, {}",
                problem.expected
            );
            judged += 1;
        }
    }
    assert_eq!(judged, 264);
}

#[test]
fn answers_of_math_are_normalised_and_compared_as_by_lm_eval() {
    let golden = &golden()["math"];
    for (text, expected) in rows::<(String, Option<String>)>(&golden["normalised"]) {
        assert_eq!(normalised(&text), expected, "{text:?}");
    }
    for (a, b, expected) in rows::<(String, String, bool)>(&golden["equivalent"]) {
        assert_eq!(is_equivalent(&a, &b), expected, "{a:?} {b:?}");
    }
    for (text, expected) in rows::<(String, Option<String>)>(&golden["boxed"]) {
        assert_eq!(boxed(&text), expected.as_deref(), "{text:?}");
    }
    for (solution, output, expected) in rows::<(String, String, bool)>(&golden["judged"]) {
        let right = boxed(&solution).unwrap();
        let found = AnswerTask::Math.look(&output, right);
        assert_eq!(found.strict_correct, expected, "{solution:?} {output:?}");
    }
    assert_eq!(boxed("so \\fbox{12}."), Some("12"));
    let found = AnswerTask::Math.look("Then $x = 3$, so \\boxed{\\dfrac12}.", "\\frac{1}{2}");
    assert!(found.correct && !found.strict_correct);
    assert_eq!(found.flexible.as_deref(), Some("\\dfrac12"));
}

#[test]
fn layouts_are_read_and_what_is_missing_is_told() {
    let record = |solution: &str| json!({ "problem": "p", "level": "Level 5", "type": "Number Theory", "solution": solution });
    let read = problems(AnswerTask::Math, &[record("It is $\\boxed{7}$.")]).unwrap();
    let expected = Problem {
        question: "p".into(),
        worked: "7".into(),
        expected: "7".into(),
        subject: Some("Number Theory".into()),
        level: Some("level 5".into()),
    };
    assert_eq!((read.len(), &read[0]), (1, &expected));
    let other = json!({ "problem": "p", "level": 5, "subject": "Number Theory", "answer": "7", "solution": "seven" });
    assert_eq!(problems(AnswerTask::Math, &[other]).unwrap(), [expected]);
    let error = problems(AnswerTask::Math, &[record("seven")]).unwrap_err();
    assert!(error.to_string().contains("\\boxed{…}"), "{error}");
    let error = problems(AnswerTask::Gsm8k, &[record("seven")]).unwrap_err();
    assert!(
        error.to_string().contains("`answer` or `upstream_answer`"),
        "{error}"
    );

    // The release of MATH: a directory of subjects with a file a problem.
    let place = tempfile::tempdir().unwrap();
    for (subject, number) in [("algebra", 2), ("algebra", 10), ("geometry", 1)] {
        let directory = place.path().join(subject);
        std::fs::create_dir_all(&directory).unwrap();
        let text = serde_json::to_string_pretty(&record(&format!("\\boxed{{{number}}}"))).unwrap();
        std::fs::write(directory.join(format!("{number}.json")), text).unwrap();
    }
    let read = AnswerTask::Math
        .problems(&DataConfig::new(place.path().to_path_buf()))
        .unwrap();
    let answers: Vec<&str> = read
        .iter()
        .map(|problem| problem.expected.as_str())
        .collect();
    assert_eq!(answers, ["10", "2", "1"]);
}

#[test]
fn worked_examples_have_to_be_there() {
    let asked = |examples: &[Problem], shots| {
        let config = AnswerConfig {
            shots,
            ..AnswerConfig::default()
        };
        AskedProblems::new(
            AnswerTask::Gsm8k,
            vec![Problem::default()],
            examples,
            &config,
            0,
        )
    };
    let error = asked(&[], None).err().unwrap().to_string();
    assert!(
        error.contains("0 worked examples, and 5 are wanted"),
        "{error}"
    );
    assert_eq!(asked(&[], Some(0)).unwrap().len(), 1);
}

#[test]
fn scores_count_by_both_rules_by_subject_and_by_level() {
    let record = |subject: &str, strict_correct, correct| AnswerRecord {
        number: 1,
        subject: Some(subject.into()),
        level: Some("level 1".into()),
        prompt: String::new(),
        output: String::new(),
        finish_reason: match correct {
            true => FinishReason::Stop,
            false => FinishReason::Length,
        },
        expected: String::new(),
        strict_answer: None,
        answer: None,
        strict_correct,
        correct,
        seconds: 0.0,
    };
    let records = [
        record("b", false, true),
        record("a", true, true),
        record("b", false, false),
    ];
    let scores = AnswerScores::of(&records);
    let counts = |verdicts: &Verdicts| {
        let Verdicts { strict, flexible } = verdicts;
        (strict.correct, flexible.correct, strict.questions)
    };
    assert_eq!(counts(&scores.all), (1, 2, 3));
    assert_eq!(scores.unfinished, 1);
    let subjects: Vec<_> = (scores.subjects.iter())
        .map(|(name, verdicts)| (name.as_str(), counts(verdicts)))
        .collect();
    assert_eq!(subjects, [("a", (1, 1, 1)), ("b", (0, 1, 2))]);
    assert_eq!(counts(&scores.levels[0].1), (1, 2, 3));
    let text = serde_json::to_string(&scores).unwrap();
    assert_eq!(serde_json::from_str::<AnswerScores>(&text).unwrap(), scores);
}
