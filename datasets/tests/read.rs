//! Files of every format and layout, and files that are none.

use std::fs;
use std::path::{Path, PathBuf};

use datasets::config::{Chunk, ColumnMapping, DataConfig, Format};
use datasets::error::DataError;
use datasets::read::{DropReason, ReadReport, data_digest, read_prompts, read_samples};
use datasets::sample::{Message, Sample};
use polars::prelude::{ParquetWriter, Series, df};

fn write(name: &str, text: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap();
    (directory, path)
}

fn read(name: &str, text: impl AsRef<[u8]>) -> Result<ReadReport, DataError> {
    let (_directory, path) = write(name, text);
    read_samples(&DataConfig::new(path))
}

fn completion(prompt: &str, completion: &str) -> Sample {
    Sample::Completion {
        prompt: prompt.into(),
        completion: completion.into(),
    }
}

fn text(text: &str) -> Sample {
    Sample::Text(text.into())
}

#[test]
fn jsonl_of_every_layout() {
    let samples = |text: &str| read("a.jsonl", text).unwrap().samples;
    assert_eq!(
        samples("{\"text\": \"하나\"}\n{\"text\": \"two\", \"extra\": 1}\n"),
        [text("하나"), text("two")]
    );
    assert_eq!(
        samples(r#"{"prompt": "p", "completion": "42"}"#),
        [completion("p", "42")]
    );
    assert_eq!(
        samples(
            "{\"instruction\": \"i\", \"input\": \"x\", \"output\": \"o\"}\n{\"instruction\": \"j\", \"input\": \"\", \"output\": \"q\"}"
        ),
        [completion("i\nx", "o"), completion("j", "q")]
    );
    let expected = [Sample::Conversation(vec![
        Message::new("system", "s"),
        Message::new("user", "u"),
        Message::new("assistant", "a"),
    ])];
    assert_eq!(
        samples(
            r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}"#
        ),
        expected
    );
    assert_eq!(
        samples(
            r#"{"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]}"#
        ),
        expected
    );
}

