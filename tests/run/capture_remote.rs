//! Soft targets of a teacher behind a server: those of the same model on this machine, paid for once.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use model::batch::TokenBatch;
use model::build::Placement;
use model::decoder::Decoder;
use model::load::load_frozen_decoder;
use model::score::top_logits;
use model::weights::checkpoint::Checkpoint;
use serde_json::{Map, Value, json};

use crate::home::{
    Home, RECIPE, assert_failure, assert_success, metrics, read_json, stderr, stdout,
};
use crate::models;
use crate::server::{Hit, Reply, Server};

/// The model `tiny` behind vLLM's `prompt_logprobs`.
pub struct Oracle {
    decoder: Mutex<Decoder>,
    tokens: Vec<String>,
}

impl Oracle {
    pub fn new(home: &Home) -> Self {
        let checkpoint = Checkpoint::open(&home.path("tiny")).unwrap();
        let decoder = load_frozen_decoder(&checkpoint, &Placement::cpu()).unwrap();
        Self {
            decoder: Mutex::new(decoder),
            tokens: models::characters(),
        }
    }

    /// For each token of the prompt the table that vLLM gives: its own token first, then the best.
    pub fn tables(&self, ids: &[u32], top: usize) -> Vec<Value> {
        let decoder = self.decoder.lock().unwrap();
        let hidden = decoder.hidden(&TokenBatch::single(ids));
        let all = top_logits(&decoder, &hidden, self.tokens.len());
        let mut tables = vec![Value::Null];
        for (logits, &own) in all.iter().zip(&ids[1..]) {
            let sum: f64 = logits.iter().map(|(_, x)| f64::from(*x).exp()).sum();
            let entry = |&(id, logit): &(u32, f32)| {
                let logprob = f64::from(logit) - sum.ln();
                (
                    id.to_string(),
                    json!({ "logprob": logprob, "decoded_token": self.tokens[id as usize] }),
                )
            };
            let own = logits.iter().find(|(id, _)| *id == own).map(entry);
            let table: Map<String, Value> = own
                .into_iter()
                .chain(logits.iter().take(top).map(entry))
                .collect();
            tables.push(Value::Object(table));
        }
        tables
    }

    pub fn answer(&self, hit: &Hit) -> Value {
        let ids: Vec<u32> = serde_json::from_value(hit.body["prompt"].clone()).unwrap();
        let top = hit.body["prompt_logprobs"].as_u64().unwrap() as usize;
        json!({
            "choices": [{ "text": "x", "prompt_logprobs": self.tables(&ids, top) }],
            "usage": { "prompt_tokens": ids.len(), "completion_tokens": 1 },
        })
    }

    /// The same in the older way, tokens named by their ids.
    fn echo(&self, hit: &Hit) -> Value {
        assert_eq!(hit.body["return_tokens_as_token_ids"], true);
        let ids: Vec<u32> = serde_json::from_value(hit.body["prompt"].clone()).unwrap();
        let tables = self.tables(&ids, hit.body["logprobs"].as_u64().unwrap() as usize);
        let own = ids
            .iter()
            .zip(&tables)
            .map(|(id, table)| table[id.to_string()]["logprob"].clone());
        let top = tables.iter().map(|table| {
            let table = table.as_object()?;
            let named = table
                .iter()
                .map(|(id, told)| (format!("token_id:{id}"), told["logprob"].clone()));
            Some(named.collect::<Map<String, Value>>())
        });
        let logprobs = json!({
            "tokens": ids.iter().map(|id| format!("token_id:{id}")).collect::<Vec<_>>(),
            "token_logprobs": own.collect::<Vec<_>>(),
            "top_logprobs": top.collect::<Vec<_>>(),
        });
        json!({ "choices": [{ "text": "x", "logprobs": logprobs }] })
    }
}

fn recipe(server: &Server, keys: &str, rest: &str) -> String {
    format!(
        r#"
[models.tiny]
source = "tiny"
[models.served]
source = {{ kind = "remote", model = "m", endpoints = ["{}"], retries = 1, backoff_seconds = 0.01 }}
tokenizer = "tiny"
[data.train]
source = "train.txt"
[[stage]]
kind = "capture"
teacher = "served"
data = "train"
encoding = {{ kind = "top_k", k = 8, bits = 16 }}
sequence_length = 32
shard_tokens = 64
as = "targets"
{keys}
{rest}
"#,
        server.endpoint()
    )
}

pub fn shown(home: &Home, stage: &Path) -> Value {
    let directory = stage.join("targets");
    let output = home.distill(&[
        "shards",
        directory.to_str().unwrap(),
        "--samples",
        "5000",
        "--json",
    ]);
    assert_success(&output);
    serde_json::from_str(&stdout(&output)).unwrap()
}

