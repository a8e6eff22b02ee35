"""A linear layer with fake quantisation in PyTorch: its values, and its gradients straight through the rounding.

    pip install torch gguf safetensors numpy && python make_fake_quant.py      writes fake_quant.safetensors beside this file

The blocks of GGUF are quantised and read back by the `gguf` package. 8da4w is torchao's recipe: activations of int8 with a
zero point a token, weights of int4 in symmetric groups of 32 with scale = absmax / 7.5, kept in f16.
"""

from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file

TOKENS, OUT, IN = 24, 40, 96
GROUP = 32


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rounding):
        return rounding(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def blocks(name):
    kind = gguf.GGMLQuantizationType[name]

    def rounding(weight):
        packed = gguf.quants.quantize(weight.detach().numpy(), kind)
        return torch.from_numpy(gguf.quants.dequantize(packed, kind).astype(np.float32))

    return rounding


def int4_groups(weight):
    groups = weight.reshape(-1, GROUP)
    scale = (groups.abs().amax(1, keepdim=True) / ((7 + 8) / 2)).half().float()
    scale = scale.clamp(min=2**-24)  # the smallest of f16
    return (torch.clamp(torch.round(groups / scale), -8, 7) * scale).reshape(weight.shape)


def int8_per_token(x):
    low, high = x.amin(1, keepdim=True).clamp(max=0), x.amax(1, keepdim=True).clamp(min=0)
    scale = (high - low) / 255
    zero = torch.clamp(-128 - torch.round(low / scale), -128, 127)
    codes = torch.clamp(torch.round(x * (1 / scale)) + zero, -128, 127)
    return (codes - zero) * scale


def main():
    torch.manual_seed(20260101)
    weight = torch.randn(OUT, IN) * 0.05
    weight[3] = 0  # blocks of zeros
    weight[5, 7], weight[5, 20] = 0.25, -0.25  # ties of the largest magnitude
    weight[6, 7], weight[6, 20] = -0.25, 0.25
    weight[8] *= 1e-6  # subnormal scales
    x, dy = torch.randn(TOKENS, IN), torch.randn(TOKENS, OUT)
    made = {"weight": weight, "x": x, "dy": dy}
    cases = {name.lower(): (blocks(name), None) for name in ("Q4_0", "Q5_0", "Q8_0")}
    cases["8da4w"] = (int4_groups, int8_per_token)
    for name, (round_weight, round_x) in cases.items():
        w, inputs = weight.clone().requires_grad_(), x.clone().requires_grad_()
        rounded = StraightThrough.apply(w, round_weight)
        read = StraightThrough.apply(inputs, round_x) if round_x else inputs
        # The products in f64, so that only the rounding has the precision of f32.
        y = read.double() @ rounded.double().T
        y.backward(dy.double())
        made |= {f"{name}.weight": rounded, f"{name}.y": y, f"{name}.dx": inputs.grad, f"{name}.dw": w.grad}
    arrays = {key: np.ascontiguousarray(value.detach().float().numpy()) for key, value in made.items()}
    save_file(arrays, Path(__file__).parent / "fake_quant.safetensors")


main()
