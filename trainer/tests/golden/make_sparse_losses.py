"""Writes sparse_losses.json: losses against a few of the teacher's probabilities, from their definitions, by float64 autograd.

    python make_sparse_losses.py        (needs torch)

A list with a tail is a distribution over its tokens and one bucket more, on both sides; forward KL is between those.
Of draws it is the cross-entropy with their frequencies, less the entropy of the whole distribution. Values are sums over
the rows, times T² for forward KL; gradients are of `scale · value` with respect to the student's logits.
"""

import json
import pathlib

import torch

torch.set_default_dtype(torch.float64)
g = torch.Generator().manual_seed(20250316)


def f32(tensor):
    """Inputs that f32 holds exactly, so that both precisions see the same numbers."""
    return tensor.to(torch.float32).to(torch.float64)


def dyadic(p):
    """Multiples of 2^-24, which f32 holds exactly, with a sum of exactly 1: the last entry takes what is left."""
    p = (p * 2**24).round() / 2**24
    return torch.cat([p[:-1], 1 - p[:-1].sum()[None]])


def lists(teacher, t, k, samples):
    """Ids, probabilities, tail and entropy of each row."""
    out = []
    for p in (teacher / t).softmax(-1):
        none = torch.tensor(0.0)
        if samples:
            drawn = torch.multinomial(p, samples, replacement=True, generator=g)
            ids, counts = drawn.unique(return_counts=True)
            entropy = -(p * p.log()).sum().item()
            out.append((ids, counts / samples, none, entropy))
            continue
        ids = p.topk(k).indices.sort().values
        has_tail = k < p.numel()
        whole = dyadic(torch.cat([p[ids], 1 - p[ids].sum()[None]]) if has_tail else p[ids])
        assert (whole > 0).all()
        entropy = -(whole * whole.log()).sum().item()
        out.append((ids, whole[:k], whole[-1] if has_tail else none, entropy))
    return out


def forward_kl(student, targets, vocabulary, t):
    total = 0
    for row, (ids, p, tail, entropy) in zip(student, targets):
        log_q = (row / t).log_softmax(-1)
        rest = torch.ones(row.numel(), dtype=torch.bool)
        rest[ids] = False
        rest[vocabulary:] = False
        total = total - (p * log_q[ids]).sum() - entropy
        if tail > 0:
            total = total - tail * log_q[rest].logsumexp(-1)
    return total * t**2


def case(name, student, teacher, t, labels, scale, k=None, samples=None):
    vocabulary = teacher.shape[1]
    targets = lists(teacher, t, k, samples)
    labels_t = torch.tensor(labels)
    entries = []
    for loss, value_of in (
        ({"forward_kl": {"temperature": t}}, lambda s: forward_kl(s, targets, vocabulary, t)),
        ({"cross_entropy": {}}, lambda s: -s.log_softmax(-1).gather(-1, labels_t[:, None]).sum()),
    ):
        s = student.clone().requires_grad_()
        value = value_of(s)
        (value * scale).backward()
        entries.append({"loss": loss, "value": value.item(), "gradient": s.grad.flatten().tolist()})
    return {
        "name": name,
        "columns": student.shape[1],
        "vocabulary": vocabulary,
        "student": student.flatten().tolist(),
        "ids": [ids.tolist() for ids, *_ in targets],
        "probabilities": [p.tolist() for _, p, *_ in targets],
        "tails": [tail.item() for _, _, tail, _ in targets],
        "entropies": [entropy for *_, entropy in targets],
        "labels": labels,
        "scale": scale,
        "entries": entries,
    }


def normal(*shape):
    return torch.randn(*shape, generator=g)


far = normal(2, 40)
far[0, 7], far[1, 3] = 90, -90
cases = [
    case("top 5 of 40", f32(normal(4, 40) * 2), f32(normal(4, 40) * 3), 1.0, [3, 0, 39, 7], 0.25, k=5),
    case("top 8 of 40 at 2", f32(normal(3, 40) * 2), f32(normal(3, 40) * 3), 2.0, [3, 0, 39], 1 / 3, k=8),
    case("padded", f32(normal(3, 44) * 2), f32(normal(3, 37) * 3), 2.0, [3, 0, 36], 1 / 3, k=8),
    case("the whole vocabulary", f32(normal(2, 19)), f32(normal(2, 19) * 2), 2.0, [3, 18], 0.5, k=19),
    case("far apart", f32(far), f32(normal(2, 40) * 3), 2.0, [3, 39], 0.5, k=4),
    case("draws", f32(normal(4, 40) * 2), f32(normal(4, 40) * 2), 1.0, [3, 0, 39, 7], 0.25, samples=64),
    case("draws at 2, padded", f32(normal(3, 44) * 2), f32(normal(3, 37) * 3), 2.0, [3, 0, 36], 1 / 3, samples=16),
]
out = pathlib.Path(__file__).with_name("sparse_losses.json")
out.write_text(json.dumps({"cases": cases}) + "\n")
print(out, out.stat().st_size)
