//! Python source: whether it is Python 3, and what stands in it. Nothing is ever run.
//!
//! tree-sitter reads what is half right, too, and knows nothing of indentation once blocks are found. What it lets pass
//! and CPython's parser refuses is looked for in the tree: see [`objection`].

use std::ops::Range;

use tree_sitter::{Node, Parser, Tree};

/// A statement of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub kind: Kind,
    /// Bytes, decorators included.
    pub range: Range<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Import,
    Function(Function),
    Class,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    /// Bytes of the string that its body begins with.
    pub docstring: Option<Range<usize>>,
    /// Whether there is more in its body than the docstring, `pass` and `...`.
    pub does_something: bool,
}

/// Why a text is no Python 3, with the line, if it is not.
pub fn objection(text: &str) -> Option<String> {
    match parse(text) {
        Some(tree) => find_objection(&tree, text),
        None => Some("it cannot be read".into()),
    }
}

/// The statements of a module, comments left out.
///
/// # Errors
/// What [`objection`] says.
pub fn statements(text: &str) -> Result<Vec<Statement>, String> {
    let tree = parse(text).ok_or("it cannot be read")?;
    match find_objection(&tree, text) {
        Some(objection) => Err(objection),
        None => Ok(outline(&tree, text)),
    }
}

/// Functions and classes at the top of a file; what is wrong elsewhere in it does not matter.
pub fn definitions(text: &str) -> Vec<Range<usize>> {
    let statements = parse(text).map(|tree| outline(&tree, text));
    let statements = statements.into_iter().flatten();
    let is_definition = |kind: &Kind| matches!(kind, Kind::Function(_) | Kind::Class);
    statements
        .filter(|statement| is_definition(&statement.kind))
        .map(|statement| statement.range)
        .collect()
}

fn parse(text: &str) -> Option<Tree> {
    let mut parser = Parser::new();
    parser
        .set_language(&tree_sitter_python::LANGUAGE.into())
        .ok()?;
    parser.parse(text, None)
}

fn children(node: Node<'_>) -> Vec<Node<'_>> {
    let all = (0..node.named_child_count()).filter_map(|at| node.named_child(at));
    all.filter(|child| child.kind() != "comment").collect()
}

fn outline(tree: &Tree, text: &str) -> Vec<Statement> {
    let statement = |node: Node| {
        let defined = match node.kind() {
            "decorated_definition" => node.child_by_field_name("definition").unwrap_or(node),
            _ => node,
        };
        let kind = match defined.kind() {
            "import_statement" | "import_from_statement" | "future_import_statement" => {
                Kind::Import
            }
            "function_definition" => Kind::Function(function(defined, text)),
            "class_definition" => Kind::Class,
            _ => Kind::Other,
        };
        let range = node.byte_range();
        Statement { kind, range }
    };
    children(tree.root_node())
        .into_iter()
        .map(statement)
        .collect()
}

fn function(node: Node, text: &str) -> Function {
    let name = node.child_by_field_name("name");
    let body = node
        .child_by_field_name("body")
        .map(children)
        .unwrap_or_default();
    let docstring = body.first().and_then(|first| match first.kind() {
        "expression_statement" => children(*first).first().copied(),
        _ => None,
    });
    // Bytes and f-strings are none, raw or not.
    let is_plain = |node: &Node| {
        let prefix = text[node.byte_range()].split(['"', '\'']).next();
        node.kind() == "string" && matches!(prefix, Some("" | "r" | "R" | "u" | "U"))
    };
    let docstring = docstring.filter(is_plain).map(|node| node.byte_range());
    let says_nothing = |node: &Node| {
        let text = text[node.byte_range()].trim();
        node.kind() == "pass_statement" || text == "..."
    };
    let rest = &body[usize::from(docstring.is_some()).min(body.len())..];
    Function {
        name: name.map_or_else(String::new, |name| text[name.byte_range()].to_string()),
        docstring,
        does_something: !rest.iter().all(says_nothing),
    }
}

/// The first in the order of the text, of nodes that are wrong in themselves.
fn find_objection(tree: &Tree, text: &str) -> Option<String> {
    let mut cursor = tree.walk();
    loop {
        let node = cursor.node();
        if let Some(what) = wrong(node, text) {
            return Some(format!("line {}: {what}", node.start_position().row + 1));
        }
        if cursor.goto_first_child() {
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return None;
            }
        }
    }
}