/// The largest difference of two captures' probabilities; the tokens must be the same.
fn largest_difference(a: &Value, b: &Value) -> f64 {
    let samples = |shown: &Value| shown["samples"].as_array().unwrap().clone();
    let (a, b) = (samples(a), samples(b));
    assert_eq!(a.len(), b.len());
    assert!(a.len() > 1000, "{}", a.len());
    let mut worst: f64 = 0.0;
    for (a, b) in a.iter().zip(&b) {
        let lists = [a, b].map(|sample| {
            let tokens = sample["tokens"].as_array().unwrap().iter();
            let pairs = tokens.map(|token| {
                (
                    token["id"].as_u64().unwrap(),
                    token["probability"].as_f64().unwrap(),
                )
            });
            let mut pairs: Vec<(u64, f64)> = pairs.collect();
            pairs.sort_by_key(|(id, _)| *id);
            pairs
        });
        for (a, b) in lists[0].iter().zip(&lists[1]) {
            assert_eq!(a.0, b.0);
            worst = worst.max((a.1 - b.1).abs());
        }
        let tails = [a, b].map(|sample| sample["tail"].as_f64().unwrap());
        worst = worst.max((tails[0] - tails[1]).abs());
    }
    worst
}

fn captures(home: &Home) -> Vec<PathBuf> {
    home.stages("runs", "capture")
}

#[test]
fn a_server_tells_what_the_model_itself_does() {
    let home = Home::new();
    let oracle = Oracle::new(&home);
    let vllm = Server::start(move |hit| Reply::json(oracle.answer(hit)));
    let learn = r#"
[[stage]]
kind = "prune"
model = "tiny"
keep_layers = [0]
as = "start"
[[stage]]
kind = "distill"
student = "start"
teacher = { shards = "targets" }
data = "train"
loss = [{ kind = "forward_kl" }]
steps = 3
sequence_length = 32
tokens_per_step = 128
"#;
    let remote = recipe(&vllm, "", learn);
    home.write(RECIPE, &remote);
    assert_success(&home.run());
    let served = shown(&home, &captures(&home)[0]);
    assert_eq!(served["entropy_of"], "list_and_tail");
    let losses = |stage: &Path| -> Vec<f64> {
        let lines = metrics(stage);
        lines
            .iter()
            .filter_map(|line| line["loss"].as_f64())
            .collect()
    };
    let learned = losses(&home.stage("runs", "distill"));
    assert_eq!(learned.len(), 3);

    home.write(
        RECIPE,
        remote.replace("teacher = \"served\"", "teacher = \"tiny\""),
    );
    assert_success(&home.distill(&["run", RECIPE, "--out", "local"]));
    let local = shown(&home, &home.stage("local", "capture"));
    let worst = largest_difference(&served, &local);
    println!("probabilities differ by {worst:e} at most");
    // A tail is a half float.
    assert!(worst < 5e-4);
    let of_local = losses(&home.stage("local", "distill"));
    for (a, b) in learned.iter().zip(&of_local) {
        assert!((a - b).abs() < 1e-4, "{learned:?} {of_local:?}");
    }
    assert_eq!(served["vocabulary"], local["vocabulary"]);
    assert_eq!(served["tokens"], local["tokens"]);
    // The list with its tail as one is a lower bound.
    let mean = |shown: &Value| shown["entropy"]["mean"].as_f64().unwrap();
    assert!(mean(&served) < mean(&local) && mean(&served) > 0.0);

    let oracle = Oracle::new(&home);
    let older = Server::start(move |hit| match hit.body["echo"] == true {
        true => Reply::json(oracle.echo(hit)),
        false => Reply::refused(400, "unknown parameter `prompt_logprobs`"),
    });
    let of_older = recipe(&older, "", "").replace("model = \"m\"", "model = \"n\"");
    home.write(RECIPE, of_older);
    assert_success(&home.distill(&["run", RECIPE, "--out", "echo"]));
    let echoed = shown(&home, &home.stage("echo", "capture"));
    assert_eq!(largest_difference(&served, &echoed), 0.0);
}

