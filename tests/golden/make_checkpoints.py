"""Tiny random checkpoints as transformers writes them, and what they compute.

    python tests/golden/make_checkpoints.py

Each checkpoints/<name>/ holds config.json, the weights and logits.safetensors:
    input_ids  i64 [2, 24]
    logits     f32 [2, 24, vocab]
Weights stored in half precision are widened before anything is computed: the logits are always
those of an f32 forward pass with eager attention.
llama_gqa also holds a training record, and llama_gqa and mistral a packed row (see README.md).
"""
import json
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers.utils import logging
from transformers import (
    LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM,
    Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM,
)

ROOT = Path(__file__).parent / "checkpoints"
VOCAB, BATCH, LENGTH = 80, 2, 24
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


def shape(**changes):
    return dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
                rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True) | changes


def rope(kind="default", theta=10000.0, **more):
    return {"rope_type": kind, "rope_theta": theta, **more}


# Two heads of width 16, so that the llama3 scaling has a frequency on each of its three branches:
# wavelengths below 32/4 stay, those above 32 are divided by 8, and 19.9 lies between.
LLAMA3 = rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)

CHECKPOINTS = {
    "llama_tied": (LlamaForCausalLM, LlamaConfig, shape(num_key_value_heads=4, rope_parameters=rope()), F32),
    "llama_untied": (LlamaForCausalLM, LlamaConfig, shape(
        num_key_value_heads=4, tie_word_embeddings=False, rope_parameters=rope()), BF16),
    "llama_gqa": (LlamaForCausalLM, LlamaConfig, shape(
        tie_word_embeddings=False, rope_parameters=rope(theta=100000.0)), F32),
    "llama3_rope": (LlamaForCausalLM, LlamaConfig, shape(
        num_attention_heads=2, num_key_value_heads=1, rope_parameters=LLAMA3), BF16),
    "llama_bias": (LlamaForCausalLM, LlamaConfig, shape(
        attention_bias=True, mlp_bias=True, rope_parameters=rope()), F16),
    "llama_linear_rope": (LlamaForCausalLM, LlamaConfig, shape(
        rope_parameters=rope("linear", factor=4.0)), BF16),
    "mistral": (MistralForCausalLM, MistralConfig, shape(
        tie_word_embeddings=False, sliding_window=8, rope_parameters=rope()), BF16),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, shape(rope_parameters=rope(theta=1e6)), BF16),
    # transformers gives the window to the layers from max_window_layers on: here 1 and 2.
    "qwen2_window": (Qwen2ForCausalLM, Qwen2Config, shape(
        num_hidden_layers=3, use_sliding_window=True, sliding_window=8, max_window_layers=1,
        rope_parameters=rope(theta=1e6)), BF16),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, shape(
        head_dim=16, rms_norm_eps=1e-6, rope_parameters=rope(theta=1e6)), BF16),
}


def randomise(model, generator):
    """Large weights, uneven norms and non-zero biases: a mistake anywhere shows in the logits."""
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            noise = 1.0 + 0.25 * noise
        else:
            noise = 0.3 * noise
        parameter.data.copy_(noise)


def packed(model, ids, first):
    """One row of two segments; the logits are those of the segments run apart."""
    with torch.no_grad():
        apart = [model(part[None]).logits[0] for part in (ids[:first], ids[first:])]
    return {
        "input_ids": ids.clone(),
        "position_ids": torch.cat([torch.arange(first), torch.arange(len(ids) - first)]),
        "segment_ids": torch.tensor([0] * first + [1] * (len(ids) - first)),
        "logits": torch.cat(apart),
    }


def mean_loss(model, batch):
    logits = model(batch["input_ids"]).logits
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch["targets"].flatten(), reduction="none")
    mask = batch["mask"].flatten().float()
    return (loss * mask).sum() / mask.sum()


