"""GPTQ after the algorithm of arXiv 2210.17323 and its published code, in f64.

    python model/tests/golden/make_gptq.py        (torch, safetensors)

gptq.safetensors holds `weights` f32 [rows, columns] and the inputs `x` f32 [tokens, columns]; for each case `codes` u8
[rows, columns], `scales` f32 and `zeros` u8 [rows, groups], and with an order `group_of_column` f32 [columns]. The lazy
blocks of the algorithm are as long as a group, so that a group's scale is always that of the updated weights.
"""
from pathlib import Path

import torch
from safetensors.torch import save_file

torch.manual_seed(20260203)
ROWS, COLUMNS, TOKENS = 48, 128, 400


def grid(values, bits, symmetric):
    """Scale and zero of each row."""
    last = 2**bits - 1
    least, most = values.amin(1).clamp(max=0), values.amax(1).clamp(min=0)
    if symmetric:
        most = torch.maximum(least.abs(), most)
        least = -most
    empty = (least == 0) & (most == 0)
    least[empty], most[empty] = -1, 1
    scale = ((most - least) / last).half().double()
    zero = torch.full_like(scale, 2 ** (bits - 1)) if symmetric else torch.round(-least / scale).clamp(0, last)
    return scale, zero


def gptq(weights, x, bits, group, symmetric, ordered, damping=0.01):
    weights, x = weights.double().clone(), x.double()
    hessian = 2 / len(x) * x.T @ x
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1
    weights[:, dead] = 0
    order = torch.arange(COLUMNS)
    if ordered:
        order = torch.argsort(hessian.diagonal(), descending=True)
    weights, hessian = weights[:, order], hessian[order][:, order]
    hessian += damping * hessian.diagonal().mean() * torch.eye(COLUMNS)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    upper = torch.linalg.cholesky(inverse, upper=True)
    codes = torch.zeros(ROWS, COLUMNS)
    scales, zeros = [], []
    group = group or COLUMNS
    for first in range(0, COLUMNS, group):
        end = first + group
        block, errors = weights[:, first:end].clone(), torch.zeros(ROWS, group).double()
        scale, zero = grid(block, bits, symmetric)
        scales.append(scale)
        zeros.append(zero)
        part = upper[first:end, first:end]
        for i in range(group):
            code = (torch.round(block[:, i] / scale) + zero).clamp(0, 2**bits - 1)
            codes[:, first + i] = code
            errors[:, i] = (block[:, i] - scale * (code - zero)) / part[i, i]
            block[:, i:] -= errors[:, i].outer(part[i, i:])
        weights[:, end:] -= errors @ upper[first:end, end:]
    back = torch.argsort(order)
    return {
        "codes": codes[:, back].to(torch.uint8),
        "scales": torch.stack(scales, 1).float(),
        "zeros": torch.stack(zeros, 1).to(torch.uint8),
        "group_of_column": (torch.arange(COLUMNS) // group)[back].float(),
    }


weights = torch.randn(ROWS, COLUMNS) * 0.05
# Inputs that depend on each other, of different sizes, and one column that reads nothing.
x = torch.randn(TOKENS, 40) @ torch.randn(40, COLUMNS) + 0.3 * torch.randn(TOKENS, COLUMNS)
x *= torch.logspace(-1, 0.5, COLUMNS)[torch.randperm(COLUMNS)]
x[:, 17] = 0
arrays = {"weights": weights, "x": x}
for name, settings in {
    "plain": (4, 32, False, False),
    "symmetric": (3, 32, True, False),
    "ordered": (4, 32, False, True),
    "whole_rows": (2, None, False, True),
}.items():
    arrays |= {f"{name}.{key}": value for key, value in gptq(weights, x, *settings).items()}
save_file({name: array.contiguous() for name, array in arrays.items()}, Path(__file__).parent / "gptq.safetensors")
