//! Filters on files of every format.

use std::fs;
use std::path::{Path, PathBuf};

use datasets::config::{Chunk, DataConfig};
use datasets::dedup::{Method, dedup};
use datasets::error::DataError;
use datasets::filter::{Rule, filter};
use datasets::read::read_samples;
use datasets::sample::Sample;
use datasets::selection::Counts;
use polars::prelude::{NamedFrom, ParquetWriter, Series, df};
use serde_json::{Value, json};

const LONG_ENOUGH: &str = r#"[{"length": {"min_characters": 3}}]"#;

fn write(directory: &Path, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, contents).unwrap();
    path
}

/// The lines that are kept, and the counts.
fn kept(data: &DataConfig<PathBuf>) -> Result<(Vec<String>, Counts), DataError> {
    let rules: Vec<Rule> = serde_json::from_str(LONG_ENOUGH).unwrap();
    let out = tempfile::tempdir().unwrap();
    let counts = filter(data, &rules, &|_, _, _| Ok(None), out.path(), "kept.jsonl")?;
    let text = fs::read_to_string(out.path().join("kept.jsonl")).unwrap();
    Ok((text.lines().map(str::to_string).collect(), counts))
}

#[test]
fn tables_become_json_lines_with_all_their_columns() {
    let home = tempfile::tempdir().unwrap();
    let lines = |path: PathBuf| kept(&DataConfig::new(path)).unwrap().0;
    let json = "\u{20}[\n {\"text\": \"long [1], {2}\",\n  \"n\": 1.500},\n {\"text\": \"no\"} , {\"text\": \"three\"}]\n";
    assert_eq!(
        lines(write(home.path(), "a.json", json)),
        [
            "{\"text\": \"long [1], {2}\",   \"n\": 1.500}",
            "{\"text\": \"three\"}"
        ]
    );
    let csv = "id,text\r\n1,\"a \"\"quoted\"\", text\nof two lines\"\n2,no\n07,plain\n";
    assert_eq!(
        lines(write(home.path(), "a.csv", csv)),
        [
            r#"{"id":"1","text":"a \"quoted\", text\nof two lines"}"#,
            r#"{"id":"07","text":"plain"}"#
        ]
    );
    let mut table = df!(
        "text" => ["first text", "no", "third text", "한국어"],
        "score" => [0.1, 0.2, f64::from(1u32 << 30), 4.0],
        "tags" => Series::new("tags".into(), [Some("a"), None, None, Some("d")]),
    )
    .unwrap();
    let path = home.path().join("a.parquet");
    let file = fs::File::create(&path).unwrap();
    // Two row groups.
    let writer = ParquetWriter::new(file).with_row_group_size(Some(2));
    writer.finish(&mut table).unwrap();
    let found: Vec<serde_json::Value> = lines(path)
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        found,
        [
            serde_json::json!({"text": "first text", "score": 0.1, "tags": "a"}),
            serde_json::json!({"text": "third text", "score": 1073741824.0, "tags": null}),
            serde_json::json!({"text": "한국어", "score": 4.0, "tags": "d"}),
        ]
    );
}