#[test]
fn json_csv_and_parquet() {
    assert_eq!(
        read("a.json", r#" [{"text": "a"}, {"text": "b"}]"#)
            .unwrap()
            .samples,
        [text("a"), text("b")]
    );
    // A .json file of lines, as many are.
    assert_eq!(
        read("a.json", "{\"text\": \"a\"}\n{\"text\": \"b\"}")
            .unwrap()
            .samples
            .len(),
        2
    );
    assert_eq!(
        read("a.csv", "prompt,completion\n\"a, \"\"b\"\"\nc\",42\n")
            .unwrap()
            .samples,
        [completion("a, \"b\"\nc", "42")]
    );
    // As spreadsheets write them.
    for (name, marked) in [
        ("a.csv", "\u{feff}text,n\r\na,1\r\n"),
        ("a.json", "\u{feff}[{\"text\": \"a\"}]"),
        ("a.jsonl", "\u{feff}{\"text\": \"a\"}\r\n"),
    ] {
        assert_eq!(read(name, marked).unwrap().samples, [text("a")], "{name}");
    }
    // An empty cell is no list of turns; a comma at the end of a line is no field.
    let turns = r#"messages
""
"[{""role"": ""user"", ""content"": ""u""}, {""role"": ""assistant"", ""content"": ""a""}]",
"#;
    let report = read("a.csv", turns).unwrap();
    assert!(matches!(&report.samples[0], Sample::Conversation(m) if m.len() == 2));
    assert_eq!(report.dropped[&DropReason::Null], 1);
    // Of two columns of one name the first counts.
    assert_eq!(
        read("a.csv", "text,text\na,b\n").unwrap().samples,
        [text("a")]
    );
    let open = read("a.csv", "id,text\n1,a\n2,\"b\n3,c\n").unwrap_err();
    assert!(open.to_string().contains("`b` is never closed"), "{open}");
    let ragged = read("a.csv", "text,id\na,1\nb\n").unwrap_err();
    assert!(
        ragged.to_string().contains("row 2 has 1 fields"),
        "{ragged}"
    );

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.parquet");
    let mut table = df!("text" => ["a", "b", "c"], "n" => [1, 2, 3]).unwrap();
    ParquetWriter::new(fs::File::create(&path).unwrap())
        .finish(&mut table)
        .unwrap();
    assert_eq!(
        read_samples(&DataConfig::new(path)).unwrap().samples,
        [text("a"), text("b"), text("c")]
    );
    // Conversations of structs, beside a column that has no place in JSON.
    let turns = |said: [&str; 2]| {
        let turns = df!("role" => ["user", "assistant"], "content" => said).unwrap();
        Series::from(turns.into_struct("turn".into()))
    };
    let talks = [turns(["q", "a"]), turns(["r", "b"])];
    let bytes: [&[u8]; 2] = [b"\xff", b"\x00"];
    let mut table = df!("image" => bytes, "messages" => talks).unwrap();
    let path = directory.path().join("b.parquet");
    ParquetWriter::new(fs::File::create(&path).unwrap())
        .finish(&mut table)
        .unwrap();
    let talk = |q: &str, a: &str| {
        Sample::Conversation(vec![Message::new("user", q), Message::new("assistant", a)])
    };
    assert_eq!(
        read_samples(&DataConfig::new(path)).unwrap().samples,
        [talk("q", "a"), talk("r", "b")]
    );
}

#[test]
fn a_column_counts_wherever_a_file_begins_to_have_it() {
    // Turns decide what the file is; the rows before them say nothing.
    let late = "{\"text\": \"t\"}\n".repeat(5000)
        + r#"{"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]}"#;
    let report = read("a.jsonl", late).unwrap();
    assert_eq!((report.samples.len(), report.rows), (1, 5001));
    assert_eq!(report.dropped[&DropReason::Null], 5000);
    let input = "{\"instruction\": \"i\", \"output\": \"o\"}\n{\"instruction\": \"j\", \"input\": \"x\", \"output\": \"q\"}";
    assert_eq!(
        read("a.jsonl", input).unwrap().samples,
        [completion("i", "o"), completion("j\nx", "q")]
    );
    // A part that a turn lacks, as calls of tools do, leaves the conversation out.
    let calls = r#"{"messages": [{"role": "assistant", "tool_calls": []}, {"role": "user", "content": "u"}]}
{"messages": [{"role": "assistant", "content": "a"}]}"#;
    assert_eq!(
        read("a.jsonl", calls).unwrap().dropped[&DropReason::Null],
        1
    );
}

#[test]
fn what_stands_beside_role_and_content_is_not_read() {
    let talk = |text: &str| read("a.jsonl", text).unwrap().samples;
    let expected = [Sample::Conversation(vec![
        Message::new("user", "u"),
        Message::new("assistant", "a"),
    ])];
    for turns in [
        r#"{"messages": [{"role": "user", "content": "u", "value": "v", "from": "x"}, {"role": "assistant", "content": "a", "value": 0.7}]}"#,
        r#"{"conversations": [{"from": "human", "value": "u", "content": 1}, {"from": "gpt", "value": "a", "role": null}]}"#,
    ] {
        assert_eq!(talk(turns), expected, "{turns}");
    }
    // Turns that say nothing leave their conversation out, and no other.
    let report = read(
        "a.jsonl",
        "{\"messages\": [{}]}\n{\"messages\": [null]}\n{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}]}",
    )
    .unwrap();
    assert_eq!(
        (report.samples.len(), report.dropped[&DropReason::Null]),
        (1, 2)
    );
}

#[test]
fn an_error_behind_the_limit_is_nobodys() {
    let (_directory, path) = write("a.jsonl", "{\"text\": \"a\"}\n{\"text\": 5}\n");
    let limited = |limit| {
        read_samples(&DataConfig {
            limit,
            ..DataConfig::new(path.clone())
        })
    };
    assert_eq!(limited(Some(1)).unwrap().samples, [text("a")]);
    assert!(limited(Some(2)).unwrap_err().to_string().contains("row 2"));
}

#[test]
fn plain_text_by_file_paragraph_and_line() {
    let (_directory, path) = write("a.txt", "one\ntwo\r\n\n \nthree\n\nfour");
    let chunked = |chunk| {
        let config = DataConfig {
            chunk,
            ..DataConfig::new(path.clone())
        };
        read_samples(&config).unwrap().samples
    };
    assert_eq!(
        chunked(Chunk::File),
        [text("one\ntwo\r\n\n \nthree\n\nfour")]
    );
    assert_eq!(
        chunked(Chunk::Paragraphs),
        [text("one\ntwo"), text("three"), text("four")]
    );
    assert_eq!(
        chunked(Chunk::Lines),
        [text("one"), text("two"), text("three"), text("four")]
    );
}

#[test]
fn a_directory_is_its_tables_in_name_order() {
    let directory = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put("data/b.jsonl", "{\"text\": \"2\"}\n");
    put("data/a.jsonl", "{\"text\": \"1\"}\n");
    put("z.csv", "text\n3\n");
    put("README.md", "about");
    put(".hidden.jsonl", "broken");
    let config = DataConfig::new(directory.path().to_path_buf());
    let report = read_samples(&config).unwrap();
    assert_eq!(report.samples, [text("1"), text("2"), text("3")]);
    assert_eq!(report.skipped_files.len(), 1);
    let limited = DataConfig {
        limit: Some(2),
        ..config.clone()
    };
    assert_eq!(read_samples(&limited).unwrap().samples.len(), 2);
    let only_text = DataConfig {
        format: Some(Format::Text),
        ..config.clone()
    };
    assert_eq!(read_samples(&only_text).unwrap().samples, [text("about")]);
    let before = data_digest(&config).unwrap();
    assert_eq!(before, data_digest(&config).unwrap());
    assert_ne!(before, data_digest(&limited).unwrap());
    put("z.csv", "text\n4\n");
    assert_ne!(before, data_digest(&config).unwrap());
}

#[test]
fn a_mapping_names_the_columns() {
    let (_directory, path) = write(
        "a.jsonl",
        r#"{"question": "q", "answer": "a", "text": "t"}"#,
    );
    let mapped = |mapping: ColumnMapping| {
        read_samples(&DataConfig {
            columns: Some(mapping),
            ..DataConfig::new(path.clone())
        })
    };
    let some = |name: &str| Some(name.to_string());
    let mapping = |prompt, completion| ColumnMapping {
        prompt,
        completion,
        ..ColumnMapping::default()
    };
    assert_eq!(
        mapped(mapping(some("question"), some("answer")))
            .unwrap()
            .samples,
        [completion("q", "a")]
    );
    let error = mapped(mapping(some("question"), some("reply")))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`reply`") && error.contains("answer"),
        "{error}"
    );
    let error = mapped(mapping(some("question"), None))
        .unwrap_err()
        .to_string();
    assert!(error.contains("{ prompt, completion }"), "{error}");
}

