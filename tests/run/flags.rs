//! Flags with values that make no sense, and what help and messages say.

use crate::home::{Home, RECIPE, assert_failure, assert_success, stdout};

#[test]
fn numbers_out_of_their_range_are_usage_errors() {
    let home = Home::new();
    let generate = ["generate", "--model", "tiny", "--prompt", "a"];
    let score = ["score", "--model", "tiny", "--text", "a"];
    let eval = [
        "eval",
        "perplexity",
        "--model",
        "tiny",
        "--data",
        "heldout.txt",
    ];
    for (verb, flag, value, says) in [
        (
            &generate[..],
            "--top-p",
            "0",
            "a number above 0 and at most 1",
        ),
        (&generate, "--min-p", "1.5", "a number between 0 and 1"),
        (&generate, "--top-k", "0", "a whole number, 1 or more"),
        (&generate, "--temperature", "-1", "a number, zero or more"),
        (&generate, "--repetition-penalty", "0", "a number above 0"),
        (
            &generate,
            "--max-tokens",
            "0",
            "a whole number from 1 to 4294967295",
        ),
        (&generate, "--seed", "-1", "invalid digit"),
        (&score, "--top", "0", "a whole number, 1 or more"),
        (&eval, "--window", "1", "a whole number, 2 or more"),
        (&eval, "--stride", "0", "a whole number, 1 or more"),
        (&eval, "--limit", "0", "a whole number, 1 or more"),
        (&eval, "--limit", "-5", "a whole number, 1 or more"),
    ] {
        let output = home.distill(&[verb, &[flag, value]].concat());
        assert_failure(
            &output,
            2,
            &[&format!("invalid value '{value}' for '{flag} "), says],
        );
    }
}

#[test]
fn help_says_what_is_printed_and_taken() {
    let home = Home::new();
    let help = |verb| {
        let output = home.distill(&[verb, "--help"]);
        assert_success(&output);
        stdout(&output)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let eval = help("eval");
    assert!(
        eval.contains("nll_sum, nll, perplexity, bits_per_byte"),
        "{eval}"
    );
    let export = help("export");
    assert!(
        export.contains("f32, f16, bf16, q8_0") && !export.contains("Q8_0"),
        "{export}"
    );
    let output = home.distill(&[
        "eval",
        "perplexity",
        "--model",
        "tiny",
        "--data",
        "heldout.txt",
        "--json",
    ]);
    assert_success(&output);
    let printed: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    for key in printed.as_object().unwrap().keys() {
        assert!(eval.contains(key.as_str()), "{key}");
    }
}

#[test]
fn recipes_say_ranges_and_tables_in_plain_words() {
    let home = Home::new();
    let stage = |keys: &str| {
        home.write(
            RECIPE,
            format!("[models.tiny]\nsource = \"tiny\"\n[data.train]\nsource = \"train.txt\"\n[[stage]]\nteacher = \"tiny\"\n{keys}"),
        );
        home.run()
    };
    let large =
        stage("kind = \"generate\"\nprompts = \"train\"\nsampling = { max_tokens = 5000000000 }");
    let says = "expected a whole number from 0 to 4294967295, found `5000000000`";
    assert_failure(&large, 2, &[says, "r.toml:9"]);
    home.write(
        RECIPE,
        "[models.tiny]\nsource = \"tiny\"\n[data.train]\nsource = \"train.txt\"\n[[stage]]\nkind = \"quantize\"\n\
         model = \"tiny\"\nheldout = \"train\"\nmethod = { kind = \"awq\", bits = 4, group_size = 32, scaling = \"none\" }",
    );
    let says = "expected a table with the key `kind`, found string \"none\"";
    assert_failure(&home.run(), 2, &[says, "r.toml:9"]);
}
