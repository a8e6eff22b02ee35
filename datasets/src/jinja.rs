//! What chat templates expect of Jinja beyond minijinja: Python's printing, JSON and dates.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// `{% generation %}` marks the assistant's text for a mask; here it is a block like any other.
pub(crate) fn without_generation_blocks(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let end = start + length + 2;
        let tag = &rest[start + 2..end - 2];
        let word = tag.trim_matches(['-', '+', ' ', '\t', '\r', '\n']);
        result.push_str(&rest[..start]);
        match word {
            "generation" => result.push_str(&format!("{{%{}%}}", tag.replacen(word, "if true", 1))),
            "endgeneration" => {
                result.push_str(&format!("{{%{}%}}", tag.replacen(word, "endif", 1)))
            }
            _ => result.push_str(&rest[start..end]),
        }
        rest = &rest[end..];
    }
    result.push_str(rest);
    result
}

/// Prints what Python prints: `True`, `False` and `None`.
pub(crate) fn format_value(
    output: &mut minijinja::Output,
    state: &minijinja::State,
    value: &Value,
) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Bool => output.write_str(if value.is_true() { "True" } else { "False" })?,
        ValueKind::None => output.write_str("None")?,
        _ => return minijinja::escape_formatter(output, state, value),
    }
    Ok(())
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`: `", "` and `": "` between, no HTML escapes.
pub(crate) fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    for ignored in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = options.get(ignored)?;
    }
    options.assert_all_used()?;
    let value = serde_json::to_value(value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let mut text = String::new();
    write_json(&mut text, &value, indent, 0);
    Ok(Value::from_safe_string(text))
}

fn write_json(out: &mut String, value: &serde_json::Value, indent: Option<usize>, depth: usize) {
    let line = |out: &mut String, depth: usize, first: bool| match indent {
        Some(width) => {
            out.push_str(if first { "\n" } else { ",\n" });
            out.push_str(&" ".repeat(width * depth));
        }
        None if first => {}
        None => out.push_str(", "),
    };
    let close = |out: &mut String| {
        if let Some(width) = indent {
            out.push('\n');
            out.push_str(&" ".repeat(width * depth));
        }
    };
    match value {
        serde_json::Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                line(out, depth + 1, i == 0);
                write_json(out, item, indent, depth + 1);
            }
            close(out);
            out.push(']');
        }
        serde_json::Value::Object(map) if !map.is_empty() => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                line(out, depth + 1, i == 0);
                out.push_str(&serde_json::Value::from(key.as_str()).to_string());
                out.push_str(": ");
                write_json(out, item, indent, depth + 1);
            }
            close(out);
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

/// The common codes of `strftime`, in English and UTC; others stay as they are.
pub(crate) fn format_time(format: &str, seconds: i64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = [
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "Monday",
        "Tuesday",
        "Wednesday",
    ];
    let days = seconds.div_euclid(86_400);
    let second = seconds.rem_euclid(86_400);
    let (year, month, day) = civil_date(days);
    let month_name = MONTHS[month - 1];
    let day_name = DAYS[days.rem_euclid(7) as usize];
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut code = characters.next();
        let padded = code != Some('-');
        if !padded {
            code = characters.next();
        }
        let two = |n: i64| {
            if padded {
                format!("{n:02}")
            } else {
                n.to_string()
            }
        };
        match code {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&two(year.rem_euclid(100))),
            Some('m') => out.push_str(&two(month as i64)),
            Some('d') => out.push_str(&two(day)),
            Some('H') => out.push_str(&two(second / 3600)),
            Some('M') => out.push_str(&two(second / 60 % 60)),
            Some('S') => out.push_str(&two(second % 60)),
            Some('B') => out.push_str(month_name),
            Some('b') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(day_name),
            Some('a') => out.push_str(&day_name[..3]),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

/// Year, month (1–12) and day of the days since 1970-01-01 (Hinnant's algorithm).
fn civil_date(days: i64) -> (i64, usize, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (
        year,
        month as usize,
        day_of_year - (153 * shifted + 2) / 5 + 1,
    )
}
