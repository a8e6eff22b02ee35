"""Random GGUF blocks of every readable type and their values according to the `gguf` package.

    pip install gguf safetensors numpy && python make_blocks.py      writes blocks.safetensors beside this file
"""

from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

VALUES = 512
# Where a block of each type keeps its f16 scales: most of them get a sensible size, as random bits are
# often huge; the first block keeps its random bits.
SCALES = {
    "F32": [], "F16": [], "BF16": [], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}

random = np.random.default_rng(20240229)
tensors = {}
for name, scales in SCALES.items():
    kind = gguf.GGMLQuantizationType[name]
    block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (VALUES // block_len, block_bytes), dtype=np.uint8)
    for at in scales:
        halves = random.normal(0, 0.02, len(blocks)).astype(np.float16).view(np.uint8).reshape(-1, 2)
        blocks[1:, at : at + 2] = halves[1:]
    with np.errstate(all="ignore"):
        values = gguf.quants.dequantize(blocks.reshape(2, -1), kind).astype(np.float32)
    tensors[f"{name}.bytes"] = blocks.reshape(-1)
    tensors[f"{name}.values"] = np.ascontiguousarray(values).reshape(-1)
save_file(tensors, Path(__file__).with_name("blocks.safetensors"))
