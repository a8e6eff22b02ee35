//! Linear layers: several ways to hold and adapt a weight, one forward and backward.

pub mod activation;
mod dense;
pub mod fake_quant;
pub mod lora;
pub mod packed;
pub mod quantized;
pub mod weight;

pub use activation::{ActivationQuantization, ActivationScheme};
pub use dense::Linear;
pub use fake_quant::FakeQuant;
pub use packed::Packed;
pub use quantized::{Codes, QuantizedLinear};
pub use weight::Weight;
