"""NF4 with double quantisation as bitsandbytes computes it.

    python model/tests/golden/make_nf4.py        (torch, bitsandbytes 0.50.2, safetensors)

nf4.safetensors holds, for each case: `values` f32 [rows, columns], `codes` u8 as bitsandbytes packs them, `scales` u8,
`absmax` f32, the scales as they are read back, and `dequantized` f32 [rows, columns]. `map` is the signed dynamic map.

bitsandbytes's CPU kernel finds the code of a scale in a table of 2^16 entries and so misses the nearest one in one of
six hundred; its CUDA kernel and the code path below, which it takes for f64, find the nearest.
"""
from pathlib import Path

import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

torch.manual_seed(20260101)
heavy = torch.randn(70, 256) ** 3 * torch.logspace(-4, 1, 70)[:, None]
blank = torch.zeros(2, 128)
blank[1, 3] = -0.25
cases = {"normal": torch.randn(96, 192) * 0.02, "heavy": heavy, "blank": blank}

arrays = {"map": F.create_dynamic_map()}
for name, values in cases.items():
    codes, state = F.quantize_4bit(values, blocksize=64, quant_type="nf4")
    offset = state.absmax.mean()
    centred = (state.absmax - offset).double()
    pad = -len(centred) % 256
    padded = torch.nn.functional.pad(centred, (0, pad))
    scales, ranges = torch.ops.bitsandbytes.quantize_blockwise.default(padded, arrays["map"], 256)
    scales = scales[:len(centred)]
    absmax = arrays["map"][scales.int()] * ranges.repeat_interleave(256)[:len(centred)] + offset
    state.absmax = absmax
    arrays |= {
        f"{name}.values": values,
        f"{name}.codes": codes.reshape(-1),
        f"{name}.scales": scales,
        f"{name}.absmax": absmax,
        f"{name}.dequantized": F.dequantize_4bit(codes, state),
    }
save_file({name: array.contiguous() for name, array in arrays.items()}, Path(__file__).parent / "nf4.safetensors")
