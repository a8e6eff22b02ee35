//! Whether two models mean the same tokens by the same ids.

use datasets::tokenizer::Tokenizer;

use crate::error::TeacherError;

/// Compares two vocabularies id by id, by the bytes of the tokens, over the ids that are `used`.
///
/// Returns how many leading columns of both heads are shared tokens. The columns beyond are padding rows of an
/// embedding, or tokens that only one side has: their logits count as −∞, never as 0, which would carry probability.
///
/// # Errors
/// [`TeacherError::VocabularyMismatch`] with the lowest used id that differs or that one side does not have.
pub fn compare(
    student: &Tokenizer,
    teacher: &Tokenizer,
    used: impl IntoIterator<Item = u32>,
    student_rows: usize,
    teacher_rows: usize,
) -> Result<usize, TeacherError> {
    let token = |tokenizer: &Tokenizer, rows: usize, id: u32| {
        ((id as usize) < rows)
            .then(|| tokenizer.token_bytes(id))
            .flatten()
    };
    let first_difference = (used.into_iter())
        .filter_map(|id| {
            let ours = token(student, student_rows, id);
            let theirs = token(teacher, teacher_rows, id);
            (ours.is_none() || ours != theirs).then_some((id, ours, theirs))
        })
        .min_by_key(|(id, ..)| *id);
    if let Some((id, ours, theirs)) = first_difference {
        return Err(TeacherError::VocabularyMismatch {
            id,
            student: readable(ours),
            teacher: readable(theirs),
        });
    }
    let rows = student_rows.min(teacher_rows);
    let tokens = student.vocabulary_size().min(teacher.vocabulary_size());
    let is_shared = |&id: &usize| {
        let id = id as u32;
        student.token(id).is_some() && teacher.token(id).is_some()
    };
    let last = (0..rows.min(tokens)).rev().find(is_shared);
    Ok(last.map_or(0, |last| last + 1))
}

/// Bytes as text in quotes where they are text, escaped where they are not.
fn readable(bytes: Option<Vec<u8>>) -> String {
    match bytes.map(String::from_utf8) {
        None => "no token".to_owned(),
        Some(Ok(text)) => format!("{text:?}"),
        Some(Err(error)) => format!("the bytes b\"{}\"", error.as_bytes().escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tokenizer::word_tokenizer;

    #[test]
    fn equal_vocabularies_share_all_but_padding() {
        let a = word_tokenizer(&["a", "b", "c"]);
        let b = word_tokenizer(&["a", "b", "c"]);
        assert_eq!(compare(&a, &b, [0, 2], 3, 3).unwrap(), 3);
        assert_eq!(compare(&a, &b, [0, 2], 8, 128).unwrap(), 3);
        assert_eq!(compare(&a, &b, [0, 1], 8, 2).unwrap(), 2);
    }

    #[test]
    fn tokens_that_only_one_side_has_matter_only_when_used() {
        let a = word_tokenizer(&["a", "b", "c", "d"]);
        let b = word_tokenizer(&["a", "b", "x"]);
        assert_eq!(compare(&a, &b, [0, 1], 8, 8).unwrap(), 3);
        let error = compare(&a, &b, [3, 2, 0], 8, 8).unwrap_err().to_string();
        assert!(
            error.contains("token 2 is \"c\" for the student and \"x\" for the teacher"),
            "{error}"
        );
        let error = compare(&a, &b, [3], 8, 8).unwrap_err().to_string();
        assert!(
            error.contains("token 3 is \"d\" for the student and no token"),
            "{error}"
        );
        // A padding row is no token, on both sides.
        assert!(compare(&a, &b, [6], 8, 8).is_err());
    }

    #[test]
    fn bytes_are_readable() {
        assert_eq!(readable(Some(b" x\n".to_vec())), "\" x\\n\"");
        assert_eq!(
            readable(Some(vec![0xE2, 0x96])),
            "the bytes b\"\\xe2\\x96\""
        );
    }
}
