//! Recipes that cannot be run: refused before anything is made.

use crate::home::{Home, RECIPE, assert_failure};

const GOOD: &str = r#"
[models.tiny]
source = "tiny"
[data.train]
source = "train.txt"
[[stage]]
kind = "sft"
model = "tiny"
data = "train"
steps = 2
"#;

#[test]
fn each_mistake_is_told_with_its_place() {
    let home = Home::new();
    for (right, wrong, parts) in [
        (
            "steps = 2",
            "stpes = 2",
            &[
                "unknown key `stpes`",
                "r.toml:10:1",
                "did you mean `steps`?",
            ][..],
        ),
        ("steps = 2", "steps = \"two\"", &["r.toml:10:9"]),
        (
            "\"sft\"",
            "\"stf\"",
            &[
                "unknown stage kind `stf`",
                "r.toml:7:8",
                "did you mean `sft`?",
            ],
        ),
        (
            "source = \"tiny\"",
            "source = \"tniy\"",
            &["`tniy` does not exist", "r.toml:3:10", "hint: "],
        ),
        (
            "model = \"tiny\"",
            "model = \"tinny\"",
            &["tinny", "r.toml:8:9", "tiny"],
        ),
        ("[[stage]]", "[[stage]", &["r.toml:6:"]),
    ] {
        home.write(RECIPE, GOOD.replace(right, wrong));
        assert_failure(&home.run(), 2, parts);
        assert!(!home.path("runs").exists(), "{wrong}");
    }
}

#[test]
fn a_recipe_that_is_not_there_and_a_device_that_is_not_there() {
    let home = Home::new();
    let missing = home.distill(&["run", "none.toml"]);
    assert_failure(
        &missing,
        1,
        &["cannot read the recipe none.toml: No such file"],
    );

    home.write(RECIPE, GOOD);
    let number = "cuda:4096";
    let device = home.distill(&["run", RECIPE, "--device", number]);
    let error = assert_failure(&device, 1, &["--device cuda:4096: "]);
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(!home.path("runs").exists());

    let place = home.distill(&["run", RECIPE, "--out", "train.txt"]);
    assert_failure(&place, 1, &["cannot create train.txt/r: "]);
}
