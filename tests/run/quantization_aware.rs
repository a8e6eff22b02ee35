//! Training for a coarser grid through the binary: what is trained is what is exported, whatever is killed on the way.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::json;

use crate::home::{
    Home, RECIPE, assert_failure, assert_success, metrics, read_json, stderr, stdout,
};
use crate::models::{SMOL, random};
use crate::weights::{digest, relative_difference};

const DATA: &str = r#"
[models.tiny]
source = "tiny"
[data.train]
source = "train.txt"
[data.heldout]
source = "heldout.txt"
"#;

/// `[[stage]]`: a model distilled from itself, as it was, with the key `quantization_aware`.
fn distill(model: &str, aware: &str, name: &str) -> String {
    format!(
        r#"
[[stage]]
kind = "distill"
student = "{model}"
teacher = "{model}"
data = "train"
heldout = "heldout"
loss = [{{ kind = "forward_kl" }}]
quantization_aware = {aware}
optimizer = {{ kind = "adamw", lr = 1e-3 }}
steps = 4
sequence_length = 32
tokens_per_step = 64
as = "{name}"
"#
    )
}

fn untied(model: &str) -> String {
    model.replace("tie_word_embeddings = true", "tie_word_embeddings = false")
}

fn nll(home: &Home, model: &str) -> f64 {
    let logprobs = home.logprobs(&["--model", model]);
    -logprobs.iter().sum::<f64>() / logprobs.len() as f64
}

fn quantize(model: &str, kind: &str, name: &str) -> String {
    format!(
        "[[stage]]\nkind = \"quantize\"\nmodel = \"{model}\"\nmethod = {{ kind = \"ggml\", type = \"{kind}\" }}\nheldout = \"heldout\"\nas = \"{name}\"\n"
    )
}

fn export(model: &str, kind: &str) -> String {
    format!(
        "[[stage]]\nkind = \"export\"\nmodel = \"{model}\"\nto = \"gguf\"\ntype = \"{kind}\"\npath = \"{model}.gguf\"\n"
    )
}

#[test]
fn the_exported_file_holds_what_was_trained() {
    let model = |width| random("fresh", width, 49152, "smol", 1);
    for (kind, model) in [
        ("q4_0", model(32)),
        ("q5_0", untied(&model(32))),
        ("q8_0", model(32)),
        // Rows of 48 values are not whole blocks; those of 96 are.
        ("q4_0", model(48)),
    ] {
        let home = Home::with_user_cache();
        let aware = format!("{{ kind = \"{kind}\", embedding = \"q8_0\", start = 0.25 }}");
        let stages = [
            distill("fresh", &aware, "aware"),
            quantize("fresh", kind, "rounded"),
            export("aware", kind),
            export("rounded", kind),
            "[[stage]]\nkind = \"eval\"\ntask = \"perplexity\"\nmodels = [\"rounded\", \"aware\"]\ndata = \"heldout\"\n".into(),
        ];
        home.write(
            RECIPE,
            format!("seed = 7{SMOL}{DATA}{model}{}", stages.concat()),
        );
        let output = home.run();
        assert_success(&output);
        let said = "weights are rounded from step 2 of 4 on";
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
        let title = format!("ggml, {}", kind.to_uppercase());
        assert!(stdout(&output).contains(&title), "{}", stdout(&output));

        let scores = read_json(&home.stage("runs", "eval").join("scores.json"));
        let aware = home.stage("runs", "distill");
        let rounded = home.stage("runs", "quantize");
        for (row, stage, file) in [(0, &rounded, "rounded"), (1, &aware, "aware")] {
            let model = stage.join("model");
            let exported = format!("{file}.gguf");
            let [made, read] = [model.to_str().unwrap(), &exported].map(|m| nll(&home, m));
            println!("{kind}, {file}: made {made}, exported {read}");
            assert!((made - read).abs() < 1e-4, "{kind}: {made} {read}");
            let evaluated = scores["rows"][row]["nll"].as_f64().unwrap();
            assert!((made - evaluated).abs() < 1e-4, "{made} {evaluated}");
            // Every value of the file is that of the stage's model.
            let back = format!("{file}.back");
            let verb = [
                "export",
                "--model",
                &exported,
                "--to",
                "safetensors",
                "--out",
                &back,
            ];
            assert_success(&home.distill(&verb));
            assert_eq!(
                relative_difference(&home.path(&back), &model),
                0.0,
                "{kind}"
            );
        }
        // Before rounding starts a model is its own teacher's equal.
        let lines = metrics(&aware);
        let losses = lines.iter().filter_map(|line| line["loss"].as_f64());
        let losses: Vec<f64> = losses.collect();
        println!("{kind}: {losses:?}");
        assert!(
            losses[0] < 1e-9 && losses[1] > losses[0] + 1e-9,
            "{losses:?}"
        );
    }
}