#[test]
fn a_kill_pays_for_nothing_twice_and_a_budget_holds() {
    let home = Home::new();
    home.write("train.txt", models::TEXT.repeat(20));
    let oracle = Oracle::new(&home);
    let server = Server::start(move |hit| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        Reply::json(oracle.answer(hit))
    });
    let pieces = |server: &Server| {
        let hits = server.hits();
        let mut prompts: Vec<String> = hits
            .iter()
            .map(|hit| hit.body["prompt"].to_string())
            .collect();
        prompts.sort();
        let all = prompts.len();
        prompts.dedup();
        (all, prompts.len())
    };
    home.write(RECIPE, recipe(&server, "budget = { tokens = 400 }", ""));
    assert_failure(&home.run(), 1, &["the budget of this stage is reached"]);
    let (asked, _) = pieces(&server);
    assert!((8..=14).contains(&asked), "{asked}");
    home.write(RECIPE, recipe(&server, "", ""));
    for threshold in [30, 60] {
        let mut run = home.spawn("runs");
        assert!(run.wait_until(|| server.hits().len() >= threshold));
        run.signal(libc::SIGKILL);
        run.finish();
    }
    assert_success(&home.run());
    let (asked, different) = pieces(&server);
    // At most what was under way at each kill is asked again.
    assert!(asked - different <= 2 * 8, "{asked} {different}");
    let stage = home.stage("runs", "capture");
    let ledger = read_json(&stage.join("ledger.json"));
    assert_eq!(ledger["all_runs"]["answers"], different, "{ledger}");
    assert_eq!(shown(&home, &stage)["targets"], models::TEXT.len() * 20);
    // Another cut of the same: nothing is asked.
    home.write(
        RECIPE,
        recipe(&server, "", "").replace("shard_tokens = 64", "shard_tokens = 640"),
    );
    assert_success(&home.run());
    assert_eq!(pieces(&server).0, asked);
}

#[test]
fn what_a_server_cannot_tell_is_named() {
    let home = Home::new();
    let neither = Server::start(|_| Reply::json(json!({ "choices": [{ "text": "c" }] })));
    home.write(RECIPE, recipe(&neither, "", ""));
    let parts = [
        "cannot tell the 8 most probable tokens at each place of a given text",
        "neither `prompt_logprobs` nor `echo`",
        "hint: vLLM",
        "GGUF",
    ];
    assert_failure(&home.run(), 1, &parts);
    // Of at most eight requests under way each tries both ways once; the first that fails ends the others.
    let hits = neither.hits().len();
    assert!((2..=16).contains(&hits), "{hits}");
    for (edit, parts) in [
        (
            "other token",
            [
                "token 3 of sample 0",
                "hint: `tokenizer` of the remote model",
            ],
        ),
        ("other text", ["token 2 of sample 0", "\"zebra\""]),
        (
            "few",
            [
                "the server tells 2 of the 8 most probable tokens at token 1",
                "hint: lower `k`",
            ],
        ),
        ("limit", ["greater than max allowed: 5", "8 most probable"]),
        ("raw", ["is no distribution", "temperature 1"]),
    ] {
        let home = Home::new();
        home.write("train.txt", models::TEXT);
        let oracle = Oracle::new(&home);
        let server = Server::start(move |hit| {
            if edit == "limit" {
                let says = "Requested prompt logprobs of 8, which is greater than max allowed: 5";
                return Reply::refused(400, says);
            }
            let mut answer = oracle.answer(hit);
            let entries = &mut answer["choices"][0]["prompt_logprobs"];
            match edit {
                "other token" => {
                    entries[3] = json!({ "79": { "logprob": -0.5, "decoded_token": "x" } });
                }
                "other text" => {
                    let id = hit.body["prompt"][2].to_string();
                    entries[2][id]["decoded_token"] = json!("zebra");
                }
                "few" => {
                    let id = hit.body["prompt"][1].to_string();
                    entries[1] = json!({ id: { "logprob": -0.5 }, "79": { "logprob": -2.0 } });
                }
                _ => {
                    for token in entries[1].as_object_mut().unwrap().values_mut() {
                        token["logprob"] = json!(0.5);
                    }
                }
            }
            Reply::json(answer)
        });
        home.write(
            RECIPE,
            recipe(&server, "", "").replace("retries = 1", "concurrency = 1"),
        );
        let error = assert_failure(&home.run(), 1, &parts);
        println!("{edit}: {error}");
    }
}

#[test]
fn senseless_recipes_are_told_before_anything_runs() {
    let home = Home::new();
    let server = Server::good();
    let good = recipe(&server, "", "");
    for (from, to, parts) in [
        (
            "tokenizer = \"tiny\"",
            "",
            ["needs a tokenizer here", "hint: add `tokenizer"],
        ),
        (
            "kind = \"top_k\", k = 8, bits = 16",
            "kind = \"sampled\"",
            ["draws need the whole distribution", "hint: take `top_k`"],
        ),
        (
            "sequence_length = 32",
            "sequence_length = 32\ntemperature = 2.0",
            ["at temperature 1", "hint: leave out `temperature`"],
        ),
        (
            "sequence_length = 32",
            "sequence_length = 32\nbudget = { dollars = 1.0 }",
            ["a budget in dollars needs the model's `price`", RECIPE],
        ),
    ] {
        assert!(good.contains(from), "{from}");
        home.write(RECIPE, good.replace(from, to));
        assert_failure(&home.run(), 2, &parts);
    }
    assert_eq!(server.hits().len(), 0);
    assert!(!stderr(&home.distill(&["check", RECIPE])).is_empty());
}
