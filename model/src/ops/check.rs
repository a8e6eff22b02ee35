//! What the tests of operations share: seeded f64 inputs, comparison, finite differences.

use burn::tensor::{DType, Tensor, TensorData};

/// Seeded values in (−1, 1), `f64`.
pub fn random<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
    let values: Vec<f64> = (0..shape.iter().product())
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
        })
        .collect();
    let device = burn::tensor::Device::flex();
    Tensor::from_data(TensorData::new(values, shape), (&device, DType::F64))
}

pub fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f64> {
    let data = tensor.to_data().convert::<f64>();
    data.try_to_vec().unwrap()
}

/// The first Vulkan device. A test of kernels has nothing to run on where there is none, and says so.
#[cfg(feature = "vulkan")]
pub fn vulkan() -> Option<burn::tensor::Device> {
    let device = crate::build::vulkan_devices().into_iter().next();
    if device.is_none() {
        eprintln!("skipped: this machine has no Vulkan device");
    }
    device
}

/// The values of `x` in `f32`, on a device and back on the CPU in `f64`: the same numbers for both.
#[cfg(feature = "vulkan")]
pub fn pair<const D: usize>(x: Tensor<D>, device: &burn::tensor::Device) -> (Tensor<D>, Tensor<D>) {
    let data = x.into_data().convert::<f32>();
    let narrow = Tensor::from_data(data.clone(), (device, DType::F32));
    let wide = data.convert::<f64>();
    let cpu = burn::tensor::Device::flex();
    (narrow, Tensor::from_data(wide, (&cpu, DType::F64)))
}

/// ‖a − b‖ ≤ tolerance · max(‖b‖, 1).
pub fn assert_close<const D: usize>(a: &Tensor<D>, b: &Tensor<D>, tolerance: f64) {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (values(a), values(b));
    let distance: f64 = a
        .iter()
        .zip(&b)
        .map(|(a, b)| (a - b).powi(2))
        .sum::<f64>()
        .sqrt();
    let norm: f64 = b.iter().map(|b| b * b).sum::<f64>().sqrt();
    assert!(
        distance <= tolerance * norm.max(1.0),
        "‖Δ‖ = {distance:e}, ‖b‖ = {norm:e}"
    );
}

/// Compares `gradient` with central differences of the scalar `f` at `x`.
pub fn assert_gradient<const D: usize>(
    x: &Tensor<D>,
    gradient: &Tensor<D>,
    f: impl Fn(&Tensor<D>) -> Tensor<1>,
) {
    let (base, gradient) = (values(x), values(gradient));
    let step = 1e-6;
    for i in 0..base.len() {
        let at = |delta: f64| {
            let mut moved = base.clone();
            moved[i] += delta;
            let data = TensorData::new(moved, x.dims());
            values(&f(&Tensor::from_data(data, (&x.device(), DType::F64))))[0]
        };
        let slope = (at(step) - at(-step)) / (2.0 * step);
        assert!(
            (slope - gradient[i]).abs() <= 1e-6 * (1.0 + slope.abs()),
            "element {i}: finite difference {slope}, gradient {}",
            gradient[i]
        );
    }
}

/// Blocks of 32 at the edges of formats: ties of the largest magnitude, zeros of both signs, halves between codes, and values down to those that `f32` has no reciprocal for.
pub fn edge_blocks() -> Vec<f32> {
    let mut values = Vec::new();
    let mut state = 7_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((state >> 40) as f32 / (1 << 23) as f32) - 1.0
    };
    for exponent in -150..18 {
        let scale = 2.0_f64.powi(exponent) as f32;
        values.extend((0..32).map(|_| random() * scale));
        // Ties of the largest magnitude, either sign first.
        for sign in [1.0, -1.0] {
            let mut block: Vec<f32> = (0..32).map(|_| 0.9 * random() * scale).collect();
            (block[3], block[17], block[30]) = (sign * scale, -sign * scale, sign * scale);
            values.extend(block);
        }
    }
    values.extend([0.0; 32]);
    values.extend([-0.0; 32]);
    values.extend([0.25; 32]);
    values.extend((0..32).map(|i| (i % 2) as f32 - 0.5));
    // Halves between codes.
    values.extend((0..32).map(|i| (i as f32 - 8.0) / 2.0));
    values
}