#[test]
fn activations_and_groups_of_four_bits_stay_with_the_result() {
    let home = Home::new();
    let fresh = random("fresh", 64, 80, "tiny", 1);
    let aware = "{ kind = \"8da4w\", group_size = 32, start = 0.5 }";
    let stages = distill("fresh", aware, "aware")
        + "[[stage]]\nkind = \"eval\"\ntask = \"perplexity\"\nmodels = [\"aware\"]\ndata = \"heldout\"\n";
    home.write(RECIPE, format!("seed = 7{DATA}{fresh}{stages}"));
    assert_success(&home.run());
    let model = home.stage("runs", "distill").join("model");
    let described = read_json(&model.join("quantization.json"));
    assert_eq!(
        described["method"],
        json!({ "kind": "8da4w", "group_size": 32 })
    );
    let layers = described["layers"].as_object().unwrap();
    assert_eq!(layers.len(), 3 * 7);
    for layer in layers.values() {
        let integer = json!({ "kind": "integer", "bits": 4, "group_size": 32, "reordered": false });
        assert_eq!(layer["codes"], integer);
        let per_token = json!({ "scheme": "zero_point", "range": "token", "outliers": 0 });
        assert_eq!(layer["activations"], per_token);
    }
    let path = model.to_str().unwrap();
    let quantized = nll(&home, path);
    let scores = read_json(&home.stage("runs", "eval").join("scores.json"));
    let evaluated = scores["rows"][0]["nll"].as_f64().unwrap();
    println!("8da4w: {quantized}, evaluated {evaluated}");
    assert!(
        (quantized - evaluated).abs() < 1e-4,
        "{quantized} {evaluated}"
    );
    for file in ["quantization.json", "quantization.safetensors"] {
        fs::remove_file(model.join(file)).unwrap();
    }
    assert_ne!(nll(&home, path), quantized);
}

#[test]
fn held_out_losses_are_those_of_rounded_weights_once_rounding_has_started() {
    let home = Home::new();
    let fresh = random("fresh", 64, 80, "tiny", 1);
    let heldout = |aware: &str, out: &str| -> Vec<f64> {
        let stage = distill("fresh", aware, "aware") + "evaluate_every = 1\n";
        home.write(RECIPE, format!("seed = 7{DATA}{fresh}{stage}"));
        assert_success(&home.distill(&["run", RECIPE, "--out", out]));
        let lines = metrics(&home.stage(out, "distill"));
        let losses = lines.iter().filter_map(|line| line["heldout_nll"].as_f64());
        losses.collect()
    };
    let from_the_start = heldout("{ kind = \"q4_0\" }", "start");
    let later = heldout("{ kind = \"q4_0\", start = 0.5 }", "later");
    assert_eq!([from_the_start.len(), later.len()], [5, 5]);
    assert_ne!(from_the_start[0], later[0]);
    // Until then nothing is learned from oneself; the losses after a step are those that the next one starts with.
    assert_eq!(later[0], later[2]);
    assert_ne!(later[2], later[3]);
}

const KILLED: &str = r#"
[[stage]]
kind = "prune"
model = "fresh"
keep_layers = [0, 2]
as = "start"
[[stage]]
kind = "distill"
student = "start"
teacher = "fresh"
data = "train"
heldout = "heldout"
evaluate_every = 5
loss = [{ kind = "forward_kl" }, { kind = "cross_entropy" }]
quantization_aware = { kind = "q4_0", start = 0.5 }
steps = 24
sequence_length = 64
tokens_per_step = 256
checkpoint_every = 2
as = "aware"
"#;

/// Steps that `metrics.jsonl` tells of.
fn steps_done(stage: &Path) -> usize {
    let text = fs::read_to_string(stage.join("metrics.jsonl")).unwrap_or_default();
    text.lines()
        .filter(|line| line.contains("\"loss\""))
        .count()
}

