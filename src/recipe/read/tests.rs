use super::*;
use crate::recipe::document::Document;

#[derive(Debug, Deserialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Shape {
    Point,
    Circle {
        radius: f64,
        #[serde(default)]
        name: Option<String>,
    },
}

#[derive(Debug, Deserialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Drawing {
    shape: Shape,
    #[serde(default)]
    sizes: Vec<u32>,
    #[serde(default)]
    corners: Vec<[f64; 2]>,
}

fn drawing(text: &str) -> Result<Drawing, String> {
    let mut document = Document::default();
    let node = document.parse("d", text).unwrap();
    read(&node).map_err(|problem| document.error(problem).to_string())
}

#[test]
fn reads_tagged_tables() {
    let circle = drawing("sizes = [1, 2]\nshape = { radius = 2, kind = \"circle\" }").unwrap();
    assert_eq!(circle.sizes, [1, 2]);
    assert_eq!(
        circle.shape,
        Shape::Circle {
            radius: 2.0,
            name: None
        }
    );
    assert_eq!(
        drawing("shape = { kind = \"point\" }").unwrap().shape,
        Shape::Point
    );
    assert_eq!(drawing("shape = \"point\"").unwrap().shape, Shape::Point);
}

#[test]
fn errors_name_the_place_and_the_accepted_names() {
    for (text, wanted) in [
        (
            "shape = { kind = \"circel\" }",
            "unknown value `circel`\n --> d:1:18",
        ),
        (
            "shape = { kind = \"circel\" }",
            "accepted: point, circle\nhint: did you mean `circle`?",
        ),
        ("shape = { radius = 1.0 }", "missing key `kind`\n --> d:1:9"),
        (
            "shape = { kind = \"circle\" }",
            "missing key `radius`\n --> d:1:18",
        ),
        (
            "shape = { kind = \"circle\", raduis = 1 }",
            "unknown key `raduis`\n --> d:1:28",
        ),
        (
            "shape = { kind = \"circle\", radius = \"a\" }",
            "expected a number, found string \"a\"",
        ),
        (
            "shape = { kind = \"point\", x = 1 }",
            "unknown key `x`: `point` takes none",
        ),
        ("shape = 3", "expected a table with the key `kind`"),
        (
            "shape = \"point\"\nsizes = [1, -2]",
            "expected a whole number from 0 to 4294967295, found `-2`\n --> d:2:13",
        ),
        (
            "shape = \"point\"\nsizes = 3",
            "expected a list, found `3`\n --> d:2:9\n  |\n2 | sizes = 3\n  |         ^\nhint: put it in brackets: [ … ]",
        ),
        (
            "shape = \"point\"\nsizes = [1e3]",
            "found `1000.0`\n --> d:2:10\n  |\n2 | sizes = [1e3]\n  |          ^^^\nhint: write 1000",
        ),
        ("shap = \"point\"", "hint: did you mean `shape`?"),
        (
            "shape = \"point\"\ncorners = [[1, 2], [3, 4, \"x\"]]",
            "a list of 2 is wanted here, this one has 3\n --> d:2:27",
        ),
        (
            "shape = \"point\"\ncorners = [[1]]",
            "expected an array of length 2, found 1 elements\n --> d:2:12",
        ),
    ] {
        let error = drawing(text).unwrap_err();
        assert!(error.contains(wanted), "{text}\n{error}");
    }
}

#[test]
fn parts_share_a_table() {
    #[derive(Debug, Deserialize, JsonSchema)]
    struct Left {
        size: u32,
    }
    #[derive(Debug, Deserialize, JsonSchema)]
    struct Right {
        weight: u32,
    }
    let mut document = Document::default();
    let node = document.parse("d", "weight = 2\nsize = 1").unwrap();
    let mut parts = Parts::new(&node).unwrap();
    let (left, right) = (
        parts.take::<Left>().unwrap(),
        parts.take::<Right>().unwrap(),
    );
    parts.finish(&[]).unwrap();
    assert_eq!((left.size, right.weight), (1, 2));

    let node = document.parse("d", "weight = 2\nsiez = 1").unwrap();
    let mut parts = Parts::new(&node).unwrap();
    assert!(parts.take::<Left>().is_err());
    parts.take::<Right>().unwrap();
    let problem = parts.finish(&[]).unwrap_err();
    assert_eq!(problem.accepted, ["size", "weight"]);
    assert_eq!(problem.hint.as_deref(), Some("did you mean `size`?"));
}
