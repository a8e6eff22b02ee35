//! Rendered conversations against transformers; `golden/make_chat_templates.py` made them.

use datasets::chat_template::ChatTemplate;
use datasets::sample::Message;
use serde_json::Value;

#[test]
fn templates_render_as_in_transformers() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/chat_templates.json"
    );
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let token = |key: &str| golden["special"][key].as_str().unwrap().to_string();
    let mut wrong = Vec::new();
    for case in golden["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let source = golden["templates"][name].as_str().unwrap();
        let special = vec![
            ("bos_token", token("bos_token")),
            ("eos_token", token("eos_token")),
        ];
        let template = ChatTemplate::new(source, special).unwrap();
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let rendered = template.render(&messages, case["generation"].as_bool().unwrap());
        match (rendered, case["text"].as_str()) {
            (Ok(text), Some(expected)) if text == expected => {}
            (Err(error), None) if error.to_string().contains(case["error"].as_str().unwrap()) => {}
            (rendered, expected) => {
                wrong.push(format!("{name}: {rendered:?}\nexpected {expected:?}"))
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of the cases differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
