//! Stages against what they use: of earlier stages, models and data.

use super::{NAMES, parse};

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
