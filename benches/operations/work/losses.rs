//! `linear_loss`, and the same chunk by chunk in Burn's tensor formulas.

use burn::tensor::{DType, Tensor};
use model::linear::Weight;
use model::parameter::Parameter;
use model::score::chunk_rows;
use trainer::loss::linear_loss::{TeacherSignal, TeacherStates, linear_loss};
use trainer::loss::{Labels, LossConfig, LossEntries, Vocabulary, formula};

use super::{Place, random, tokens};

/// Size of the weights of a head.
const HEAD: f64 = 0.04;

pub fn prepare(
    rows: usize,
    width: usize,
    vocabulary: usize,
    losses: &[LossConfig],
    place: &Place,
    formula: bool,
) -> Box<dyn FnMut()> {
    let entries = LossEntries::new(losses).expect("the driver asks for valid losses");
    let hidden = random([rows, width], place, place.compute);
    let teacher = entries.needs_teacher_logits().then(|| TeacherStates {
        hidden: random([rows, width], place, place.compute),
        head: weight(random([vocabulary, width], place, place.compute) * HEAD),
    });
    let value = random([vocabulary, width], place, DType::F32) * HEAD;
    let mut head = weight(value);
    let targets = tokens(rows, vocabulary);
    let scale = 1.0 / rows as f64;
    if formula {
        return Box::new(move || {
            by_formula(&entries, &hidden, &mut head, teacher.as_ref(), &targets);
        });
    }
    let supervised = vec![true; rows];
    Box::new(move || {
        let labels = Labels {
            targets: &targets,
            supervised: &supervised,
        };
        let teacher = teacher.as_ref().map(TeacherSignal::States);
        linear_loss(
            &entries, &hidden, &mut head, teacher, labels, vocabulary, scale,
        )
        .expect("the shapes fit");
    })
}

fn weight(value: Tensor<2>) -> Weight {
    let shape = value.dims().to_vec();
    Weight::Dense(Parameter::new("head", shape, value))
}

fn by_formula(
    entries: &LossEntries,
    hidden: &Tensor<2>,
    head: &mut Weight,
    teacher: Option<&TeacherStates>,
    targets: &[u32],
) {
    let ([tokens, width], columns) = (hidden.dims(), head.rows());
    let vocabulary = Vocabulary {
        student: columns,
        teacher: columns,
        valid: columns,
    };
    let weight = head.cast(hidden.dtype());
    let mut values = vec![0.0; entries.count()];
    let mut parts = Vec::new();
    let rows = chunk_rows(columns);
    for start in (0..tokens).step_by(rows) {
        let end = (start + rows).min(tokens);
        let part = |x: &Tensor<2>| x.clone().slice([start..end, 0..width]);
        let h = part(hidden);
        let logits = weight.forward(&h);
        let teacher = teacher.map(|t| t.head.forward(&part(&t.hidden)));
        let labels = Labels {
            targets: &targets[start..end],
            supervised: &vec![true; end - start],
        };
        let scale = 1.0 / tokens as f64;
        let d_logits = formula::chunk_loss(
            entries,
            vocabulary,
            logits,
            teacher,
            labels,
            scale,
            &mut values,
        )
        .expect("the shapes fit");
        parts.push(weight.backward(&d_logits));
        let head = head.parameter_mut().expect("a dense head");
        let product = d_logits.transpose().matmul(h).cast(DType::F32);
        head.accumulate(product);
    }
    std::hint::black_box(Tensor::cat(parts, 0));
}
