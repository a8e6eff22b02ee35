
pub mod loss;
