"""Rows of values and the blocks that ggml's reference quantisers make of them.

    pip install gguf safetensors numpy xllamacpp && python make_quantised.py      writes quantised.safetensors beside this file

The quantisers are called in llama.cpp's own code, in the shared library of the package `xllamacpp` (or in the one whose path
is given). What the `gguf` package has, too, must agree with it.
"""

import ctypes
import importlib.util
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

ROW = 256
KINDS = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
IN_PYTHON = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]


def library():
    if len(sys.argv) > 1:
        return ctypes.CDLL(sys.argv[1])
    package = Path(importlib.util.find_spec("xllamacpp").origin).parent
    return ctypes.CDLL(str(next(package.glob("*.so"))))


def quantise(lib, name, values):
    """[rows, columns] to [rows, bytes]"""
    kind = gguf.GGMLQuantizationType[name]
    block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = values.shape
    out = np.zeros((rows, columns // block_len * block_bytes), dtype=np.uint8)
    call = lib.ggml_quantize_chunk
    call.restype = ctypes.c_size_t
    call.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    values = np.ascontiguousarray(values, dtype=np.float32)
    written = call(kind.value, values.ctypes.data, out.ctypes.data, 0, rows, columns, None)
    assert written == out.size, (name, written, out.size)
    return out


def rows():
    random = np.random.default_rng(20240301)
    normal = lambda deviation, mean=0.0: random.normal(mean, deviation, ROW)
    yield from (normal(deviation) for deviation in (0.02, 0.02, 0.02, 1.0, 30.0, 1e-3, 1e-6, 1e-8))
    yield normal(0.02, 0.1)
    yield normal(0.02, -0.1)
    yield np.abs(normal(0.05))
    yield -np.abs(normal(0.05))
    yield np.zeros(ROW)
    yield np.abs(normal(0.02)) * (random.random(ROW) < 0.7) * np.where(random.random(ROW) < 0.5, -0.0, 1.0)  # both zeros
    yield np.full(ROW, 0.3)
    yield np.full(ROW, -0.3)
    yield normal(0.02) * (random.random(ROW) < 0.05)  # mostly zeros
    outliers = normal(0.01)
    outliers[[3, 77, 200]] = [9.0, -7.0, 12.0]
    yield outliers
    yield np.repeat(10.0 ** np.arange(-6, 2), 32) * random.normal(size=ROW)  # runs of very different sizes
    yield np.repeat(10.0 ** np.arange(-8, 8), 16) * random.normal(size=ROW) * 1e-4
    yield random.integers(-8, 8, ROW).astype(float)  # ties
    yield random.integers(-127, 128, ROW) / 2.0
    yield random.integers(0, 16, ROW) * 0.25 - 1.0
    yield random.uniform(-1, 1, ROW)
    yield np.tan(random.uniform(-1.5, 1.5, ROW))  # heavy tails
    yield np.where(np.arange(ROW) % 32 == 0, -5.0, -5.0 + 1e-4 * random.random(ROW))  # an offset and nearly nothing


values = np.stack(list(rows())).astype(np.float32)
lib = library()
lib.ggml_quantize_init(gguf.GGMLQuantizationType.Q4_K.value)
tensors = {"values": values.reshape(-1)}
for name in KINDS:
    blocks = quantise(lib, name, values)
    if name in IN_PYTHON:
        other = gguf.quants.quantize(values, gguf.GGMLQuantizationType[name])
        other = np.ascontiguousarray(other).view(np.uint8).reshape(blocks.shape)
        print(f"{name}: {int((other != blocks).any(axis=1).sum())} of {len(values)} rows differ between ggml and the gguf package")
    tensors[name] = blocks.reshape(-1)
save_file(tensors, Path(__file__).with_name("quantised.safetensors"))
print(f"{len(values)} rows of {ROW}, {sum(t.nbytes for t in tensors.values())} bytes")
