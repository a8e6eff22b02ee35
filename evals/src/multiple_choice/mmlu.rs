//! MMLU (arXiv 2009.03300), prompted as lm-eval's `mmlu` does: the four letters are scored.

use datasets::error::DataError;

use super::question::Question;
use super::subjects::plain_subject;
use crate::row::Row;

pub(super) const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// What stands before the first question.
pub(super) fn description(subject: &str) -> String {
    match subject {
        "" => "The following are multiple choice questions (with answers).\n\n".into(),
        _ => format!(
            "The following are multiple choice questions (with answers) about {subject}.\n\n"
        ),
    }
}

/// A question from `question`, `choices` or four columns of choices, `answer` and the subject.
pub(super) fn question(row: &Row) -> Result<Option<Question>, DataError> {
    let text = row.text(&["question"])?;
    // A file that was put together of several has the header of each in it.
    if text == "question"
        && row
            .text(&["answer_a", "A"])
            .is_ok_and(|a| a == "answer_a" || a == "A")
    {
        return Ok(None);
    }
    let choices = four_choices(row)?;
    let answer = row.choice(&["answer", "correct_answer"], 4, 0)?;
    let subject = match row.value(&["subject", "topic", "category"]) {
        Some((_, column)) => plain_subject(&row.text(&[&column])?),
        None => String::new(),
    };
    Ok(Some(Question {
        subject,
        prompt: prompt(&text, &choices, "Answer:"),
        choices: LETTERS.map(String::from).to_vec(),
        answer,
    }))
}

pub(super) fn four_choices(row: &Row) -> Result<[String; 4], DataError> {
    if row.value(&["choices"]).is_some() {
        let choices = row.texts(&["choices"])?;
        return <[String; 4]>::try_from(choices).map_err(|_| {
            let value = &row.fields["choices"];
            row.record.unexpected("choices", value, "four texts")
        });
    }
    let column = |letter: &str| {
        let small = letter.to_lowercase();
        row.text(&[
            letter,
            &format!("answer_{small}"),
            &format!("option_{small}"),
        ])
    };
    Ok([column("A")?, column("B")?, column("C")?, column("D")?])
}

pub(super) fn prompt(question: &str, choices: &[String; 4], ask: &str) -> String {
    let [a, b, c, d] = choices;
    format!("{}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\n{ask}", question.trim())
}
