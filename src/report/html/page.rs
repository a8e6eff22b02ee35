//! What a report is made of.

use serde::Serialize;

use super::chart::Chart;

#[derive(Debug, Serialize)]
pub struct Page {
    pub title: String,
    /// Of each run.
    pub facts: Vec<Facts>,
    /// What is missing, or went wrong.
    pub notices: Vec<String>,
    pub sections: Vec<Section>,
    pub version: &'static str,
}

#[derive(Debug, Serialize)]
pub struct Facts {
    pub title: String,
    pub rows: Vec<(String, String)>,
}

#[derive(Debug, Serialize)]
pub struct Section {
    pub id: &'static str,
    pub title: &'static str,
    pub parts: Vec<Part>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Part {
    Heading {
        text: String,
    },
    Text {
        text: String,
    },
    Table(Table),
    Charts {
        charts: Vec<Chart>,
    },
    Samples {
        title: String,
        samples: Vec<Sample>,
    },
    Code {
        title: String,
        text: String,
        open: bool,
    },
}

#[derive(Debug, Default, Serialize)]
pub struct Table {
    pub title: String,
    pub heads: Vec<Head>,
    pub rows: Vec<Vec<String>>,
    pub remarks: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Head {
    pub name: String,
    pub number: bool,
}

#[derive(Debug, Serialize)]
pub struct Sample {
    pub title: String,
    pub pieces: Vec<Piece>,
    pub note: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Piece {
    pub text: String,
    pub style: Style,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    Plain,
    /// Read, not learned.
    Masked,
    Learned,
    /// What the following text is.
    Label,
}

/// How much of long things is shown.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Buckets of a curve; each has its least and its greatest value.
    pub buckets: usize,
    pub charts: usize,
    pub rows: usize,
    pub samples: usize,
    /// Characters of a sample, of a cell, of a recipe.
    pub text: usize,
    pub cell: usize,
    pub recipe: usize,
}

impl Limits {
    /// From generous to very small.
    pub fn falling() -> impl Iterator<Item = Self> {
        (0..10).map(|halvings| {
            let least = |most: usize, least: usize| (most >> halvings).max(least);
            Self {
                buckets: least(300, 8),
                charts: least(400, 4),
                rows: least(500, 8),
                samples: least(4, 1),
                text: least(2400, 40),
                cell: least(400, 40),
                recipe: least(120_000, 2000),
            }
        })
    }
}

impl Section {
    pub fn new(id: &'static str, title: &'static str) -> Self {
        let parts = Vec::new();
        Self { id, title, parts }
    }

    pub fn text(&mut self, text: impl Into<String>) {
        let text = text.into();
        self.parts.push(Part::Text { text });
    }

    /// Adds a table that has rows.
    pub fn table(&mut self, mut table: Table, limits: &Limits) {
        if table.rows.is_empty() {
            return;
        }
        if let Some(beyond) = table.rows.len().checked_sub(limits.rows).filter(|n| *n > 0) {
            table.rows.truncate(limits.rows);
            table.remarks.push(format!("… {beyond} more rows"));
        }
        let texts = (table.rows.iter_mut().flatten()).chain(&mut table.remarks);
        texts.for_each(|text| *text = cut(text, limits.cell));
        table
            .heads
            .iter_mut()
            .for_each(|head| head.name = cut(&head.name, limits.cell));
        self.parts.push(Part::Table(table));
    }

    /// Adds what `make` makes of each run, below its name where there are two.
    pub fn each<R>(&mut self, runs: &[R], label: fn(&R) -> &str, make: impl Fn(&R, &mut Self)) {
        for run in runs {
            let before = self.parts.len();
            make(run, self);
            if runs.len() > 1 && self.parts.len() > before {
                let text = label(run).to_string();
                self.parts.insert(before, Part::Heading { text });
            }
        }
    }
}

impl Table {
    /// Names of columns; those that begin with `#` hold numbers.
    pub fn new(title: impl Into<String>, heads: &[&str]) -> Self {
        let heads = heads.iter().map(|name| match name.strip_prefix('#') {
            Some(name) => Head::number(name),
            None => Head::text(*name),
        });
        Self {
            title: title.into(),
            heads: heads.collect(),
            ..Self::default()
        }
    }

    pub fn row<const N: usize>(&mut self, row: [String; N]) {
        self.rows.push(row.into());
    }
}

impl Head {
    pub fn text(name: impl Into<String>) -> Self {
        let (name, number) = (name.into(), false);
        Self { name, number }
    }

    pub fn number(name: impl Into<String>) -> Self {
        let (name, number) = (name.into(), true);
        Self { name, number }
    }
}

/// The beginning of a text, with a sign where it is cut.
pub fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

/// A number with as many digits as say something.
pub fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => value.to_string(),
        0.0 => "0".to_string(),
        _ if !(1e-4..1e9).contains(&size) => format!("{value:.3e}"),
        _ if size >= 1000.0 => format!("{value:.0}"),
        _ if size >= 100.0 => format!("{value:.1}"),
        _ if size >= 0.1 => format!("{value:.4}"),
        _ => format!("{value:.6}"),
    }
}
