//! A linear layer with an adapter: ours, and Burn's own `apply_lora` under its autodiff.

use burn::module::{Lora as BurnLora, Module, Param};
use burn::tensor::{DType, Tensor};
use model::linear::lora::{Lora, LoraConfig};
use model::linear::{Linear, Weight};
use model::parameter::Parameter;

use super::{Place, random};

/// What Burn's adapters attach to.
#[derive(Module, Debug)]
struct Matrix {
    /// `[in, out]`
    weight: Param<Tensor<2>>,
}

pub fn prepare(
    [rows, input, output, rank]: [usize; 4],
    place: &Place,
    formula: bool,
) -> Box<dyn FnMut()> {
    let x = random([rows, input], place, place.compute);
    let dy = random([rows, output], place, place.compute);
    if formula {
        return burn(x, dy, [input, output, rank], place);
    }
    let value = random([output, input], place, DType::F32);
    let mut weight = Parameter::new("m.weight", vec![output, input], value);
    weight.trainable = false;
    let config = LoraConfig {
        rank,
        ..Default::default()
    };
    let lora = Lora::new("m", [output, input], &config, 1, &weight.value);
    let mut linear = Linear::new(Weight::Dense(weight), None);
    linear.add_adapter("m", lora);
    Box::new(move || {
        linear.forward(&x);
        linear.backward(&dy, &x);
        (linear.parameters_mut()).for_each(|parameter| parameter.gradient = None);
    })
}

fn burn(
    x: Tensor<2>,
    dy: Tensor<2>,
    [input, output, rank]: [usize; 3],
    place: &Place,
) -> Box<dyn FnMut()> {
    let weight = random([input, output], place, DType::F32).autodiff();
    let matrix = Matrix {
        weight: Param::from_tensor(weight),
    };
    let matrix = matrix.apply_lora(BurnLora::new(rank, 2.0 * rank as f64));
    let (x, dy) = (x.autodiff().require_grad(), dy.autodiff());
    let compute = place.compute;
    Box::new(move || {
        let y = x.clone().matmul(matrix.weight.val().cast(compute));
        std::hint::black_box((y * dy.clone()).sum().backward());
    })
}