def train(model, directory, generator):
    """Gradients of the first step, then three steps of AdamW on the same batch."""
    batch = {
        "input_ids": torch.randint(0, VOCAB, (BATCH, LENGTH), generator=generator),
        "targets": torch.randint(0, VOCAB, (BATCH, LENGTH), generator=generator),
        "mask": torch.rand((BATCH, LENGTH), generator=generator) < 0.7,
    }
    base, warmup, total, decay, clip = 1e-2, 1, 4, 0.1, 1.0

    def lr(step):  # steps count from 0
        if step < warmup:
            return base * (step + 1) / (warmup + 1)
        return base * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))

    decayed = [n for n, p in model.named_parameters() if p.ndim == 2]
    groups = [
        {"params": [p for p in model.parameters() if p.ndim == 2], "weight_decay": decay},
        {"params": [p for p in model.parameters() if p.ndim != 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=base, betas=(0.9, 0.95), eps=1e-8)
    record = {
        "optimizer": {"lr": base, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": decay, "clip": clip},
        "schedule": {"kind": "cosine", "warmup": warmup, "total": total},
        "decayed": decayed,
        "steps": [],
    }
    for step in range(3):
        optimizer.zero_grad()
        loss = mean_loss(model, batch)
        loss.backward()
        if step == 0:
            save_file({n: p.grad.clone() for n, p in model.named_parameters()}, directory / "gradients.safetensors")
        for group in optimizer.param_groups:
            group["lr"] = lr(step)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        record["steps"].append({"loss": loss.item(), "grad_norm": norm.item(), "lr": lr(step)})
    record["loss_after"] = mean_loss(model, batch).item()
    save_file({n: p.data.clone() for n, p in model.named_parameters()}, directory / "after_three_steps.safetensors")
    save_file({k: v.to(torch.uint8) if k == "mask" else v for k, v in batch.items()},
              directory / "batch.safetensors")
    (directory / "training.json").write_text(json.dumps(record, indent=1) + "\n")


def classic_config(config):
    """config.json as transformers wrote it before version 5: most published models look like this."""
    old = dict(config)
    scaling = dict(old.pop("rope_parameters"))
    old["rope_theta"] = scaling.pop("rope_theta")
    old["rope_scaling"] = None if scaling["rope_type"] == "default" else scaling
    old["torch_dtype"] = old.pop("dtype")
    old["transformers_version"] = "4.46.0"
    return old


def main():
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    shutil.rmtree(ROOT, ignore_errors=True)
    for seed, (name, (model_class, config_class, values, dtype)) in enumerate(CHECKPOINTS.items()):
        generator = torch.Generator().manual_seed(1000 + seed)
        directory = ROOT / name
        model = model_class(config_class(**values))
        randomise(model, generator)
        model.to(dtype)
        # llama_untied goes out in shards, to have an index to read.
        shard = "24KB" if name == "llama_untied" else "5GB"
        model.save_pretrained(directory, max_shard_size=shard)
        # Read back, not widened in place: model.to(bfloat16) has rounded the RoPE frequencies too.
        model = model_class.from_pretrained(directory, dtype=F32, attn_implementation="eager").eval()

        ids = torch.randint(0, VOCAB, (BATCH, LENGTH), generator=generator)
        with torch.no_grad():
            logits = model(ids).logits
        save_file({"input_ids": ids, "logits": logits}, directory / "logits.safetensors")

        if name in ("llama_gqa", "mistral"):
            save_file(packed(model, ids[0], first=10), directory / "packed.safetensors")
        if name == "llama_gqa":
            train(model, directory, generator)
        if name in ("llama3_rope", "llama_linear_rope", "qwen3"):
            config = json.loads((directory / "config.json").read_text())
            (directory / "config_v4.json").write_text(json.dumps(classic_config(config), indent=2) + "\n")

        p = logits.softmax(-1)
        entropy = -(p * p.clamp_min(1e-30).log()).sum(-1).mean()
        print(f"{name:18} {str(dtype):15} logits std {logits.std():.2f}  entropy {entropy:.2f} of {math.log(VOCAB):.2f}")


if __name__ == "__main__":
    main()
