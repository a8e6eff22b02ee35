"""Losses and their gradients in float64, straight from the definitions.

    python tests/golden/make_losses.py

Writes losses.json. Every value is a sum over rows (tokens), never a mean, and carries no T² factor;
gradients are taken with respect to the student's logits before they are divided by T.
"""
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F

OUT = Path(__file__).parent / "losses.json"
torch.set_default_dtype(torch.float64)


def kl(a, b):
    """Σ exp(a)·(a − b) over log-probabilities, with 0·log 0 = 0."""
    zero = a == -math.inf
    a_safe, b_safe = a.masked_fill(zero, 0.0), b.masked_fill(zero, 0.0)
    return (a_safe.exp() * (a_safe - b_safe)).masked_fill(zero, 0.0).sum()


def mixture(weight, a, b):
    """log(weight·exp(a) + (1 − weight)·exp(b))"""
    return torch.logaddexp(math.log(weight) + a, math.log1p(-weight) + b)


def jsd(beta):
    def loss(p, q):
        if beta == 0.0:
            return kl(p, q)
        if beta == 1.0:
            return kl(q, p)
        m = mixture(beta, p, q)
        return beta * kl(p, m) + (1 - beta) * kl(q, m)
    return loss


# p: the teacher's log-probabilities, q: the student's.
DIVERGENCES = {
    "forward_kl": lambda p, q: kl(p, q),
    "reverse_kl": lambda p, q: kl(q, p),
    "jsd_0": jsd(0.0),
    "jsd_0.1": jsd(0.1),
    "jsd_0.5": jsd(0.5),
    "jsd_0.9": jsd(0.9),
    "jsd_1": jsd(1.0),
    "skew_kl_0.1": lambda p, q: kl(p, mixture(0.1, p, q)),
    "skew_reverse_kl_0.1": lambda p, q: kl(q, mixture(0.1, q, p)),
    "tvd": lambda p, q: 0.5 * (p.exp() - q.exp()).abs().sum(),
}


def value_and_gradients(loss, *inputs):
    leaves = [x.clone().requires_grad_() for x in inputs]
    value = loss(*leaves)
    return value.item(), [g.tolist() for g in torch.autograd.grad(value, leaves)]


def short(tensor):
    """Three decimals: the inputs are exact in the file and stay small."""
    return (tensor * 1000).round() / 1000


def logit_case(name, student, teacher, targets, temperatures=(1.0, 2.0)):
    """The teacher may have fewer columns than the student: the missing ones are −∞."""
    missing = student.shape[1] - teacher.shape[1]
    padded = F.pad(teacher, (0, missing), value=-math.inf)
    entries = []
    for t in temperatures:
        p = torch.log_softmax(padded / t, -1)
        for kind, divergence in DIVERGENCES.items():
            value, (gradient,) = value_and_gradients(
                lambda s: divergence(p, torch.log_softmax(s / t, -1)), student)
            if math.isfinite(value):  # KL(q‖p) has no value where p is 0 and q is not
                entries.append({"loss": kind, "temperature": t, "value": value, "gradient": gradient})
    value, (gradient,) = value_and_gradients(lambda s: F.cross_entropy(s, targets, reduction="sum"), student)
    entries.append({"loss": "cross_entropy", "temperature": 1.0, "value": value, "gradient": gradient})
    return {"name": name, "student": student.tolist(), "teacher": teacher.tolist(),
            "targets": targets.tolist(), "losses": entries}


