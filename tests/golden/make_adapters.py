"""LoRA adapters as PEFT writes them, and what they compute, on the checkpoint llama_gqa.

    python tests/golden/make_adapters.py        (after make_checkpoints.py; torch, transformers, peft 0.21.2)

Each adapters/<name>/ holds adapter_config.json, adapter_model.safetensors and computed.safetensors:
    logits             f32 [2, 24, 80] for the input_ids of llama_gqa's batch.safetensors, computed in f32
    logits_of_f64      the same, computed in f64 and rounded
    gradient.<tensor>  of the mean cross-entropy over the batch's masked-in positions, by the adapter's tensor names
"""
import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
BASE = HERE / "checkpoints" / "llama_gqa"

ADAPTERS = {
    "all": dict(r=4, lora_alpha=6, target_modules="all-linear"),
    "patterns": dict(
        r=4, lora_alpha=8, use_rslora=True, target_modules=r".*\.(q_proj|v_proj|down_proj)",
        rank_pattern={"v_proj": 2}, alpha_pattern={"layers.1.mlp.down_proj": 3, "v_proj": 5}),
}

for name, settings in ADAPTERS.items():
    torch.manual_seed(20260101)
    directory = HERE / "adapters" / name
    shutil.rmtree(directory, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager")
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    config = json.loads((directory / "adapter_config.json").read_text())
    # The path of the machine that made it.
    config["base_model_name_or_path"] = "llama_gqa"
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    batch = load_file(BASE / "batch.safetensors")
    logits = model(batch["input_ids"]).logits
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch["targets"].flatten(), reduction="none")
    mask = batch["mask"].flatten().float()
    ((losses * mask).sum() / mask.sum()).backward()
    gradients = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    gradients = get_peft_model_state_dict(model, state_dict=gradients)
    with torch.no_grad():
        exact = model.double()(batch["input_ids"]).logits.float()
    save_file(
        {"logits": logits.detach().contiguous(), "logits_of_f64": exact.contiguous()}
        | {f"gradient.{key}": value.contiguous() for key, value in gradients.items()},
        directory / "computed.safetensors",
    )
