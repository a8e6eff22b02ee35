//! Linear layers: several ways to hold and adapt a weight, one forward and backward.

mod dense;

pub use dense::Linear;
