//! Linear layers: several ways to hold and adapt a weight, one forward and backward.

pub mod activation;
mod dense;
pub mod lora;
pub mod packed;
pub mod quantized;
pub mod weight;

pub use activation::{ActivationQuantization, ActivationScheme};
pub use dense::Linear;
pub use packed::Packed;
pub use quantized::{Codes, QuantizedLinear};
pub use weight::Weight;
