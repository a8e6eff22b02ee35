"""A fine-tuning step of the 1.5B model in PyTorch: all weights, LoRA by PEFT, QLoRA by PEFT and bitsandbytes.

    python benches/gpu/pytorch_adapters.py --mode qlora

Cross-entropy on 8 × 2048 tokens, bf16 by autocast, SDPA, fused AdamW on what is trained. Adapters: rank 16, α 32, every linear
layer. QLoRA: NF4 with double quantisation. Nothing is checkpointed.
"""
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import torch_loop


def load(args):
    options = {"attn_implementation": "sdpa", "use_cache": False, "device_map": args.device}
    if args.mode == "full":
        return AutoModelForCausalLM.from_pretrained(args.models / "teacher", dtype=torch.float32, **options)
    from peft import LoraConfig, get_peft_model
    if args.mode == "qlora":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(args.models / "teacher", dtype=torch.bfloat16, **options)
    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear",
                                            task_type="CAUSAL_LM"))


def main():
    args = torch_loop.arguments(["full", "lora", "qlora"])
    model = load(args).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), fused=True)

    def step(ids, targets):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(args.device, torch.bfloat16):
            loss = F.cross_entropy(model(ids).logits.flatten(0, 1).float(), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return loss.detach()

    torch_loop.run(args, step)


main()
