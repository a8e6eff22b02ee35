//! What a model does not allow.

use thiserror::Error;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SurgeryError {
    #[error("there is no layer {layer}: the model has layers 0 to {}", layers - 1)]
    NoLayer { layer: usize, layers: usize },
    #[error(
        "{wanted} key/value heads cannot be made of {found}: the new number has to divide the old one\n\
         hint: this model can have {}", listed(&divisors(*found))
    )]
    KvHeads { wanted: usize, found: usize },
    #[error("{wanted} channels cannot be kept of an FFN that has {found}")]
    FfnWidth { wanted: usize, found: usize },
}

fn divisors(number: usize) -> Vec<String> {
    (1..=number)
        .filter(|divisor| number.is_multiple_of(*divisor))
        .map(|divisor| divisor.to_string())
        .collect()
}

fn listed(numbers: &[String]) -> String {
    match numbers {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => numbers.concat(),
    }
}