#[test]
fn texts_are_cut_as_training_cuts_them() {
    let home = tempfile::tempdir().unwrap();
    let text = "\u{feff}one\r\ntwo\n\n\nno\n\nthree\r\n";
    let path = write(home.path(), "a.txt", text);
    let cut = |chunk| {
        let data = DataConfig {
            chunk,
            ..DataConfig::new(path.clone())
        };
        let kept = kept(&data).unwrap().0;
        let samples = read_samples(&data).unwrap().samples;
        let trained = samples.into_iter().filter_map(|sample| match sample {
            Sample::Text(text) if text.len() > 2 => Some(json!({ "text": text }).to_string()),
            _ => None,
        });
        assert_eq!(kept, trained.collect::<Vec<_>>());
        kept
    };
    assert_eq!(
        cut(Chunk::Paragraphs),
        [r#"{"text":"one\ntwo"}"#, r#"{"text":"three"}"#]
    );
    assert_eq!(
        cut(Chunk::Lines),
        [
            r#"{"text":"one"}"#,
            r#"{"text":"two"}"#,
            r#"{"text":"three"}"#
        ]
    );
    assert_eq!(cut(Chunk::File).len(), 1);
}

#[test]
fn every_layout_is_read_and_a_limit_counts_what_says_something() {
    let home = tempfile::tempdir().unwrap();
    let lines = [
        r#"{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": null}]}"#,
        r#"{"conversations": "[{\"from\": \"human\", \"value\": \"Hi there\"}]"}"#,
        r#"{"prompt": "Why?", "completion": ""}"#,
        r#"{"prompt": "Why?", "chosen": [{"role": "assistant", "content": "So."}], "rejected": "No."}"#,
        r#"{"instruction": "Add.", "input": "", "output": "3"}"#,
        r#"{"text": "beyond the limit"}"#,
    ];
    let path = write(home.path(), "a.jsonl", lines.join("\n"));
    let data = DataConfig {
        limit: Some(4),
        ..DataConfig::new(path)
    };
    let (found, counts) = kept(&data).unwrap();
    assert_eq!(found, [lines[0], lines[1], lines[3], lines[4]]);
    assert_eq!(
        (counts.records, counts.kept, counts.dropped[0].records),
        (5, 4, 1)
    );
}

#[test]
fn a_batch_is_no_border() {
    // More records than a batch holds, the second half a copy of the first.
    let home = tempfile::tempdir().unwrap();
    let half: String = (0..6000)
        .map(|i| format!("{{\"text\": \"record number {i}\"}}\n"))
        .collect();
    let path = write(home.path(), "a.jsonl", half.repeat(2));
    for method in [r#""exact""#, r#"{"minhash": {"threshold": 1.0}}"#] {
        let method: Method = serde_json::from_str(method).unwrap();
        let out = tempfile::tempdir().unwrap();
        let counts = dedup(
            &DataConfig::new(path.clone()),
            &method,
            None,
            out.path(),
            "k",
        )
        .unwrap();
        assert_eq!((counts.records, counts.kept), (12000, 6000));
        assert_eq!(fs::read_to_string(out.path().join("k")).unwrap(), half);
    }
}

#[test]
fn texts_without_words_or_characters_are_no_duplicates() {
    let home = tempfile::tempdir().unwrap();
    let texts = ["!!!", "🙂", "{}", "!!!"].map(|text| json!({ "id": "a", "text": text }));
    let nothing =
        [json!(null), json!(" ")].map(|text| json!({ "id": "a", "text": "b", "note": text }));
    let file = |name: &str, records: &[Value]| {
        let lines: Vec<String> = records.iter().map(Value::to_string).collect();
        DataConfig::new(write(home.path(), name, lines.join("\n")))
    };
    let (texts, nothing) = (file("t.jsonl", &texts), file("n.jsonl", &nothing));
    for method in [r#""exact""#, r#"{"minhash": {}}"#] {
        let method: Method = serde_json::from_str(method).unwrap();
        let of = |data, field| dedup(data, &method, field, home.path(), "k");
        assert_eq!(of(&texts, None).unwrap().kept, 3);
        let error = of(&nothing, Some("note")).unwrap_err().to_string();
        assert!(error.contains("no text 2"), "{error}");
    }
}

#[test]
fn files_that_are_torn_are_told() {
    let home = tempfile::tempdir().unwrap();
    for (name, contents, says) in [
        (
            "a.json",
            "[{\"text\": \"abc\"} {\"text\": \"abc\"}]",
            "no `,` or `]` after element 1",
        ),
        ("b.json", "[{\"text\": \"abc\"},", "it ends after element 1"),
        (
            "c.csv",
            "text,id\nabc\n",
            "row 1 has 1 fields, the header 2",
        ),
        ("d.parquet", "PAR1 and no more", "not readable as parquet"),
        ("e.jsonl", "{\"frage\": \"a\"}\n", "no known layout"),
        ("f.jsonl", "[1]\n", "line 1: not an object"),
    ] {
        let path = write(home.path(), name, contents);
        let error = kept(&DataConfig::new(path)).unwrap_err().to_string();
        assert!(error.contains(says), "{name}: {error}");
    }
}
