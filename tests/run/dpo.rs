//! Stage `dpo`: pairs that a model learns to prefer, stopped and gone on with, what is left out, and what is refused.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::home::{
    Home, RECIPE, assert_failure, assert_success, metrics, read_json, stderr, stdout, steps,
};
use crate::models::{characters, write_tiny, write_tokenizer};
use crate::weights::{digest, sha256};

const MODEL: &str = "[models.tiny]\nsource = \"tiny\"\n";

const DATA: &str = r#"
[data.pairs]
source = "pairs.jsonl"
[data.held]
source = "held.jsonl"
"#;

/// `[[stage]]` of six steps; `more` goes into it.
fn stage(more: &str) -> String {
    format!(
        r#"
[[stage]]
kind = "dpo"
model = "tiny"
data = "pairs"
heldout = "held"
evaluate_every = 3
optimizer = {{ kind = "adamw", lr = 1e-3 }}
steps = 6
sequence_length = 64
tokens_per_step = 256
micro_batch = 2
checkpoint_every = 2
as = "better"
{more}
"#
    )
}

/// Pairs whose chosen answers are in small letters and whose rejected ones are in capitals.
fn pairs(count: usize) -> Vec<String> {
    let pair = |i: usize| {
        let word = ["the mill", "a river", "the books", "one sack"][i % 4];
        let answer = format!("it is {}", "so ".repeat(1 + i % 4));
        json!({
            "prompt": format!("{word}?"),
            "chosen": answer,
            "rejected": answer.to_uppercase(),
        })
    };
    (0..count).map(|i| pair(i).to_string()).collect()
}

fn home() -> Home {
    let home = Home::new();
    home.write("pairs.jsonl", pairs(24).join("\n"));
    home.write("held.jsonl", pairs(33)[24..].join("\n"));
    home
}

fn adapter_digest(stage: &Path) -> String {
    sha256(&fs::read(stage.join("model/adapter_model.safetensors")).unwrap())
}

#[test]
fn a_model_learns_to_prefer_and_says_how_well() {
    let home = home();
    let lines = [
        pairs(24),
        vec![
            json!({ "prompt": "q", "chosen": "same", "rejected": "same " }).to_string(),
            json!({ "prompt": "q", "chosen": "good", "rejected": "" }).to_string(),
            json!({ "prompt": "q".repeat(99), "chosen": "good", "rejected": "bad" }).to_string(),
            json!({ "prompt": "q", "chosen": "good ".repeat(30), "rejected": "bad" }).to_string(),
            // Equal once they are cut.
            json!({ "prompt": "q", "chosen": "good ".repeat(30) + "x", "rejected": "good ".repeat(30) + "y" }).to_string(),
        ],
    ];
    home.write("pairs.jsonl", lines.concat().join("\n"));
    let eval = "[[stage]]\nkind = \"eval\"\ntask = \"perplexity\"\nmodels = [\"tiny\", \"better\"]\ndata = \"text\"\n";
    let text = "[data.text]\nsource = \"heldout.txt\"\n";
    let more = stage("").replace("steps = 6", "steps = 20");
    home.write(RECIPE, format!("{MODEL}{DATA}{text}{more}{eval}"));
    let output = home.run();
    assert_success(&output);
    let shown = stderr(&output);
    for part in [
        "27 pairs",
        "1 answer truncated",
        "1 pair dropped (no room for both answers within the sequence length)",
        "2 pairs dropped (equal answers)",
        "1 pair dropped (an empty prompt or answer)",
        "reference: computing 34 pairs",
        "held-out loss 0.693",
    ] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    let directory = home.stage("runs", "dpo");
    let lines = metrics(&directory);
    let held: Vec<&serde_json::Value> = (lines.iter())
        .filter(|line| line.get("heldout_pairs").is_some())
        .collect();
    let number = |line: &serde_json::Value, key: &str| line[key].as_f64().unwrap();
    assert_eq!(held.len(), 8);
    let (first, last) = (held[0], held[7]);
    // Nothing is told apart yet.
    assert_eq!(number(first, "heldout_accuracy"), 0.5);
    assert!(
        (number(first, "heldout_loss") - 2f64.ln()).abs() < 1e-5,
        "{first}"
    );
    assert!(
        number(last, "heldout_loss") < 0.6 && number(last, "heldout_margin") > 0.2,
        "{last}"
    );
    assert_eq!(number(last, "heldout_accuracy"), 1.0);
    assert_eq!(last["heldout_pairs"], 9);
    let step = lines
        .iter()
        .rfind(|line| line.get("loss").is_some())
        .unwrap();
    assert_eq!(step["losses"]["sigmoid.0"], step["loss"]);
    let margin = number(step, "chosen_reward") - number(step, "rejected_reward");
    assert!((margin - number(step, "margin")).abs() < 1e-9, "{step}");
    assert!(
        step["kl"].is_number() && number(step, "chosen_log_prob") < 0.0,
        "{step}"
    );
    let table = stdout(&output);
    assert!(
        table.contains("preferences of better on 9 pairs of held"),
        "{table}"
    );
    assert!(table.contains("before            0.6931"), "{table}");

    let again = home.run();
    assert_success(&again);
    assert!(stderr(&again).contains("dpo → better: done before"));
}

