//! What every teacher can do.

use model::batch::TokenBatch;
use thiserror::Error;

use crate::signal::Signal;

#[derive(Debug, Error)]
pub enum TeacherError {
    #[error("a layer")]
    Layer,
}

pub trait Teacher {
    fn signal(&self, batch: &TokenBatch, layers: &[usize]) -> Result<Signal, TeacherError>;
}
