"""Tiny checkpoints after surgery, done in plain torch and numpy, and what transformers computes from them.

    pip install torch transformers safetensors numpy && python make_surgery.py      writes surgery.safetensors

Starts from tests/golden/checkpoints. `input_ids` i64 [2, 24] are those of each checkpoint's logits.safetensors.

GQA, `gqa.<checkpoint>.<kv heads>.<pooling>`:
    .layers.<i>.{k,v}_proj.{weight,bias}   what each new key/value head became
    .logits                                f32 [24, vocab] of the first row
Width, `width.<checkpoint>`:
    .importance   f64 [layers, channels]: mean of |activation| over each sequence, L2 norm over the sequences
    .padded       the same, of a first sequence of 24 tokens and a second of 14
    .logits       of the model that keeps the 32 best channels of each layer
Depth and width, `both.qwen2_window`: layers 0 and 2, 32 channels chosen on the whole model.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

CHECKPOINTS = Path(__file__).parents[3] / "tests/golden/checkpoints"
SEED = 7
WIDTH = 32
GQA = [
    ("llama_tied", 2, "mean"), ("llama_tied", 2, "first"), ("llama_tied", 2, "random"), ("llama_tied", 1, "mean"),
    ("llama_bias", 1, "mean"), ("llama_bias", 1, "random"), ("qwen2", 1, "first"), ("qwen3", 1, "mean"),
]

found = {}


def load(name):
    return AutoModelForCausalLM.from_pretrained(
        CHECKPOINTS / name, dtype=torch.float32, attn_implementation="eager").eval()


def with_config(name, state, **changes):
    config = AutoConfig.from_pretrained(CHECKPOINTS / name)
    for key, value in changes.items():
        setattr(config, key, value)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model


def input_ids(name):
    return load_file(CHECKPOINTS / name / "logits.safetensors")["input_ids"]


def logits(model, ids):
    with torch.no_grad():
        return model(ids[:1]).logits[0]


# Fresh values: counters through the finaliser of SplitMix64, pairs through Box and Muller's transform.
def mix(x):
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def normal(shape, name):
    with np.errstate(over="ignore"):
        key = mix(np.uint64(SEED) ^ np.uint64(0x5851F42D4C957F2D))
        for byte in name.encode():
            key = mix(key ^ np.uint64(byte))
        count = shape[0] * shape[1]
        counters = np.arange(count + count % 2, dtype=np.uint64)
        uniform = (mix(key ^ mix(counters)) >> np.uint64(11)).astype(np.float64) / 2.0**53
    radius = np.sqrt(-2.0 * np.log(1.0 - uniform[0::2])) * 0.02
    angle = 2.0 * np.pi * uniform[1::2]
    values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:count]
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def pooled(name, tensor, head_dim, kv_heads, pooling):
    heads = tensor.reshape(kv_heads, -1, head_dim, *tensor.shape[1:])  # [new heads, group, head_dim, …]
    shape = (kv_heads * head_dim, *tensor.shape[1:])
    if pooling == "mean":
        return heads.double().mean(1).float().reshape(shape)
    if pooling == "first":
        return heads[:, 0].reshape(shape)
    return normal(shape, name) if len(shape) == 2 else torch.zeros(shape)


def group_kv_heads(name, kv_heads, pooling):
    model = load(name)
    state, config = model.state_dict(), model.config
    head_dim = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    prefix = f"gqa.{name}.{kv_heads}.{pooling}"
    for key in state:
        if ".k_proj." in key or ".v_proj." in key:
            state[key] = pooled(key, state[key], head_dim, kv_heads, pooling)
            found[prefix + key.removeprefix("model").replace(".self_attn", "")] = state[key].clone()
    found[f"{prefix}.logits"] = logits(with_config(name, state, num_key_value_heads=kv_heads), input_ids(name))


def importance(model, sequences):
    """Of every layer's channels, by what `down_proj` reads."""
    seen = [[] for _ in model.model.layers]
    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(
            lambda _, inputs, layer=i: seen[layer].append(inputs[0][0].double().abs().mean(0)))
        for i, layer in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        for sequence in sequences:
            model(sequence[None])
    for hook in hooks:
        hook.remove()
    return torch.stack([torch.stack(means).square().sum(0).sqrt() for means in seen])


def prune(name, scores, layers):
    model = load(name)
    state = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if parts[1] == "layers":
            old = int(parts[2])
            if old not in layers:
                continue
            parts[2] = str(layers.index(old))
            kept = scores[old].topk(WIDTH).indices.sort().values
            if parts[-2] in ("gate_proj", "up_proj"):
                value = value[kept]
            elif parts[-2] == "down_proj" and parts[-1] == "weight":
                value = value[:, kept]
        state[".".join(parts)] = value
    changes = {"intermediate_size": WIDTH, "num_hidden_layers": len(layers)}
    if types := getattr(model.config, "layer_types", None):
        changes["layer_types"] = [types[layer] for layer in layers]
    return with_config(name, state, **changes)


def main():
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    for case in GQA:
        group_kv_heads(*case)
    for name in ("llama_bias", "mistral"):
        model, ids = load(name), input_ids(name)
        scores = importance(model, ids)
        found[f"width.{name}.importance"] = scores
        found[f"width.{name}.padded"] = importance(model, [ids[0], ids[1][:14]])
        found[f"width.{name}.logits"] = logits(prune(name, scores, range(len(scores))), ids)
    name = "qwen2_window"
    ids = input_ids(name)
    found[f"both.{name}.logits"] = logits(prune(name, importance(load(name), ids), [0, 2]), ids)
    save_file({key: value.contiguous() for key, value in found.items()},
              Path(__file__).parent / "surgery.safetensors")


main()
