"""Logits that PEFT computes with an adapter of ours; used by hand.

    python tests/golden/check_adapter.py BASE ADAPTER IDS.json

BASE is a Hugging Face directory, ADAPTER what `distill export --to peft` wrote, IDS.json one array of token ids. Prints
one JSON object: `logprobs`, where logprobs[i] belongs to ids[i + 1] given ids[..=i], as `distill score --json` does.
"""
import json
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

base, adapter, ids = sys.argv[1:]
ids = json.load(open(ids))
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
model = PeftModel.from_pretrained(model, adapter).eval()
with torch.no_grad():
    log_probs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
logprobs = [log_probs[i, ids[i + 1]].item() for i in range(len(ids) - 1)]
print(json.dumps({"logprobs": logprobs, "nll": -sum(logprobs) / max(len(logprobs), 1)}))
