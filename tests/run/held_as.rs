//! `held_as` of a declared model: the form of its matrices where it is only read.

use serde_json::json;

use crate::home::{Home, RECIPE, assert_failure, assert_success, metrics, read_json, stdout};
use crate::models::random;

const HEAD: &str = r#"
seed = 3
[models.tiny]
source = "tiny"
[data.train]
source = "train.txt"
[data.heldout]
source = "heldout.txt"
"#;

/// A home with a model of three layers in `wide`, of which each row can be cut into blocks of 64.
fn home() -> Home {
    let home = Home::new();
    let stage =
        "[[stage]]\nkind = \"export\"\nmodel = \"fresh\"\nto = \"safetensors\"\nas = \"stored\"\n";
    let recipe = [HEAD, &random("fresh", 64, 80, "tiny", 1), stage].concat();
    home.write("store.toml", recipe);
    assert_success(&home.distill(&["run", "store.toml"]));
    let lineage = read_json(&home.path("runs/store/lineage.json"));
    let directory = lineage["stages"][0]["directory"].as_str().unwrap();
    let stored = home.path("runs/store").join(directory).join("model");
    std::fs::rename(stored, home.path("wide")).unwrap();
    home
}

fn model(name: &str, held_as: &str) -> String {
    format!("[models.{name}]\nsource = \"wide\"\n{held_as}\n")
}

fn distill(teacher: &str, name: &str) -> String {
    format!(
        r#"
[[stage]]
kind = "distill"
student = "dense"
teacher = "{teacher}"
data = "train"
steps = 2
sequence_length = 32
tokens_per_step = 64
loss = [{{ kind = "forward_kl" }}]
as = "{name}"
"#
    )
}

#[test]
fn a_teacher_in_4_bits_is_the_one_that_quantize_makes() {
    let home = home();
    let models = [
        model("dense", ""),
        model("same", r#"held_as = "as_stored""#),
        model("four", r#"held_as = "nf4""#),
    ];
    let stages = r#"
[[stage]]
kind = "quantize"
model = "dense"
method = "nf4"
heldout = "heldout"
window = 64
as = "made"
[[stage]]
kind = "eval"
task = "perplexity"
models = ["dense", "same", "four", "made"]
data = "heldout"
window = 64
"#;
    let distilled = [distill("four", "of_held"), distill("made", "of_made")].concat();
    home.write(
        RECIPE,
        [HEAD, &models.concat(), stages, &distilled].concat(),
    );
    let output = home.run();
    assert_success(&output);
    println!("{}", stdout(&output));
    let scores = read_json(&home.stage("runs", "eval").join("scores.json"));
    let nll = |row: usize| scores["rows"][row]["nll"].as_f64().unwrap();
    let [dense, same, four, made] = [0, 1, 2, 3].map(nll);
    assert_eq!(dense, same);
    assert!((four - made).abs() < 1e-6 * made, "{four} {made}");
    assert!((four - dense).abs() > 1e-5, "{four} {dense}");
    let losses = home.stages("runs", "distill").into_iter().map(|stage| {
        let lines = metrics(&stage).into_iter();
        let losses = lines.filter_map(|line| line["loss"].as_f64());
        losses.collect::<Vec<f64>>()
    });
    let losses: Vec<Vec<f64>> = losses.collect();
    assert_eq!(losses.len(), 2, "stages with other teachers are others");
    assert_eq!(losses[0].len(), 2);
    for (a, b) in losses[0].iter().zip(&losses[1]) {
        assert!((a - b).abs() < 1e-4 * a.abs(), "{losses:?}");
    }
}

#[test]
fn a_teacher_that_does_not_fit_may_be_held_in_4_bits() {
    let home = home();
    let stage = "[[stage]]\nkind = \"eval\"\ntask = \"perplexity\"\nmodels = [\"dense\"]\ndata = \"heldout\"\n";
    home.write(RECIPE, [HEAD, &model("dense", ""), stage].concat());
    let plan = |arguments: &[&str]| {
        let output = home.distill(&[&["plan", RECIPE, "--json", "--no-probe"], arguments].concat());
        serde_json::from_str::<serde_json::Value>(&stdout(&output)).unwrap()
    };
    let total = |plan: &serde_json::Value| plan["stages"][0]["memory"]["total"].as_u64().unwrap();
    let (dense, four) = (
        total(&plan(&[])),
        total(&plan(&["--set", r#"models.dense.held_as="nf4""#])),
    );
    assert!(four < dense, "{four} {dense}");
    let limit = (dense - 1).to_string();
    let changes = &plan(&["--memory", &limit])["changes"];
    assert_eq!(
        changes[0]["set"],
        json!([r#"models.dense.held_as="nf4""#]),
        "{changes}"
    );
}

#[test]
fn a_form_is_that_of_a_stored_model() {
    let home = home();
    let eval = "[[stage]]\nkind = \"eval\"\ntask = \"perplexity\"\nmodels = [\"fresh\"]\ndata = \"heldout\"\n";
    let fresh = random("fresh", 64, 80, "tiny", 1);
    let held = fresh.replacen("tokenizer =", "held_as = \"nf4\"\ntokenizer =", 1);
    home.write(RECIPE, [HEAD, &held, eval].concat());
    let parts = ["a random model has no other form than its own", "held_as"];
    assert_failure(&home.run(), 2, &parts);
    home.write(
        RECIPE,
        [HEAD, &model("fresh", r#"held_as = "nf5""#), eval].concat(),
    );
    let parts = ["unknown value `nf5`", "as_stored, nf4, f32", "`nf4`?"];
    assert_failure(&home.run(), 2, &parts);
    // Rows of 16 are no blocks of 64.
    let tiny = HEAD.replacen(
        "source = \"tiny\"",
        "source = \"tiny\"\nheld_as = \"nf4\"",
        1,
    );
    home.write(
        RECIPE,
        [tiny.as_str(), &eval.replace("fresh", "tiny")].concat(),
    );
    assert_failure(&home.run(), 1, &["64", "tiny"]);
}