#[test]
fn kills_before_and_after_rounding_starts_change_no_bit() {
    let home = Home::new();
    let fresh = random("fresh", 64, 80, "tiny", 1);
    home.write(RECIPE, format!("seed = 7{DATA}{fresh}{KILLED}"));
    assert_success(&home.distill(&["run", RECIPE, "--out", "undisturbed"]));
    let mut killed = Vec::new();
    for threshold in [3, 9, 11, 12, 13, 17, 21] {
        let mut run = home.spawn("killed");
        let done = || {
            let stage = home.stages("killed", "distill").pop();
            stage.map_or(0, |stage| steps_done(&stage))
        };
        if run.wait_until(|| done() >= threshold) && run.ended().is_none() {
            run.signal(libc::SIGKILL);
            killed.push(done());
        }
        run.finish();
    }
    println!("killed after {killed:?}");
    let around = |range: std::ops::Range<usize>| killed.iter().any(|at| range.contains(at));
    assert!(around(1..12) && around(12..24), "{killed:?}");
    assert_success(&home.distill(&["run", RECIPE, "--out", "killed"]));
    let [a, b] = ["killed", "undisturbed"].map(|out| home.stage(out, "distill").join("model"));
    assert_eq!(digest(&a), digest(&b));
}

#[test]
fn a_checkpoint_holds_the_weights_that_are_trained_not_the_rounded_ones() {
    let home = Home::new();
    let fresh = random("fresh", 64, 80, "tiny", 1);
    let slow = distill("fresh", "{ kind = \"q4_0\" }", "aware").replace(
        "steps = 4",
        "steps = 5000\ncheckpoint_every = 2\nkeep_checkpoints = 1000",
    );
    home.write(RECIPE, format!("seed = 7{DATA}{fresh}{slow}"));
    let mut run = home.spawn("runs");
    let first = || {
        let stage = home.stages("runs", "distill").pop()?;
        let path = stage.join("checkpoints/step-00000002/weights.safetensors");
        fs::read(path).ok()
    };
    assert!(run.wait_until(|| first().is_some()));
    let bytes = first();
    run.signal(libc::SIGKILL);
    run.finish();
    let bytes = bytes.unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let tensor = file.tensor(name).unwrap();
    // A block of rounded values has 16 different ones at most.
    let values = tensor.data()[..32 * 4].chunks(4);
    let different: BTreeSet<&[u8]> = values.collect();
    assert!(different.len() > 16, "{different:?}");
}

#[test]
fn what_makes_no_sense_is_told_with_its_place() {
    let home = Home::new();
    let fresh = random("fresh", 48, 80, "tiny", 1);
    for (aware, code, parts) in [
        (
            "{ kind = \"q3\" }",
            2,
            &["`q3`", "q4_0, q5_0, q8_0, 8da4w", "r.toml:"][..],
        ),
        (
            "{ start = 0.5 }",
            2,
            &["missing key `kind`", "q4_0, q5_0, q8_0, 8da4w"],
        ),
        (
            "{ kind = \"q4_0\", start = 1.0 }",
            2,
            &["`start`", "below 1", "r.toml:"],
        ),
        (
            "{ kind = \"q4_0\", start = -0.1 }",
            2,
            &["`start`", "at least 0"],
        ),
        (
            "{ kind = \"q4_0\", embedding = \"q4_0\" }",
            2,
            &["`q4_0`", "q8_0"],
        ),
        (
            "{ kind = \"q4_0\", group_size = 32 }",
            2,
            &["unknown key `group_size`"],
        ),
        (
            "{ kind = \"q4_0\" }\nadapter = { kind = \"lora\" }",
            2,
            &["`quantization_aware`", "`adapter`", "hint: keep one"],
        ),
        (
            "{ kind = \"8da4w\", group_size = 0 }",
            2,
            &["`group_size` must be at least 1"],
        ),
        (
            "{ kind = \"8da4w\", group_size = 32, start = 0.5 }",
            1,
            &[
                "`quantization_aware`",
                "model.layers.0.self_attn.q_proj.weight: a row of 48 values",
                "hint: `group_size` has to divide 48\n",
            ],
        ),
    ] {
        let stage = distill("fresh", aware, "aware");
        home.write(RECIPE, format!("seed = 7{DATA}{fresh}{stage}"));
        assert_failure(&home.run(), code, parts);
        let stages = home.stages("runs", "distill");
        assert!(stages.iter().all(|stage| !stage.join("model").exists()));
    }
}
