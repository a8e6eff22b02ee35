//! Which evolved instructions are no gain, by the rules of WizardLM (arXiv 2304.12244, section 3).

use datasets::words::{normalise, words};

use super::in_order::Dropped;
use super::instruction::phrase_in;

/// An answer of fewer words that is sorry is no answer.
const LONG_ANSWER: usize = 80;

/// Words that say nothing by themselves.
const STOP_WORDS: &str = "a about above after again all also am an and any are as at be because been before being below \
    between both but by can could did do does doing don down during each few for from further had has have having he her \
    here hers him his how i if in into is it its itself just ll m me more most my no nor not now of off on once only or \
    other our ours out over own re s same she should so some such t than that the their theirs them then there these they \
    this those through to too under until up ve very was we were what when where which while who whom why will with would \
    you your yours";

/// What is wrong with an instruction beside the one that it was made of. `copied`: phrases of the prompt that asked for it.
///
/// # Errors
/// The reason for which it is left out.
pub fn check_instruction(
    evolved: &str,
    before: &str,
    copied: &[String],
) -> Result<(), (Dropped, String)> {
    let same = |a: &str, b: &str| {
        let (a, b) = (normalise(a), normalise(b));
        words(&a).eq(words(&b))
    };
    if evolved.is_empty() {
        return Err((
            Dropped::EmptyAnswer,
            "the evolved instruction is empty".into(),
        ));
    }
    if same(evolved, before) {
        return Err((Dropped::Unchanged, evolved.to_owned()));
    }
    match phrase_in(evolved, copied) {
        Some(phrase) if phrase_in(before, &[phrase.to_owned()]).is_none() => {
            Err((Dropped::CopiesPrompt, format!("`{phrase}`: {evolved}")))
        }
        _ => Ok(()),
    }
}

/// Whether the teacher says that the second of two instructions asks for something else than the first.
///
/// # Errors
/// The reason for which the second is left out.
pub fn check_verdict(answer: &str) -> Result<(), (Dropped, String)> {
    let answer = normalise(answer);
    let says = |word: &str| words(&answer).any(|other| other == word);
    match (says("different"), says("same")) {
        (true, false) => Ok(()),
        (false, true) => Err((Dropped::Unchanged, answer)),
        _ => Err((Dropped::Undecided, answer)),
    }
}

/// Whether an instruction can be answered, by its answer.
///
/// # Errors
/// The reason for which the instruction is left out.
pub fn check_answer(answer: &str) -> Result<(), (Dropped, String)> {
    let normal = normalise(answer);
    let is_sorry = words(&normal).any(|word| word == "sorry");
    if is_sorry && words(&normal).count() < LONG_ANSWER {
        return Err((Dropped::Apology, answer.to_owned()));
    }
    let says_nothing = |word: &str| STOP_WORDS.split(' ').any(|stop| stop == word);
    match words(&normal).all(says_nothing) {
        true => Err((Dropped::NoContent, answer.to_owned())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_rules() {
        let copied = ["given instruction".to_owned()];
        let instruction = |evolved: &str, before: &str| {
            let checked = check_instruction(evolved, before, &copied);
            checked.err().map(|(why, _)| why)
        };
        let before = "Name three rivers.";
        assert_eq!(instruction("Name three long rivers.", before), None);
        assert_eq!(instruction("", before), Some(Dropped::EmptyAnswer));
        assert_eq!(
            instruction("name three RIVERS", before),
            Some(Dropped::Unchanged)
        );
        let copy = "#Given Instruction#: Name four rivers.";
        assert_eq!(instruction(copy, before), Some(Dropped::CopiesPrompt));
        // Who asks about it may go on doing so.
        assert_eq!(instruction("Follow every given instruction.", copy), None);

        let verdict = |answer: &str| check_verdict(answer).err().map(|(why, _)| why);
        assert_eq!(verdict("**Different.**"), None);
        assert_eq!(verdict("Same"), Some(Dropped::Unchanged));
        assert_eq!(verdict("same or different?"), Some(Dropped::Undecided));
        assert_eq!(verdict(""), Some(Dropped::Undecided));

        let answer = |answer: &str| check_answer(answer).err().map(|(why, _)| why);
        assert_eq!(answer("Nile, Danube, Han"), None);
        assert_eq!(
            answer("I'm sorry, but I cannot do that."),
            Some(Dropped::Apology)
        );
        assert_eq!(
            answer(&format!("Sorry for the length. {}", "word ".repeat(80))),
            None
        );
        assert_eq!(answer("... and so it is!"), Some(Dropped::NoContent));
        assert_eq!(answer(" \n"), Some(Dropped::NoContent));
        assert_eq!(answer("강"), None);
    }
}
