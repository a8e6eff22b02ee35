"""Activations rounded to int8 as bitsandbytes and torchao round them.

    python model/tests/golden/make_activations.py      (torch, bitsandbytes 0.50.2, torchao 0.18.0, safetensors)

activations.safetensors holds `x` f32 [tokens, columns] and, for each scheme, what is left of it. `absmax` and `outliers`
are bitsandbytes' vector-wise int8 (arXiv 2208.07339), the second with the columns of `outlier_columns` in full.
`zero_point` is torchao's 8da4w. The static ones have one range for all tokens, that of the first half of them.
"""
from pathlib import Path

import bitsandbytes  # registers the operators
import torch
from safetensors.torch import save_file
from torchao.quantization.quant_primitives import MappingType, _fake_quantize_affine, choose_qparams_affine

torch.manual_seed(20260101)
x = torch.randn(12, 96) * torch.logspace(-2, 1, 12)[torch.randperm(12), None]
x[:, 7] *= 40
x[:, 60] -= 25
x[1] = x[1].abs()  # no value below 0
x[2] = -x[2].abs()
half = x[:6]


def absmax(x):
    codes, largest, _ = torch.ops.bitsandbytes.int8_vectorwise_quant(x.clone(), 0.0)
    return codes.float() * (largest / 127)[:, None]


def zero_point(x, calibrated, block):
    scale, zero = choose_qparams_affine(calibrated, MappingType.ASYMMETRIC, block, torch.int8)
    block = [1, x.shape[1]] if block[0] == 1 else list(x.shape)
    return _fake_quantize_affine(x, block, scale, zero, torch.int8, -128, 127)


def static_absmax(x, calibrated):
    largest = calibrated.abs().max()
    return (x * (127 / largest)).round().clamp(-127, 127) * (largest / 127)


def with_outliers(x, columns):
    kept = torch.zeros(x.shape[1], dtype=torch.bool)
    kept[columns] = True
    return torch.where(kept, x, absmax(torch.where(kept, 0, x)))


columns = (x.abs() > 6).any(0).nonzero()[:, 0]
columns = columns[columns % 4 == 0]  # some, so that others above the threshold are rounded too
arrays = {
    "x": x,
    "outlier_columns": columns.int(),
    "absmax": absmax(x),
    "outliers": with_outliers(x, columns),
    "zero_point": zero_point(x, x, [1, x.shape[1]]),
    "static_absmax": static_absmax(x, half),
    "static_zero_point": zero_point(x, half, list(half.shape)),
    "static_range": torch.stack([half.min(), half.max()]),
}
save_file({name: array.contiguous() for name, array in arrays.items()}, Path(__file__).parent / "activations.safetensors")
