"""Whether a quantised model scores as transformers says it does.

    python tests/golden/check_quantized.py DISTILL MODEL...        (torch, transformers, safetensors, numpy)

For each MODEL, a directory that stage `quantize` left: unpacks the codes of quantization.safetensors with numpy and
compares them with the weights, rounds the inputs of every linear layer as quantization.json says, and compares the
log-probabilities of a text with those of `distill score`. Where inputs are rounded, take a model of a few layers: a
difference in the last bit moves a value to the next code, and from layer to layer that grows to the size of the
rounding itself. Two layers of SmolLM2 agree to 2e-5, or to 2e-3 where a value lies between two codes.
"""
import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

TEXT = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife."


def grid(scheme, low, high):
    low, high = low.clamp(max=0), high.clamp(min=0)
    if scheme == "absmax":
        return torch.maximum(-low, high) / 127, 0, -127
    scale = (high - low) / 255
    return scale, -128 - (low / scale).round(), -128


def rounded(x, scheme, span, outliers):
    rest = x.clone()
    rest[..., outliers] = 0
    low, high = (rest.amin(-1, True), rest.amax(-1, True)) if span is None else span
    scale, zero, first = grid(scheme, low, high)
    result = ((rest / scale).round().add(zero).clamp(first, 127) - zero) * scale
    result[..., outliers] = x[..., outliers]
    return result


def values(entry, arrays):
    """What the integer codes of a layer stand for."""
    codes, scales, zeros = (arrays[name].numpy().astype("float32") for name in ("codes", "scales", "zeros"))
    columns = codes.shape[1]
    groups = arrays["group_of_column"].numpy() if entry["codes"]["reordered"] else None
    if groups is None:
        groups = [column // entry["codes"]["group_size"] for column in range(columns)]
    weight = scales[:, groups] * (codes - zeros[:, groups])
    if "outlier_columns" in arrays:
        weight[:, arrays["outlier_columns"].numpy()] = arrays["outlier_weights"].numpy().astype("float32")
    return torch.from_numpy(weight)


distill, *models = sys.argv[1:]
for directory in map(Path, models):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    written = json.loads((directory / "quantization.json").read_text())
    stored = load_file(directory / "quantization.safetensors")
    differing = 0
    for module, entry in written["layers"].items():
        linear = model.get_submodule(module)
        arrays = {name[len(module) + 1:]: array for name, array in stored.items() if name.startswith(module + ".")}
        if entry["codes"]["kind"] == "integer":
            differing += (values(entry, arrays) != linear.weight).sum().item()
        activations = entry.get("activations")
        if activations:
            span = arrays["activation_range"] if activations["range"] == "calibration" else None
            outliers = arrays["outlier_columns"].long() if activations["outliers"] else []
            scheme = activations["scheme"]
            linear.register_forward_pre_hook(
                lambda _, inputs, s=scheme, r=span, o=outliers: (rounded(inputs[0], s, r, o),)
            )
    answer = subprocess.run([distill, "score", "--model", directory, "--text", TEXT, "--json"], capture_output=True, check=True)
    answer = json.loads(answer.stdout)
    ids = torch.tensor([answer["ids"]])
    with torch.no_grad():
        theirs = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    ours = torch.tensor(answer["logprobs"][-len(theirs):])
    print(f"{written['method']}: {differing} weights differ, mean log-probability {ours.mean():.5f} here, "
          f"{theirs.mean():.5f} in transformers, largest difference {(ours - theirs).abs().max():.2e}")
