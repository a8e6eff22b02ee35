//! Adapters through the binary: trained, killed, continued, scored, merged, and handed to PEFT's layout and back.

use std::fs;
use std::path::Path;

use crate::home::{
    Home, RECIPE, assert_failure, assert_success, metrics, read_json, stderr, steps,
};
use crate::models::{SMOL, random};
use crate::weights::sha256;

const DATA: &str = r#"
[data.train]
source = "train.txt"
[data.heldout]
source = "heldout.txt"
"#;

const TINY: &str = r#"
[models.tiny]
source = "tiny"
"#;

/// `[[stage]]`: an adapter of `settings` on `model`.
fn adapt(model: &str, settings: &str, name: &str) -> String {
    format!(
        r#"
[[stage]]
kind = "sft"
model = "{model}"
data = "train"
adapter = {{ kind = "lora", {settings} }}
optimizer = {{ kind = "adamw", lr = 1e-2 }}
steps = 6
sequence_length = 32
tokens_per_step = 64
checkpoint_every = 2
as = "{name}"
"#
    )
}

fn export(model: &str, to: &str, path: &str) -> String {
    format!("[[stage]]\nkind = \"export\"\nmodel = \"{model}\"\nto = \"{to}\"\npath = \"{path}\"\n")
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f64::max)
}

fn adapter_digest(model: &Path) -> String {
    sha256(&fs::read(model.join("adapter_model.safetensors")).unwrap())
}

#[test]
fn every_stage_and_verb_takes_an_adapter_s_result() {
    let home = Home::new();
    home.write(
        "heldout.txt",
        "the mill stood by the river, and the river ran",
    );
    let stages = [
        adapt("tiny", "rank = 4, dropout = 0.1", "tuned"),
        adapt("tuned", "rank = 4", "further"),
        r#"
[[stage]]
kind = "prune"
model = "tuned"
keep_layers = [1]
as = "half"
[[stage]]
kind = "distill"
student = "half"
teacher = "further"
data = "train"
adapter = { kind = "lora", rank = 2, rslora = true, targets = ["self_attn.*", "up_proj"], base = "f32" }
loss = [{ kind = "forward_kl" }, { kind = "hidden_mse", layers = [[1, 2]] }]
steps = 2
sequence_length = 32
tokens_per_step = 64
as = "student"
[[stage]]
kind = "sft"
model = "student"
data = "train"
steps = 1
sequence_length = 32
tokens_per_step = 64
as = "whole"
[[stage]]
kind = "eval"
task = "perplexity"
models = ["tiny", "tuned", "further", "student", "whole"]
data = "heldout"
"#
        .to_string(),
        export("further", "peft", "adapter"),
        export("further", "safetensors", "merged"),
    ];
    home.write(RECIPE, format!("seed = 7{TINY}{DATA}{}", stages.concat()));
    let output = home.run();
    assert_success(&output);
    assert!(
        stderr(&output).contains("parameters on 14 layers of a model of"),
        "{}",
        stderr(&output)
    );
    let scores = read_json(&home.stage("runs", "eval").join("scores.json"));
    let nll = |row: usize| scores["rows"][row]["nll"].as_f64().unwrap();
    assert!(nll(2) < nll(1) && nll(1) < nll(0), "{scores}");

    let merged = home.logprobs(&["--model", "merged"]);
    let apart = home.logprobs(&["--model", "tiny", "--adapter", "adapter"]);
    let difference = largest_difference(&merged, &apart);
    println!("merged and apart differ by {difference:e} nats");
    assert!(difference <= 1e-4, "{difference:e}");
    // Both say themselves where their base is.
    assert_eq!(home.logprobs(&["--model", "adapter"]), apart);
    let mean = -apart.iter().sum::<f64>() / apart.len() as f64;
    assert!((mean - nll(2)).abs() < 1e-5, "{mean} {}", nll(2));
    let alone = home.logprobs(&["--model", "tiny"]);
    assert!(largest_difference(&alone, &apart) > 0.1);

    let verb = [
        "export",
        "--model",
        "tiny",
        "--adapter",
        "adapter",
        "--to",
        "safetensors",
    ];
    assert_success(&home.distill(&[&verb[..], &["--out", "by-verb"]].concat()));
    assert_eq!(home.logprobs(&["--model", "by-verb"]), merged);

    let declared = "[models.tuned]\nsource = \"tiny\"\nadapter = \"adapter\"\n";
    let eval = "[[stage]]\nkind = \"eval\"\ntask = \"perplexity\"\nmodels = [\"tuned\"]\ndata = \"heldout\"\n";
    home.write(RECIPE, format!("{declared}{DATA}{eval}"));
    assert_success(&home.distill(&["run", RECIPE, "--out", "declared"]));
    let again = read_json(&home.stage("declared", "eval").join("scores.json"));
    assert_eq!(again["rows"][0]["nll"], scores["rows"][2]["nll"]);
}

