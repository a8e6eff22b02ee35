"""Unpacks a directory in GPTQ's layout in numpy and compares it with the values of a model.

    python tests/golden/check_gptq_layout.py GPTQ_DIR MODEL_DIR        (numpy)

MODEL_DIR holds the dequantised values in f32, as a stage `quantize` leaves them. Every linear layer has to have the same
bits, every other tensor the same values up to the type that it is written in. Written after the layout's description, not
after this program: codes are read from a stream of bits, lowest first.
"""
import json
import struct
import sys
from pathlib import Path

import numpy as np

TYPES = {"I32": "<i4", "F16": "<f2", "F32": "<f4"}


def load(directory):
    arrays = {}
    for path in sorted(Path(directory).glob("model*.safetensors")):
        data = path.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        for name, entry in json.loads(data[8:8 + length]).items():
            if name != "__metadata__":
                first, end = (8 + length + at for at in entry["data_offsets"])
                if entry["dtype"] == "BF16":
                    words = np.frombuffer(data[first:end], "<u2").astype("<u4") << 16
                    arrays[name] = words.view("<f4").reshape(entry["shape"])
                else:
                    arrays[name] = np.frombuffer(data[first:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def codes(words, bits):
    """[count · bits / 32, n] → [count, n]"""
    stream = np.unpackbits(np.ascontiguousarray(words.T).view(np.uint8), axis=1, bitorder="little")
    stream = stream.reshape(len(stream), -1, bits)
    return (stream * (1 << np.arange(bits))).sum(2).T


def main():
    found, expected = load(sys.argv[1]), load(sys.argv[2])
    config = json.loads((Path(sys.argv[1]) / "config.json").read_text())["quantization_config"]
    bits, zero_offset = config["bits"], {"gptq": 1, "gptq_v2": 0}[config["checkpoint_format"]]
    layers = 0
    for name, values in expected.items():
        module = name.removesuffix(".weight")
        if f"{module}.qweight" not in found:
            close = np.allclose(found[name].astype("f4"), values, rtol=0.01, atol=1e-6)
            assert close, f"{name} differs"
            continue
        qweight, qzeros, scales, g_idx = (found[f"{module}.{key}"] for key in ("qweight", "qzeros", "scales", "g_idx"))
        code = codes(qweight, bits)
        zero = (codes(qzeros.T, bits).T + zero_offset) & (2**bits - 1)
        assert scales.dtype == np.float16
        value = scales.astype("f4")[g_idx] * (code - zero[g_idx]).astype("f4")
        assert np.array_equal(value.T, values), f"{name} differs by {np.abs(value.T - values).max()}"
        layers += 1
    assert layers > 0, "no layer in GPTQ's layout"
    print(f"{layers} layers of {bits} bits are equal to the bit")


main()
