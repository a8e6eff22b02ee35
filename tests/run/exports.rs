//! A model exported to a place of the user's choice.

use std::fs;

use crate::home::{Home, RECIPE, assert_failure, assert_success};
use crate::weights::relative_difference;

const STAGES: &str = r#"
[models.tiny]
source = "tiny"
[[stage]]
kind = "export"
model = "tiny"
to = "safetensors"
path = "place/model"
"#;

#[test]
fn a_kill_before_the_record_is_made_up_for_and_what_others_wrote_is_left() {
    let home = Home::new();
    home.write(RECIPE, STAGES);
    assert_success(&home.run());
    let model = home.path("place/model");
    assert_eq!(relative_difference(&model, &home.path("tiny")), 0.0);

    // As a kill between the two would have left it.
    let record = home.stage("runs", "export").join("stage.json");
    fs::remove_file(&record).unwrap();
    assert_success(&home.run());
    assert!(record.exists());
    assert!(!home.stage("runs", "export").join("model").exists());

    fs::remove_file(&record).unwrap();
    home.write("place/model/generation_config.json", "{}");
    let parts = [
        "stage 1 (export): ",
        "place/model: exists already; remove it or choose another place",
    ];
    assert_failure(&home.run(), 1, &parts);
    assert_eq!(
        fs::read(model.join("generation_config.json")).unwrap(),
        b"{}"
    );
}