fn wrong(node: Node, text: &str) -> Option<&'static str> {
    if node.is_error() || node.is_missing() {
        return Some("no Python");
    }
    let named = || children(node);
    match node.kind() {
        "print_statement" | "exec_statement" => Some("a statement of Python 2"),
        "module" => (!is_aligned(&named(), Some(0))).then_some("wrong indentation"),
        "block" => {
            let statements = named();
            let header = node.parent()?.start_position();
            let Some(first) = statements.first().map(Node::start_position) else {
                return Some("a block without statements");
            };
            let is_inside = first.row == header.row
                || is_on_the_line_of_its_colon(node)
                || first.column > header.column;
            (!is_inside || !is_aligned(&statements, None)).then_some("wrong indentation")
        }
        "elif_clause"
        | "else_clause"
        | "except_clause"
        | "except_group_clause"
        | "finally_clause" => {
            let column = node.parent()?.start_position().column;
            (node.start_position().column != column).then_some("wrong indentation")
        }
        "try_statement" => {
            let ends = ["except_clause", "except_group_clause", "finally_clause"];
            let is_whole = named().iter().any(|child| ends.contains(&child.kind()));
            (!is_whole).then_some("`try` without `except` or `finally`")
        }
        "argument_list" => {
            let is_named =
                |node: &Node| ["keyword_argument", "dictionary_splat"].contains(&node.kind());
            let arguments = named();
            let first = arguments
                .iter()
                .position(is_named)
                .unwrap_or(arguments.len());
            let late = |node: &Node| !is_named(node) && node.kind() != "list_splat";
            (arguments[first..].iter().any(late))
                .then_some("a positional argument after a named one")
        }
        "parameters" | "lambda_parameters" => wrong_parameters(&named()),
        "integer" => {
            let digits = &text[node.byte_range()];
            let leading =
                digits.len() > 1 && digits.bytes().all(|b| b.is_ascii_digit() || b == b'_');
            let nonzero = digits.bytes().any(|b| matches!(b, b'1'..=b'9'));
            (leading && digits.starts_with('0') && nonzero)
                .then_some("a number with a leading zero")
        }
        _ => None,
    }
}

/// `if x: y`, with a header of several lines.
fn is_on_the_line_of_its_colon(block: Node) -> bool {
    let before = block.prev_sibling();
    before.is_some_and(|colon| colon.end_position().row == block.start_position().row)
}

/// Whether statements that begin a line do so in one column.
fn is_aligned(statements: &[Node], column: Option<usize>) -> bool {
    let first = statements
        .first()
        .map(|first| first.start_position().column);
    let Some(column) = column.or(first) else {
        return true;
    };
    let begins_a_line = |at: usize| {
        at == 0 || statements[at].start_position().row > statements[at - 1].end_position().row
    };
    (0..statements.len())
        .filter(|&at| begins_a_line(at))
        .all(|at| statements[at].start_position().column == column)
}