#[test]
fn what_makes_no_sense_is_told_with_its_place() {
    let home = Home::new();
    let recipe = |settings: &str| format!("{TINY}{DATA}{}", adapt("tiny", settings, "tuned"));
    for (settings, code, parts) in [
        (
            "rank = 0",
            2,
            &["`rank` must lie between 1 and 4096", "r.toml:14:"][..],
        ),
        ("dropout = 1.0", 2, &["`dropout`", "r.toml:14:"]),
        ("alpha = -1", 2, &["`alpha` must lie between"]),
        ("targets = []", 2, &["`targets` names nothing"]),
        (
            "rang = 4",
            2,
            &["unknown key `rang`", "did you mean `rank`?"],
        ),
        (
            "base = \"nf5\"",
            2,
            &["unknown value `nf5`", "as_stored, nf4, f32", "`nf4`?"],
        ),
        (
            "targets = [\"query_proj\"]",
            2,
            &[
                "`query_proj` matches no linear layer",
                "hint: there are q_proj",
            ],
        ),
        (
            "targets = [\"layers.9.self_attn.q_proj\"]",
            1,
            &[
                "stage 1 (sft): model `tiny`: `adapter` (r.toml:14): `targets`: `layers.9.self_attn.q_proj` names no linear layer",
                "self_attn.q_proj",
                "hint: whole names work, too: model.layers.1.mlp.down_proj",
            ],
        ),
        (
            "base = \"nf4\"",
            1,
            &[
                "model.layers.0.self_attn.q_proj.weight",
                "a row of 32 values",
                "multiples of 64",
                "hint: base = \"as_stored\"",
            ],
        ),
    ] {
        home.write(RECIPE, recipe(settings));
        assert_failure(&home.run(), code, parts);
    }

    let fresh = random("fresh", 64, 80, "tiny", 1);
    let more = adapt("fresh", "rank = 2", "tuned");
    home.write(RECIPE, format!("{TINY}{fresh}{DATA}{more}"));
    assert_failure(&home.run(), 2, &["`fresh` is random", "hint: "]);

    let twice = adapt("tuned", "rank = 3", "further");
    home.write(RECIPE, recipe("rank = 2") + &twice);
    let parts = [
        "stage 2 (sft)",
        "cannot be continued: its rank is 2",
        "hint: ",
    ];
    assert_failure(&home.run(), 1, &parts);

    home.write(
        RECIPE,
        format!("{TINY}{}", export("tiny", "peft", "adapter")),
    );
    assert_failure(&home.run(), 1, &["tiny has no adapter to export", "hint: "]);

    let missing = TINY.to_string() + "adapter = \"none\"\n";
    home.write(
        RECIPE,
        format!("{missing}{}", export("tiny", "peft", "adapter")),
    );
    assert_failure(
        &home.run(),
        2,
        &["`none` holds no adapter_config.json", "r.toml:4:"],
    );

    home.write(RECIPE, recipe("rank = 2"));
    assert_success(&home.distill(&["run", RECIPE, "--out", "trained"]));
    let tuned = home.stage("trained", "sft").join("model");
    let mut config = read_json(&home.path("tiny/config.json"));
    config["rope_parameters"]["rope_theta"] = 5e5.into();
    config["rope_theta"] = 5e5.into();
    home.write("tiny/config.json", config.to_string());
    let output = home.distill(&["score", "--model", tuned.to_str().unwrap(), "--text", "a"]);
    let parts = [
        "belongs to another base",
        "it was trained on one with digest",
        "the shapes are",
    ];
    assert_failure(&output, 1, &parts);
    fs::remove_dir_all(home.path("tiny")).unwrap();
    let output = home.distill(&["score", "--model", tuned.to_str().unwrap(), "--text", "a"]);
    assert_failure(
        &output,
        1,
        &["the base of this adapter", "is not there", "hint: "],
    );
}

const KILLED: &str = r#"
[[stage]]
kind = "prune"
model = "fresh"
keep_layers = [0, 2]
as = "start"
[[stage]]
kind = "sft"
model = "start"
data = "train"
heldout = "heldout"
evaluate_every = 5
adapter = { kind = "lora", rank = 4, dropout = 0.2, base = "nf4" }
steps = 24
sequence_length = 64
tokens_per_step = 256
checkpoint_every = 2
as = "tuned"
"#;