def logit_cases(g):
    def random(rows, columns, scale):
        return short(scale * torch.randn((rows, columns), generator=g))

    def targets(rows, columns):
        return torch.randint(0, columns, (rows,), generator=g)

    yield logit_case("3x37", random(3, 37, 2.0), random(3, 37, 2.0), targets(3, 37))
    yield logit_case("1x101", random(1, 101, 3.0), random(1, 101, 3.0), targets(1, 101))
    yield logit_case("1x2", random(1, 2, 1.0), random(1, 2, 1.0), targets(1, 2))
    far = random(2, 11, 1.0)
    far[0, 3], far[0, 5], far[1, 0], far[1, 10] = 60.0, -60.0, -60.0, 60.0
    other = random(2, 11, 1.0)
    other[0, 3], other[0, 5], other[1, 0], other[1, 10] = -60.0, 60.0, -60.0, 60.0
    yield logit_case("extreme", far, other, torch.tensor([5, 2]))
    same = random(2, 9, 2.0)
    yield logit_case("equal", same, same.clone(), targets(2, 9))
    yield logit_case("teacher_padded", random(2, 13, 1.5), random(2, 10, 1.5), targets(2, 10))


def hidden_case(g):
    student = short(torch.randn((3, 10), generator=g))
    teacher = short(torch.randn((3, 10), generator=g))
    mse = value_and_gradients(lambda s: ((s - teacher) ** 2).mean(-1).sum(), student)
    cosine = value_and_gradients(
        lambda s: (1 - (s * teacher).sum(-1) / (s.norm(dim=-1) * teacher.norm(dim=-1))).sum(), student)
    return {
        "student": student.tolist(), "teacher": teacher.tolist(),
        "mse": {"value": mse[0], "gradient": mse[1][0]},
        "cosine": {"value": cosine[0], "gradient": cosine[1][0]},
    }


def linear_loss_case(g):
    """0.9·T²·KL(p‖q) at T = 2 plus 0.1·cross-entropy, summed over the supervised tokens."""
    tokens, vocab, width, teacher_width, t = 7, 37, 16, 12, 2.0
    hidden = short(torch.randn((tokens, width), generator=g))
    head = short(0.5 * torch.randn((vocab, width), generator=g))
    teacher_hidden = short(torch.randn((tokens, teacher_width), generator=g))
    teacher_head = short(0.5 * torch.randn((vocab, teacher_width), generator=g))
    targets = torch.randint(0, vocab, (tokens,), generator=g)
    mask = torch.tensor([False, True, True, False, True, False, True])
    p = torch.log_softmax(teacher_hidden[mask] @ teacher_head.T / t, -1)

    def forward_kl(hidden, head):
        return kl(p, torch.log_softmax(hidden[mask] @ head.T / t, -1))

    def cross_entropy(hidden, head):
        return F.cross_entropy(hidden[mask] @ head.T, targets[mask], reduction="sum")

    def total(hidden, head):
        return 0.9 * t * t * forward_kl(hidden, head) + 0.1 * cross_entropy(hidden, head)

    value, (hidden_gradient, head_gradient) = value_and_gradients(total, hidden, head)
    return {
        "hidden": hidden.tolist(), "head": head.tolist(),
        "teacher_hidden": teacher_hidden.tolist(), "teacher_head": teacher_head.tolist(),
        "targets": targets.tolist(), "mask": mask.tolist(), "temperature": t,
        "weights": {"forward_kl": 0.9, "cross_entropy": 0.1},
        "forward_kl": forward_kl(hidden, head).item(), "cross_entropy": cross_entropy(hidden, head).item(),
        "value": value, "hidden_gradient": hidden_gradient, "head_gradient": head_gradient,
    }


def main():
    g = torch.Generator().manual_seed(7)
    golden = {
        "logits": list(logit_cases(g)),
        "hidden": hidden_case(g),
        "linear_loss": linear_loss_case(g),
    }
    # repr of a float64 is the shortest text that reads back to the same bits (17 digits or fewer).
    OUT.write_text(json.dumps(golden, separators=(",", ":"), allow_nan=False) + "\n")
    for case in golden["logits"]:
        print(case["name"], {f"{e['loss']}@{e['temperature']:g}": round(e["value"], 6) for e in case["losses"]})


if __name__ == "__main__":
    main()
