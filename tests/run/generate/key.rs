//! A key is sent, and never written.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{recipe, records};
use crate::home::{Home, RECIPE, assert_success, stderr};
use crate::server::{Reply, Server, chat};

#[test]
fn a_key_is_never_written() {
    const KEY: &str = "sk-abcdef-0123456789";
    let mut home = Home::new();
    home.set("TEST_KEY", KEY);
    home.set("DISTILL_LOG", "trace");
    let server = Server::start(|hit| match hit.number % 3 {
        0 => Reply::refused(
            500,
            &format!("something is wrong with {}", hit.authorization),
        ),
        _ => {
            let mut answer = chat(hit);
            answer["choices"][0]["message"]["content"] = hit.authorization.clone().into();
            Reply::json(answer)
        }
    });
    recipe(
        &home,
        &server,
        ", key = { env = \"TEST_KEY\" }, backoff_seconds = 0.02",
        20,
        "",
    );
    let output = home.run();
    assert_success(&output);
    assert!(
        server
            .hits()
            .iter()
            .all(|hit| hit.authorization == format!("Bearer {KEY}"))
    );
    let refusing = Server::start(|hit| Reply::refused(401, &format!("no: {}", hit.authorization)));
    recipe(
        &home,
        &refusing,
        ", key = { file = \"key.txt\" }",
        3,
        "system = \"other\"",
    );
    home.write("key.txt", format!("{KEY}\n"));
    let refused = home.run();
    // A stream may cut it anywhere.
    let streaming = Server::start(|hit| {
        let (start, end) = hit.authorization.split_at(16);
        let piece =
            |text: &str| json!({ "choices": [{ "index": 0, "delta": { "content": text } }] });
        Reply::Stream(match hit.number {
            0 => format!(
                "data: {}\n\n",
                json!({ "error": { "message": hit.authorization } })
            ),
            _ => format!(
                "data: {}\n\ndata: {}\n\ndata: [DONE]\n\n",
                piece(start),
                piece(end)
            ),
        })
    });
    recipe(
        &home,
        &streaming,
        ", key = { file = \"key.txt\" }, stream = true, backoff_seconds = 0.02",
        3,
        "system = \"a third\"",
    );
    let streamed = home.distill(&["run", RECIPE, "--out", "streamed"]);
    assert_success(&streamed);
    assert_eq!(
        records(&home, "streamed")[0]["messages"][2]["content"],
        "Bearer [key]"
    );
    let shown = stderr(&refused);
    assert!(shown.contains("status 401: no: Bearer [key]"), "{shown}");
    fs::remove_file(home.path("key.txt")).unwrap();
    let holds = |bytes: &[u8]| {
        bytes
            .windows(KEY.len())
            .any(|window| window == KEY.as_bytes())
    };
    for output in [&output, &refused, &streamed] {
        assert!(!holds(&output.stdout) && !holds(&output.stderr));
    }
    let files = files_below(&home.path(""));
    assert!(files.iter().any(|file| file.ends_with("answers.sqlite")));
    for file in files {
        assert!(!holds(&fs::read(&file).unwrap()), "{}", file.display());
    }
}

fn files_below(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => files_below(&path),
            false => vec![path],
        })
        .collect()
}