#[test]
fn kills_change_no_bit_of_an_adapter() {
    let home = Home::new();
    let fresh = random("fresh", 64, 80, "tiny", 1);
    home.write(RECIPE, format!("seed = 7{TINY}{fresh}{DATA}{KILLED}"));
    assert_success(&home.distill(&["run", RECIPE, "--out", "undisturbed"]));
    let mut killed = 0;
    for threshold in [1, 5, 9, 14, 20] {
        let mut run = home.spawn("killed");
        let done = || {
            let stage = home.stages("killed", "sft").pop();
            stage.is_some_and(|stage| {
                let text = fs::read_to_string(stage.join("metrics.jsonl")).unwrap_or_default();
                text.lines()
                    .filter(|line| line.contains("\"loss\""))
                    .count()
                    >= threshold
            })
        };
        if run.wait_until(done) && run.ended().is_none() {
            run.signal(libc::SIGKILL);
            killed += 1;
        }
        run.finish();
    }
    assert!(killed >= 4, "{killed}");
    assert_success(&home.distill(&["run", RECIPE, "--out", "killed"]));
    let [a, b] = ["killed", "undisturbed"].map(|out| home.stage(out, "sft"));
    assert_eq!(
        adapter_digest(&a.join("model")),
        adapter_digest(&b.join("model"))
    );
    assert_eq!(
        fs::read(a.join("model/base.json")).unwrap(),
        fs::read(b.join("model/base.json")).unwrap()
    );
    assert_eq!(steps(&a), (1..=24).collect::<Vec<_>>());
    println!("adapter {}", adapter_digest(&a.join("model")));
}

#[test]
fn a_checkpoint_holds_the_adapter_and_nothing_of_its_base() {
    let home = Home::new();
    let slow = adapt("tiny", "rank = 4", "tuned").replace("steps = 6", "steps = 5000");
    home.write(RECIPE, format!("{TINY}{DATA}{slow}"));
    let mut run = home.spawn("runs");
    let first = || {
        let stage = home.stages("runs", "sft").pop();
        stage.and_then(|stage| {
            let entries = fs::read_dir(stage.join("checkpoints")).ok()?;
            let paths = entries.flatten().map(|entry| entry.path());
            paths
                .filter(|path| {
                    path.file_name()
                        .is_some_and(|n| !n.to_string_lossy().starts_with('.'))
                })
                .min()
        })
    };
    assert!(run.wait_until(|| first().is_some()));
    run.signal(libc::SIGKILL);
    run.finish();
    let bytes = fs::read(first().unwrap().join("weights.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), 28);
    assert!(file.names().iter().all(|name| name.contains(".lora_")));
}

#[test]
fn smollm2_learns_beside_its_weights_in_four_bits() {
    let home = Home::with_user_cache();
    // Both steps see the same tokens, so that their losses compare.
    home.write(
        "train.txt",
        "The mill stood by the river, and the miller's daughter kept the books.",
    );
    let stage = adapt("smol", "rank = 4, alpha = 8, base = \"nf4\"", "tuned")
        .replace("lr = 1e-2", "lr = 1e-3")
        .replace("steps = 6", "steps = 2\nschedule = { kind = \"constant\" }")
        .replace("tokens_per_step = 64", "tokens_per_step = 32");
    let eval = "[[stage]]\nkind = \"eval\"\ntask = \"perplexity\"\nmodels = [\"smol\", \"tuned\"]\ndata = \"heldout\"\n";
    let exports = export("tuned", "peft", "adapter") + &export("tuned", "safetensors", "merged");
    home.write(
        RECIPE,
        format!("seed = 7{SMOL}{DATA}{stage}{eval}{exports}"),
    );
    let output = home.run();
    assert_success(&output);
    assert!(stderr(&output).contains("on 210 layers of a model of 134,515,008"));
    let lines = metrics(&home.stage("runs", "sft"));
    let loss = |line: usize| lines[line]["loss"].as_f64().unwrap();
    println!("losses {} {}", loss(0), loss(1));
    assert!(loss(1) < loss(0));
    let scores = read_json(&home.stage("runs", "eval").join("scores.json"));
    let nll = |row: usize| scores["rows"][row]["nll"].as_f64().unwrap();
    println!("nll: smol {}, tuned {}", nll(0), nll(1));
    assert!((nll(1) - nll(0)).abs() < 1.0);

    let merged = home.logprobs(&["--model", "merged"]);
    let apart = home.logprobs(&["--model", "adapter"]);
    let difference = largest_difference(&merged, &apart);
    println!("merged and apart differ by {difference:e} nats");
    assert!(difference <= 2e-3, "{difference:e}");
}
