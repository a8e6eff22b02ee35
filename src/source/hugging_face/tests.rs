use super::super::test_server::{COMMIT, TestServer};
use super::*;

fn hub(endpoint: &str, home: &Path) -> Hub {
    Hub {
        endpoint: Some(endpoint.to_string()),
        cache: Some(home.join("hub")),
        token: None,
    }
}

fn source(text: &str) -> HuggingFace {
    text.parse().unwrap()
}

fn info(files: &[&str]) -> String {
    let siblings: Vec<_> = (files.iter())
        .map(|f| serde_json::json!({ "rfilename": f }))
        .collect();
    serde_json::json!({ "siblings": siblings, "sha": COMMIT }).to_string()
}

#[test]
fn reads_names() {
    let model = source("org/name@v1");
    assert_eq!(
        (model.repo.as_str(), model.revision.as_str()),
        ("org/name", "v1")
    );
    assert_eq!(
        source("org/name/sub/m.gguf").file.as_deref(),
        Some("sub/m.gguf")
    );
    let data = source("datasets/org/name/a.parquet");
    assert!(data.is_data);
    assert_eq!(data.to_string(), "hf:datasets/org/name/a.parquet");
    for wrong in [
        "",
        "name",
        "org/",
        "org/name@",
        "org/name/../x",
        "datasets/org/name",
    ] {
        assert!(wrong.parse::<HuggingFace>().is_err(), "{wrong}");
    }
}

#[test]
fn fetches_a_sharded_model_and_does_without_the_network_after() {
    let index = br#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-1.safetensors"}}"#;
    let listing = info(&[
        INDEX,
        "config.json",
        "tokenizer.json",
        "m-1.safetensors",
        "m-2.safetensors",
        "README.md",
    ]);
    let at = |file: &str| format!("/org/name/resolve/{COMMIT}/{file}");
    let paths = [
        INDEX,
        "config.json",
        "tokenizer.json",
        "m-1.safetensors",
        "m-2.safetensors",
    ]
    .map(at);
    let server = TestServer::start(&[
        ("/api/models/org/name/revision/main", listing.as_bytes()),
        (&paths[0], index),
        (&paths[1], b"{}"),
        (&paths[2], b"tokens"),
        (&paths[3], b"one"),
        (&paths[4], b"two"),
    ]);
    let home = tempfile::tempdir().unwrap();
    let directory = source("org/name")
        .fetch(&hub(server.url(), home.path()))
        .unwrap();
    assert_eq!(
        std::fs::read(directory.join("m-2.safetensors")).unwrap(),
        b"two"
    );
    assert_eq!(
        std::fs::read(directory.join("tokenizer.json")).unwrap(),
        b"tokens"
    );
    assert!(!directory.join("README.md").exists());

    let before = server.requests();
    source("org/name")
        .fetch(&hub(server.url(), home.path()))
        .unwrap();
    assert_eq!(
        server.requests(),
        before + 1,
        "only the listing is asked for again"
    );

    let nowhere = hub("http://127.0.0.1:1", home.path());
    assert_eq!(source("org/name").fetch(&nowhere).unwrap(), directory);
    let error = source("org/other").fetch(&nowhere).unwrap_err().to_string();
    assert!(error.contains("hint: is the network there?"), "{error}");
}

#[test]
fn fetches_one_file_of_a_data_set() {
    let listing = info(&["sub/a.parquet"]);
    let path = format!("/datasets/org/name/resolve/{COMMIT}/sub/a.parquet");
    let server = TestServer::start(&[
        ("/api/datasets/org/name/revision/main", listing.as_bytes()),
        (&path, b"PAR1"),
    ]);
    let home = tempfile::tempdir().unwrap();
    let hub = hub(server.url(), home.path());
    let file = source("datasets/org/name/sub/a.parquet")
        .fetch(&hub)
        .unwrap();
    assert_eq!(std::fs::read(file).unwrap(), b"PAR1");
}

#[test]
fn what_a_hub_can_do_wrong_is_told() {
    let evil = br#"{"weight_map": {"a": "../../x.safetensors"}}"#;
    let listings = [
        info(&["config.json", "m.gguf"]),
        info(&[INDEX, "config.json"]),
    ];
    let index = format!("/org/evil/resolve/{COMMIT}/{INDEX}");
    let server = TestServer::start(&[
        ("/api/models/org/gguf/revision/main", listings[0].as_bytes()),
        ("/api/models/org/evil/revision/main", listings[1].as_bytes()),
        (&index, evil),
    ]);
    let home = tempfile::tempdir().unwrap();
    let hub = hub(server.url(), home.path());
    for (name, wanted) in [
        ("org/none", "the hub does not know it"),
        (
            "org/gguf",
            "hint: it has GGUF files: name one, as hf:org/gguf/m.gguf",
        ),
        ("org/evil", "names a strange file"),
        ("org/gguf/m.gguf", "the hub does not know it"),
    ] {
        let error = source(name).fetch(&hub).unwrap_err().to_string();
        assert!(error.contains(wanted), "{name}: {error}");
    }
}

#[test]
fn a_blob_that_lies_about_its_digest_is_removed() {
    let home = tempfile::tempdir().unwrap();
    let blob = home.path().join(Sha256::of(b"right").as_str());
    let pointer = home.path().join("m.safetensors");
    std::fs::write(&blob, b"wrong").unwrap();
    std::os::unix::fs::symlink(&blob, &pointer).unwrap();
    assert!(matches!(
        verify(&pointer, "m"),
        Err(SourceError::Digest { .. })
    ));
    assert!(!blob.exists() && pointer.symlink_metadata().is_err());
}