#[test]
fn data_without_any_sample_says_why() {
    let error = |name: &str, content: &str| read(name, content).unwrap_err().to_string();
    for content in ["", " \n\n "] {
        let message = error("a.txt", content);
        assert!(
            message
                .contains("a.txt: no samples: the file is empty or holds only white space\nhint: "),
            "{message}"
        );
    }
    let message = error(
        "a.jsonl",
        "{\"text\": \"\"}\n{\"text\": null}\n{\"text\": \" \"}\n",
    );
    assert!(
        message.contains("none of 3 rows can be used: 1 with null in a column")
            && message.contains("2 with an empty text")
            && message.contains("\nhint: "),
        "{message}"
    );
}

#[test]
fn rows_without_content_are_dropped_and_counted() {
    let report = read(
        "a.jsonl",
        "{\"text\": \"a\"}\n{\"text\": null}\n{\"text\": \"  \"}\n{\"other\": 1}\n{\"text\": \"b\"}\n",
    )
    .unwrap();
    assert_eq!((report.samples.len(), report.rows), (2, 5));
    assert_eq!(report.dropped[&DropReason::Null], 2);
    assert_eq!(report.dropped[&DropReason::EmptyText], 1);
    let report = read(
        "a.jsonl",
        "{\"messages\": []}\n{\"messages\": [{\"role\": \"user\", \"content\": \"u\"}]}\n\
         {\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}]}\n",
    )
    .unwrap();
    assert_eq!(report.dropped[&DropReason::EmptyConversation], 1);
    assert_eq!(report.dropped[&DropReason::NoAssistantTurn], 1);
    let (_directory, path) = write(
        "a.jsonl",
        "{\"messages\": []}\n{\"messages\": [{\"role\": \"user\", \"content\": \"u\"}]}\n",
    );
    let report = read_prompts(&DataConfig::new(path)).unwrap();
    let asked = Sample::Conversation(vec![Message::new("user", "u")]);
    assert_eq!((report.samples, report.rows), (vec![asked], 2));
    // A limit counts samples, not rows.
    let (_directory, path) = write(
        "a.jsonl",
        "{\"text\": \"\"}\n{\"text\": \"a\"}\n{\"text\": \"b\"}\n",
    );
    let config = DataConfig {
        limit: Some(1),
        ..DataConfig::new(path)
    };
    assert_eq!(read_samples(&config).unwrap().samples, [text("a")]);
}