fn wrong_parameters(parameters: &[Node]) -> Option<&'static str> {
    if parameters
        .last()
        .is_some_and(|last| last.kind() == "keyword_separator")
    {
        return Some("nothing follows `*`");
    }
    let mut has_default = false;
    for parameter in parameters {
        let splat = |node: &Node| node.kind().ends_with("splat_pattern");
        match parameter.kind() {
            "default_parameter" | "typed_default_parameter" => has_default = true,
            "keyword_separator" => return None,
            _ if splat(parameter) => return None,
            "typed_parameter" if children(*parameter).first().is_some_and(splat) => return None,
            "identifier" | "typed_parameter" if has_default => {
                return Some("a parameter without a default after one with it");
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdicts are those of CPython 3.11's `ast.parse`.
    #[test]
    fn what_cpython_refuses_is_refused() {
        for text in [
            "x = 1\n  y = 2\n",
            "  x = 1\n",
            "def f():\nreturn 1\n",
            "def f():\n    x=1\n  y=2\n",
            "def f():\n    x=1\n      y=2\n",
            "def f():\n\tx=1\n        y=2\n",
            "def f():\n    # nothing\n",
            "if x:\n    y\n  else:\n    z\n",
            "if x:\n\n",
            "for i in y:\n",
            "while x:\npass\n",
            "class A:\n",
            "print 'x'\n",
            "exec 'x'\n",
            "x = = 1\n",
            "def f(:\n  pass\n",
            "def f(*): pass\n",
            "def f(a=1, b): pass\n",
            "lambda a=1, b: a\n",
            "f(a=1, 2)\n",
            "'abc\n",
            "\"\"\"abc\n",
            "(1,2\n",
            "1 = x\n",
            "f() = 3\n",
            "x = {1: 2, 3}\n",
            "x = 0123\n",
            "else:\n  pass\n",
            "a b\n",
            "try:\n  pass\n",
            "f'{x'\n",
            "import a.b as\n",
            "x: int = \n",
            "return return\n",
            "Here is the function:\n",
            "```python\nx = 1\n```\n",
            "def f():\n    return 1\n}\n",
            "if True\n    x = 1\n",
            "for in x: pass\n",
        ] {
            assert!(objection(text).is_some(), "{text}");
        }
    }

    #[test]
    fn what_cpython_reads_is_read() {
        for text in [
            "",
            "# only a comment\n",
            "\n\n  # indented comment\nx = 1\n",
            "x = 1; y = 2\n",
            "if x: y = 1\nelse: y = 2\n",
            "if (x and\n    y): z = 1\n",
            "def f(a, b=1, *c, d, e=2, **g): pass\n",
            "def f(a, /, b, *, c): return (a,\n  b, c)\n",
            "def f(*args: int, k: int): ...\n",
            "f(1, *a, b=2, *c, **d)\n",
            "async def f():\n    async with a as b:\n        await c\n",
            "try:\n    x\nexcept* E:\n    y\n",
            "try:\n    x\nfinally:\n    y\n",
            "match x:\n    case [1, *r]:\n        pass\n    case _:\n        pass\n",
            "x = '''a\n  b\n c'''; y = 2\nz = 3\n",
            "def f():\n    \"\"\"Doc.\"\"\"\n    # c\n\n  # odd comment\n    return f'{1:>{2}}'\n",
            "@a\n@b(1)\nclass C(D, metaclass=E):\n    x: int = 1\n\n    def f(self): return self\n",
            "x = [i for i in range(10) if i % 2]\ny = {**a, 'b': 0x1F, 'c': 00, 'd': 1_000}\n",
            "while (n := g()):\n\tif n:\n\t\tbreak\n\telse:\n\t\tcontinue\n",
            "print('x', end='')\nprint(1)\n",
            "def f() -> 'int':\n    return 한글 + é\n",
            "for x in y:\n  z\nelse:\n  w\n",
            "x = 1 if y else 2\nassert x, 'no'\nraise E from None\n",
            "with (open('a') as b, open('c') as d):\n    pass\n",
            "def f(x):\r\n    return x\r\n",
        ] {
            assert_eq!(objection(text), None, "{text}");
        }
    }

    #[test]
    fn odd_texts_are_read_to_their_end() {
        let deep = "(".repeat(100_000);
        let nested = format!("{}1{}\n", "(".repeat(3000), ")".repeat(3000));
        for text in ["\0", "🦀", &deep, &nested, "\\\n", "\t\n"] {
            let _ = objection(text);
            let _ = definitions(text);
        }
        assert!(objection(&deep).is_some());
    }

    #[test]
    fn a_module_is_its_statements() {
        let text = "import os\n\n@cache\ndef f(x):\n    r\"\"\"Doc.\"\"\"\n    return x\n\ndef g():\n    'doc'\n    pass\n\nclass A:\n    pass\n\nx = f(1)\n";
        let found = statements(text).unwrap();
        assert_eq!(found.len(), 5);
        assert_eq!(found[0].kind, Kind::Import);
        let Kind::Function(f) = &found[1].kind else {
            panic!("{found:?}")
        };
        assert_eq!(f.name, "f");
        assert_eq!(&text[f.docstring.clone().unwrap()], "r\"\"\"Doc.\"\"\"");
        assert!(f.does_something);
        assert!(text[found[1].range.clone()].starts_with("@cache"));
        let Kind::Function(g) = &found[2].kind else {
            panic!("{found:?}")
        };
        assert!(g.docstring.is_some() && !g.does_something);
        assert_eq!(
            (&found[3].kind, &found[4].kind),
            (&Kind::Class, &Kind::Other)
        );
        // `ast.get_docstring` of CPython 3.11 finds one in the first four.
        let prefixes = ["", "R", "u", "U", "b", "rb", "Br", "f", "rf", "fR"];
        let documented = prefixes.map(|prefix| {
            let text = format!("def f():\n    {prefix}'''doc'''\n    return 1\n");
            match &statements(&text).unwrap()[0].kind {
                Kind::Function(f) => f.docstring.is_some(),
                other => panic!("{other:?}"),
            }
        });
        let expected: Vec<bool> = (0..10).map(|at| at < 4).collect();
        assert_eq!(documented.to_vec(), expected);
        let broken = format!("{text}\ny = = 2\ndef h():\n    return 3\n");
        let found = definitions(&broken);
        assert_eq!(found.len(), 4);
        assert!(broken[found[3].clone()].starts_with("def h"));
    }
}