#[test]
fn a_run_that_is_killed_goes_on_to_the_same_bits() {
    let home = home();
    let adapter = "adapter = { kind = \"lora\", rank = 4, dropout = 0.1 }\nloss = { kind = \"ipo\", beta = 0.5 }";
    for (out, more, result) in [
        ("whole", "", digest as fn(&Path) -> String),
        ("lora", adapter, |model| {
            adapter_digest(model.parent().unwrap())
        }),
    ] {
        let slow = stage(more).replace("steps = 6", "steps = 40");
        home.write(RECIPE, format!("seed = 7\n{MODEL}{DATA}{slow}"));
        let [undisturbed, killed] = ["undisturbed", "killed"].map(|name| format!("{out}-{name}"));
        assert_success(&home.distill(&["run", RECIPE, "--out", &undisturbed]));
        let mut kills = 0;
        for threshold in [1, 9, 22] {
            let mut run = home.spawn(&killed);
            let done = || {
                let stage = home.stages(&killed, "dpo").pop();
                stage.is_some_and(|stage| {
                    let text = fs::read_to_string(stage.join("metrics.jsonl")).unwrap_or_default();
                    text.lines()
                        .filter(|line| line.contains("\"losses\""))
                        .count()
                        >= threshold
                })
            };
            if run.wait_until(done) && run.ended().is_none() {
                run.signal(libc::SIGKILL);
                kills += 1;
            }
            run.finish();
        }
        assert!(kills >= 2, "{kills}");
        let last = home.distill(&["run", RECIPE, "--out", &killed]);
        assert_success(&last);
        assert!(
            stderr(&last).contains("pairs, computed before"),
            "{}",
            stderr(&last)
        );
        let [a, b] = [&undisturbed, &killed].map(|out| home.stage(out, "dpo"));
        assert_eq!(result(&a.join("model")), result(&b.join("model")), "{out}");
        assert_eq!(steps(&b), (1..=40).collect::<Vec<_>>());
        let file = |stage: &Path| fs::read(stage.join("reference.safetensors")).unwrap();
        assert!(file(&a) == file(&b), "the references differ");
    }
}

#[test]
fn the_reference_may_be_another_model_or_none() {
    let home = home();
    let sft = "[[stage]]\nkind = \"sft\"\nmodel = \"tiny\"\ndata = \"text\"\nsteps = 2\nsequence_length = 64\ntokens_per_step = 128\nas = \"tuned\"\n";
    let text = "[data.text]\nsource = \"train.txt\"\n";
    let first_loss = |more: &str, out: &str| {
        let stage = stage(more).replace("model = \"tiny\"", "model = \"tuned\"");
        home.write(RECIPE, format!("{MODEL}{DATA}{text}{sft}{stage}"));
        assert_success(&home.distill(&["run", RECIPE, "--out", out]));
        let lines = metrics(&home.stage(out, "dpo"));
        assert_eq!(lines[1].get("kl").is_some(), out != "free");
        lines[1]["loss"].as_f64().unwrap()
    };
    let own = first_loss("", "own");
    assert!((own - 2f64.ln()).abs() < 1e-5, "{own}");
    let other = first_loss("reference = \"tiny\"", "other");
    assert!((other - 2f64.ln()).abs() > 1e-4, "{other}");
    let free = first_loss(
        "loss = { kind = \"sigmoid\", reference_free = true }",
        "free",
    );
    assert!(
        !home
            .stage("free", "dpo")
            .join("reference.safetensors")
            .exists()
    );
    assert!((free - own).abs() > 1e-3, "{free}");
    let config = &read_json(&home.stage("free", "dpo").join("stage.json"))["config"];
    assert_eq!(config["dpo"]["loss"]["sigmoid"]["reference_free"], true);
}

