"""Matrices rounded to int8, row by row.

    python model/tests/golden/make_int8_weights.py      (torch, bitsandbytes 0.50.2, torchao 0.18.0, safetensors)

int8_weights.safetensors holds `weight` f32 [rows, columns] and what is left of it: `absmax` by bitsandbytes' formula,
`zero_point` by torchao's, both with their scale rounded to f16 first; `llm_int8` is absmax with the columns of
`outlier_columns` in f16 (arXiv 2208.07339). `bitsandbytes.codes` are its own, from a scale in f32.
"""
from pathlib import Path

import bitsandbytes  # registers the operators
import torch
from safetensors.torch import save_file
from torchao.quantization.quant_primitives import (
    MappingType, choose_qparams_affine, dequantize_affine, quantize_affine,
)

torch.manual_seed(20260101)
weight = torch.randn(24, 96) * torch.logspace(-3, 1, 24)[:, None]
weight[3] = weight[3].abs()
weight[4] = 0
block = [1, 96]


def absmax(weight):
    scales = (weight.abs().amax(1) / 127).half().clamp(min=2**-24).float()
    codes = (weight / scales[:, None]).round().clamp(-127, 127)
    return codes, scales, codes * scales[:, None]


codes, scales, values = absmax(weight)
theirs, largest, _ = torch.ops.bitsandbytes.int8_vectorwise_quant(weight.clone(), 0.0)
theirs[4] = 0  # 0 / 0
assert ((theirs.float() * largest[:, None] / 127 - values).norm() / values.norm()) < 1e-2

scale, _ = choose_qparams_affine(weight, MappingType.ASYMMETRIC, block, torch.uint8)
scale[4] = 2 / 255  # a row of zeros: any scale will do
scale = scale.half().float()
zero = (-weight.amin(1).clamp(max=0) / scale).round().clamp(0, 255).int()
zero[4] = (1 / scale[4]).round().int()
unsigned = (weight / scale[:, None]).round().add(zero[:, None]).clamp(0, 255).to(torch.uint8)
by_torchao = quantize_affine(weight, block, scale, zero, torch.uint8)
assert (by_torchao.int() - unsigned.int()).abs().max() <= 1  # it multiplies with 1 / scale

columns = torch.tensor([5, 17, 90])
kept = torch.zeros(96, dtype=torch.bool)
kept[columns] = True
arrays = {
    "weight": weight,
    "absmax.codes": codes.to(torch.int8),
    "absmax.scales": scales,
    "absmax": values,
    "bitsandbytes.codes": theirs,
    "zero_point.codes": unsigned,
    "zero_point.zeros": zero.to(torch.uint8),
    "zero_point": dequantize_affine(unsigned, block, scale, zero, torch.uint8, output_dtype=torch.float32),
    "outlier_columns": columns.int(),
    "llm_int8": torch.where(kept, weight.half().float(), absmax(torch.where(kept, 0, weight))[2]),
}
save_file({name: array.contiguous() for name, array in arrays.items()}, Path(__file__).parent / "int8_weights.safetensors")