#[test]
fn bad_files_are_errors_that_name_file_and_place() {
    let error = |name: &str, text: &[u8]| read(name, text).unwrap_err().to_string();
    let missing = read_samples(&DataConfig::new(
        Path::new("/nowhere/x.jsonl").to_path_buf(),
    ))
    .unwrap_err();
    assert!(missing.to_string().contains("/nowhere/x.jsonl"));
    let columns = error("a.jsonl", br#"{"question": "q", "answer": "a"}"#);
    assert!(
        columns.contains("question") && columns.contains("Alpaca") && columns.contains("hint"),
        "{columns}"
    );
    let line = error(
        "a.jsonl",
        b"{\"text\": \"a\"}\n{\"text\": \n{\"text\": \"b\"}\n",
    );
    assert!(
        line.contains("a.jsonl") && line.contains("line 2"),
        "{line}"
    );
    let element = error("a.json", br#"[{"text": "a"}, 5]"#);
    assert!(element.contains("element 2: not an object"), "{element}");
    let lines = error("b.json", b"{\"text\": \"a\"}\n\n5\n");
    assert!(lines.contains("line 3: not an object"), "{lines}");
    let role = error(
        "a.jsonl",
        br#"{"messages": [{"role": "narrator", "content": "x"}]}"#,
    );
    assert!(
        role.contains("narrator") && role.contains("row 1"),
        "{role}"
    );
    let shape = error(
        "a.jsonl",
        br#"{"messages": [{"speaker": "user", "text": "x"}]}"#,
    );
    assert!(shape.contains("role"), "{shape}");
    let parts = error(
        "a.jsonl",
        br#"{"messages": [{"role": "user", "content": [{"type": "text"}]}]}"#,
    );
    assert!(parts.contains("plain strings"), "{parts}");
    let number = error("a.jsonl", br#"{"text": 5}"#);
    assert!(
        number.contains("a string") && number.contains("row 1"),
        "{number}"
    );
    for (name, bytes) in [
        ("a.jsonl", &b""[..]),
        ("a.csv", b""),
        ("a.csv", b"text\n"),
        ("a.txt", b" \n"),
        ("a.jsonl", b"{\"text\": \"\"}"),
        ("a.parquet", b""),
        ("a.json", b"[]"),
    ] {
        let message = error(name, bytes);
        assert!(message.contains(name), "{message}");
    }
    for (name, bytes) in [
        ("a.parquet", &b"PAR1 and nothing more"[..]),
        ("a.parquet", b"PAR1\xff\xff\xff\xffPAR1"),
        ("a.parquet", b"not parquet at all"),
        ("a.json", b"[{\"text\": \"a\"},"),
        ("a.json", b"{\"text\": "),
        ("a.jsonl", b"\xff\xfe{\"text\": 1}"),
        ("a.txt", b"caf\xe9"),
        ("a.jsonl", b"[1, 2]\n"),
        ("a.jsonl", b"42\n"),
    ] {
        let message = error(name, bytes);
        assert!(message.contains(name), "{message}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(read_samples(&DataConfig::new(empty.path().to_path_buf())).is_err());
}
