//! How a step is cut and what it keeps in memory do not change what is learned.

use crate::home::{Home, RECIPE, assert_success};
use crate::models::{TINY_TOKENS, random};
use crate::weights::relative_difference;

const STAGES: &str = r#"
[data.train]
source = "train.txt"
[[stage]]
kind = "distill"
student = "student"
teacher = "teacher"
data = "train"
loss = [{ kind = "forward_kl", temperature = 2.0 }, { kind = "cross_entropy" }, { kind = "hidden_mse", layers = [[3, 3]] }]
optimizer = { kind = "adamw", lr = 1e-3 }
steps = 8
sequence_length = 32
tokens_per_step = 128
as = "result"
"#;

#[test]
fn microbatches_and_block_checkpoints_end_with_the_same_weights() {
    let home = Home::new();
    let models = random("teacher", 48, TINY_TOKENS, "tiny", 1)
        + &random("student", 32, TINY_TOKENS, "tiny", 2);
    home.write(
        RECIPE,
        format!("seed = 7\n[models.tiny]\nsource = \"tiny\"\n{models}{STAGES}"),
    );
    let result = |out: &str, set: &str| {
        let set = format!("stage.result.{set}");
        assert_success(&home.distill(&["run", RECIPE, "--out", out, "--set", &set]));
        home.stage(out, "distill").join("model")
    };
    let reference = result("four", "micro_batch=4");
    for (out, set) in [
        ("one", "micro_batch=1"),
        ("two", "micro_batch=2"),
        ("blocks", "checkpoint_blocks=true"),
    ] {
        let difference = relative_difference(&result(out, set), &reference);
        println!("{set}: {difference:.2e}");
        assert!(difference <= 1e-4, "{set}: {difference:.2e}");
    }
}
