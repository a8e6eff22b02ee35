"""Writes row_losses.json: values and gradients of every row loss, from their definitions, by float64 autograd.

    python make_row_losses.py        (needs torch)

Each entry's value is the sum over supervised rows (times T² for KL, JSD and skew entries, not times the weight);
its gradient is that of `scale · value` with respect to the student's logits.
"""

import json
import pathlib

import torch

torch.set_default_dtype(torch.float64)
MINUS_INFINITY = "-inf"  # JSON has no infinities

SCALED_BY_T2 = {"forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl"}


def kl(log_a, log_b):
    a = log_a.exp()
    # 0 · log 0 = 0; the inner `where` keeps autograd from meeting inf − inf.
    difference = torch.where(a > 0, log_a, 0.0) - torch.where(a > 0, log_b, 0.0)
    return (a * difference).sum(-1)


def mixture(weight, log_p, log_q):
    w = torch.tensor(weight)
    return torch.logaddexp(w.log() + log_p, (1 - w).log() + log_q)


def per_row(kind, o, student, teacher, targets):
    if kind == "cross_entropy":
        return -student.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    t = o.get("temperature", 1.0)
    log_q = (student / t).log_softmax(-1)
    log_p = (teacher / t).log_softmax(-1)
    if kind == "forward_kl":
        return kl(log_p, log_q)
    if kind == "reverse_kl":
        return kl(log_q, log_p)
    if kind == "jsd":
        b = o.get("beta", 0.5)
        m = mixture(b, log_p, log_q)
        return b * kl(log_p, m) + (1 - b) * kl(log_q, m)
    if kind == "skew_kl":
        return kl(log_p, mixture(o.get("alpha", 0.1), log_p, log_q))
    if kind == "skew_reverse_kl":
        return kl(log_q, mixture(1 - o.get("alpha", 0.1), log_p, log_q))
    if kind == "tvd":
        return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)
    raise ValueError(kind)


ALL = [
    ("forward_kl", {}),
    ("forward_kl", {"temperature": 2.0}),
    ("reverse_kl", {}),
    ("reverse_kl", {"temperature": 1.7}),
    ("jsd", {}),
    ("jsd", {"beta": 0.1, "temperature": 2.0}),
    ("jsd", {"beta": 0.9}),
    ("skew_kl", {}),
    ("skew_kl", {"alpha": 0.4, "temperature": 2.0}),
    ("skew_reverse_kl", {}),
    ("skew_reverse_kl", {"alpha": 0.4, "temperature": 0.5}),
    ("tvd", {}),
    ("tvd", {"temperature": 3.0}),
    ("cross_entropy", {}),
]
BOUNDED = [e for e in ALL if e[0] not in ("reverse_kl",)]


def numbers(tensor):
    return [MINUS_INFINITY if x == float("-inf") else x for x in tensor.flatten().tolist()]


def case(name, student, teacher, valid, targets, supervised, scale, losses):
    mask = torch.tensor(supervised)
    targets_t = torch.tensor(targets)
    entries = []
    for kind, options in losses:
        s = student.clone().requires_grad_()
        rows = per_row(kind, options, s[:, :valid], teacher[:, :valid], targets_t)
        value = rows[mask].sum()
        if kind in SCALED_BY_T2:
            value = value * options.get("temperature", 1.0) ** 2
        (value * scale).backward()
        assert torch.isfinite(value) and torch.isfinite(s.grad).all(), (name, kind)
        entries.append({"loss": {kind: options}, "value": value.item(), "gradient": numbers(s.grad)})
    return {
        "name": name,
        "student_vocab": student.shape[1],
        "teacher_vocab": teacher.shape[1],
        "valid": valid,
        "student": numbers(student),
        "teacher": numbers(teacher),
        "targets": targets,
        "supervised": supervised,
        "scale": scale,
        "entries": entries,
    }


def f32(tensor):
    """Inputs that f32 holds exactly, so that both precisions see the same numbers."""
    return tensor.to(torch.float32).to(torch.float64)


def hidden(name, student, teacher, supervised, scale):
    mask = torch.tensor(supervised)
    out = {"name": name, "width": student.shape[1], "student": numbers(student), "teacher": numbers(teacher),
           "supervised": supervised, "scale": scale}
    for key, loss in (
        ("mse", lambda s: ((s - teacher) ** 2).mean(-1)),
        ("cosine", lambda s: 1 - torch.nn.functional.cosine_similarity(s, teacher, dim=-1)),
    ):
        s = student.clone().requires_grad_()
        value = loss(s)[mask].sum()
        (value * scale).backward()
        out[key] = {"value": value.item(), "gradient": numbers(s.grad)}
    return out


g = torch.Generator().manual_seed(20240607)


def normal(*shape):
    return torch.randn(*shape, generator=g)


extreme_s, extreme_t = normal(3, 9) * 2, normal(3, 9) * 2
extreme_s[0, 2], extreme_s[0, 5], extreme_t[0, 3], extreme_t[0, 5] = 60, -60, 60, -60
extreme_s[1, 1], extreme_s[1, 4], extreme_t[1, 1], extreme_t[1, 6] = 1e4, -1e4, -1e4, 1e4
extreme_s[2, :] += 1e4
extreme_t[2, :] -= 1e4
dropped = normal(2, 11) * 2
dropped[0, 3] = dropped[0, 4] = dropped[1, 0] = float("-inf")

cases = [
    case("plain", f32(normal(4, 23) * 2), f32(normal(4, 23) * 2), 23, [3, 0, 22, 7], [True, True, False, True], 1 / 3, ALL),
    case("extreme", f32(extreme_s), f32(extreme_t), 9, [2, 6, 0], [True, True, True], 0.25, ALL),
    case("padded", f32(normal(2, 14)), f32(normal(2, 17)), 11, [10, 4], [True, True], 0.5, ALL),
    case("teacher drops columns", f32(normal(2, 11)), f32(dropped), 11, [1, 2], [True, True], 1.0, BOUNDED),
]
hiddens = [
    hidden("plain", f32(normal(4, 19)), f32(normal(4, 19)), [True, False, True, True], 0.3),
    hidden("long", f32(normal(2, 130)), f32(normal(2, 130) * 5), [True, True], 1.0),
]
out = pathlib.Path(__file__).with_name("row_losses.json")
out.write_text(json.dumps({"cases": cases, "hidden": hiddens}) + "\n")
print(out, out.stat().st_size)
