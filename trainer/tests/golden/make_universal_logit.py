"""Writes universal_logit.json: distances of sorted probabilities, from their definition (arXiv 2402.12030), by float64 autograd.

    python make_universal_logit.py        (needs torch, and trl for the values of its GOLD trainer)

Values are sums over the rows; gradients are of `scale · value` with respect to the student's logits. `trl` is the loss of
trl.experimental.gold.ULDLoss over the same rows, its split tokens and ends of turns left as they are: the mean over the rows.
"""

import json
import pathlib
from types import SimpleNamespace

import torch
from trl.experimental.gold.gold_trainer import ULDLoss

torch.set_default_dtype(torch.float64)
g = torch.Generator().manual_seed(240212030)


def normal(*shape):
    """Numbers that f32 holds exactly."""
    return torch.randn(*shape, generator=g).to(torch.float32).to(torch.float64)


def distance(student, teacher, temperature):
    p = (teacher / temperature).softmax(-1).sort(descending=True).values
    q = (student / temperature).softmax(-1).sort(descending=True).values
    most = max(p.size(-1), q.size(-1))
    pad = torch.nn.functional.pad
    return (pad(q, (0, most - q.size(-1))) - pad(p, (0, most - p.size(-1)))).abs().sum()


def of_trl(student, teacher, temperature):
    config = SimpleNamespace(
        uld_crossentropy_weight=0.0,
        uld_distillation_weight=1.0,
        uld_student_temperature=temperature,
        uld_teacher_temperature=temperature,
        uld_skip_student_eos=False,
        uld_skip_teacher_eos=False,
        use_extended_uld=False,
        uld_token_merge_strategy="bayesian",
    )
    # The answer begins with the second token, which the first row predicts; the last row predicts nothing.
    ids = torch.arange(len(student) + 1)[None]
    labels = ids.clone()
    labels[:, 0] = -100
    more = [torch.cat([logits, logits[-1:]])[None] for logits in (student, teacher)]
    return ULDLoss(config)(more[0], more[1], labels, labels, ids, ids).item()


def case(name, rows, columns, teacher_columns, temperature, size, scale):
    student, teacher = size * normal(rows, columns), size * normal(rows, teacher_columns)
    leaf = student.clone().requires_grad_()
    value = distance(leaf, teacher, temperature)
    (scale * value).backward()
    return {
        "name": name,
        "columns": columns,
        "teacher_columns": teacher_columns,
        "temperature": temperature,
        "scale": scale,
        "student": student.flatten().tolist(),
        "teacher": teacher.flatten().tolist(),
        "value": value.item(),
        "trl": of_trl(student, teacher, temperature),
        "gradient": leaf.grad.flatten().tolist(),
    }


cases = [
    case("teacher with more tokens", 3, 13, 29, 1.0, 2.0, 0.25),
    case("student with more tokens", 3, 29, 13, 1.0, 2.0, 1.0),
    case("warm", 2, 17, 23, 2.5, 4.0, 0.5),
    case("more than a block", 2, 700, 1300, 1.0, 4.0, 1.0),
    case("one vocabulary", 2, 40, 40, 1.0, 1.0, 1.0),
]
path = pathlib.Path(__file__).with_suffix("").with_name("universal_logit.json")
path.write_text(json.dumps({"cases": cases}) + "\n")
for c in cases:
    print(f"{c['name']}: {c['value'] / (len(c['student']) // c['columns']):.12f} a row, TRL {c['trl']:.12f}")
