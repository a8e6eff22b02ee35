//! `hf:` sources from a hub on the loopback interface.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::json;

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr};
use crate::weights::sha256;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const FILES: [&str; 4] = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

const STAGES: &str = r#"
[data.heldout]
source = "heldout.txt"
[[stage]]
kind = "eval"
task = "perplexity"
models = ["tiny"]
data = "heldout"
"#;

/// Serves the files of `home`'s tiny model as `org/tiny`; ends with the process.
fn start_hub(home: &Home) -> String {
    let siblings: Vec<_> = FILES
        .iter()
        .map(|file| json!({ "rfilename": file }))
        .collect();
    let listing = json!({ "siblings": siblings, "sha": COMMIT }).to_string();
    let mut files = HashMap::from([(
        "/api/models/org/tiny/revision/main".to_string(),
        listing.into_bytes(),
    )]);
    for file in FILES {
        let contents = fs::read(home.path("tiny").join(file)).unwrap();
        files.insert(format!("/org/tiny/resolve/{COMMIT}/{file}"), contents);
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away early is its own affair.
            let _ = answer(stream, &files);
        }
    });
    url
}

/// One request, whole or the range that it asks for.
fn answer(mut stream: TcpStream, files: &HashMap<String, Vec<u8>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut range = None;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        range = range.or(line.strip_prefix("range: bytes=").map(str::to_string));
    }
    let target = request.split(' ').nth(1).unwrap_or_default();
    let Some(contents) = files.get(target.split('?').next().unwrap_or_default()) else {
        let nothing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(nothing);
    };
    let total = contents.len();
    let (status, body) = match range.as_deref().and_then(|range| range.split_once('-')) {
        None => ("200 OK", &contents[..]),
        Some((from, to)) => {
            let from = from.parse().unwrap_or(0).min(total);
            let to = to.parse().map_or(total, |to: usize| (to + 1).min(total));
            ("206 Partial Content", &contents[from..to.max(from)])
        }
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes 0-0/{total}\r\n\
         ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        body.len(),
        sha256(contents)
    )?;
    stream.write_all(body)
}

#[test]
fn a_model_of_a_hub_scores_as_its_files_do() {
    let mut home = Home::new();
    let url = start_hub(&home);
    home.set("HF_ENDPOINT", url);
    home.set("HF_HOME", home.path("hf").display().to_string());
    let recipe = |source: &str| format!("[models.tiny]\nsource = \"{source}\"\n{STAGES}");
    let scores = |out: &str| read_json(&home.stage(out, "eval").join("scores.json"));

    home.write(RECIPE, recipe("hf:org/tiny"));
    // Checking asks nobody.
    assert_success(&home.distill(&["check", RECIPE]));
    assert!(!home.path("hf").exists());
    assert_success(&home.distill(&["run", RECIPE, "--out", "hub"]));
    home.write(RECIPE, recipe("tiny"));
    assert_success(&home.distill(&["run", RECIPE, "--out", "local"]));
    assert_eq!(scores("hub"), scores("local"));

    home.write(RECIPE, recipe("hf:org/none"));
    assert_failure(
        &home.run(),
        1,
        &["model `tiny`: cannot fetch hf:org/none", "hint: "],
    );

    // What was fetched serves when nobody answers.
    home.set("HF_ENDPOINT", "http://127.0.0.1:9");
    home.write(RECIPE, recipe("hf:org/tiny"));
    let output = home.distill(&["run", RECIPE, "--out", "offline"]);
    assert_success(&output);
    assert!(
        stderr(&output).contains("cannot be reached"),
        "{}",
        stderr(&output)
    );
}