#[test]
fn a_reference_that_reads_heldout_pairs_as_something_else_is_refused() {
    let home = home();
    let mut tokens = characters();
    let at = |token: &str| tokens.iter().position(|other| other == token).unwrap();
    let (j, z) = (at("j"), at("z"));
    tokens.swap(j, z);
    write_tiny(&home.path("other"));
    write_tokenizer(&home.path("other"), &tokens);
    let other = "[models.other]\nsource = \"other\"\n";
    let stage = stage("reference = \"other\"").replace("steps = 6", "steps = 2");
    home.write(RECIPE, format!("{MODEL}{other}{DATA}{stage}"));
    assert_success(&home.run());
    let held = json!({ "prompt": "q", "chosen": "a zoo", "rejected": "no" });
    home.write("held.jsonl", held.to_string());
    let parts = [
        "`reference` (r.toml:",
        "is \"z\" for the model and \"j\" for the reference",
        "hint: a reference must share",
    ];
    assert_failure(&home.run(), 1, &parts);
}

#[test]
fn what_makes_no_sense_is_told_with_its_place() {
    let home = home();
    let recipe = |more: &str| format!("{MODEL}{DATA}{}", stage(more));
    for (more, parts) in [
        (
            "loss = { kind = \"sigmoid\", beta = 0 }",
            &["`beta` must lie between", "r.toml:"][..],
        ),
        (
            "loss = { kind = \"sigmoid\", label_smoothing = 0.5 }",
            &["`label_smoothing` must be"],
        ),
        (
            "loss = { kind = \"ipo\", reference_free = true }",
            &["unknown key `reference_free`"],
        ),
        (
            "loss = { kind = \"sigmod\" }",
            &["`sigmod`", "did you mean `sigmoid`?"],
        ),
        (
            "reference = \"tiny\"\nloss = { kind = \"hinge\", reference_free = true }",
            &["asks no `reference`", "hint: "],
        ),
        ("reference = \"none\"", &["no model is called `none`"]),
        (
            "packing = \"stream\"",
            &["both answers of a pair stand in one row"],
        ),
    ] {
        home.write(RECIPE, recipe(more));
        assert_failure(&home.run(), 2, parts);
    }
    let generate = "[[stage]]\nkind = \"generate\"\nteacher = \"tiny\"\nprompts = \"held\"\nas = \"answers\"\n";
    let on_answers = stage("").replace("data = \"pairs\"", "data = \"answers\"");
    home.write(RECIPE, format!("{MODEL}{DATA}{generate}{on_answers}"));
    let parts = [
        "`answers` is data with texts or answers, pairs of a chosen and a rejected answer are wanted here",
        "a stage `rate`",
    ];
    assert_failure(&home.run(), 2, &parts);

    let rate =
        "[[stage]]\nkind = \"rate\"\nteacher = \"tiny\"\nanswers = [\"held\"]\nas = \"answers\"\n";
    let sifted = "[[stage]]\nkind = \"dedup\"\ndata = \"answers\"\nmethod = { kind = \"exact\" }\nas = \"pairs2\"\n";
    let on_rated = stage("").replace("data = \"pairs\"", "data = \"pairs2\"");
    home.write(RECIPE, format!("{MODEL}{DATA}{rate}{sifted}{on_rated}"));
    assert_success(&home.distill(&["check", RECIPE]));

    home.write(RECIPE, recipe(""));
    for (line, parts) in [
        (
            json!({ "prompt": "q", "completion": "a" }),
            &[
                "data `pairs`",
                "no pairs among the columns [\"prompt\", \"completion\"]",
                "`chosen` + `rejected`",
                "hint: ",
            ][..],
        ),
        (
            json!({ "prompt": "q", "chosen": "a", "rejected": "a" }),
            &[
                "data `pairs`",
                "no pair to learn from",
                "of 1 records 1 have two equal answers",
            ],
        ),
        (
            json!({ "prompt": "q".repeat(80), "chosen": "a", "rejected": "b" }),
            &["no pair to learn from", "sequence_length = 64"],
        ),
        (
            json!({ "prompt": [{ "role": "user", "content": "q" }, { "role": "assistant", "content": "a" }, { "role": "user", "content": "r" }], "chosen": "a", "rejected": "b" }),
            &["a conversation needs a chat template"],
        ),
    ] {
        home.write("pairs.jsonl", line.to_string());
        assert_failure(&home.run(), 1, parts);
    }
}

#[test]
fn inspect_shows_both_sides_with_their_masks() {
    let home = home();
    home.write(RECIPE, format!("{MODEL}{DATA}{}", stage("")));
    let output = home.distill(&["inspect", RECIPE, "--data", "pairs", "--samples", "1"]);
    assert_success(&output);
    let shown = stdout(&output);
    for part in [
        "=== pairs, by the tokenizer of tiny, in sequences of 64 tokens (dpo better)",
        "--- pair 1, chosen: ",
        "--- pair 1, rejected: ",
        "⟦the mill?⟧it is so </s>",
        "⟦the mill?⟧IT IS SO </s>",
        "pairs       24",
        "dropped     0 pairs: 0 with equal answers",
    ] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    assert!(!shown.contains("pair 2"), "{shown}");
}
