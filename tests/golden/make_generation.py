"""Sampling transforms as transformers applies them, and greedy continuations.

    python tests/golden/make_generation.py        # after make_checkpoints.py

Writes generation.json. Order of the transforms, as in GenerationMixin: repetition penalty,
temperature, top-k, top-p, min-p; a filtered token is null in `log_probs`.
"""
import json
import math
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM
from transformers.generation.logits_process import (
    LogitsProcessorList, MinPLogitsWarper, RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper,
)
from transformers.utils import logging

HERE = Path(__file__).parent
PROCESSORS = {
    "repetition_penalty": RepetitionPenaltyLogitsProcessor,
    "temperature": TemperatureLogitsWarper,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
}
SETTINGS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.5},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 1000},
    {"top_p": 0.5},
    {"top_p": 0.9},
    {"min_p": 0.1},
    {"repetition_penalty": 1.3},
    {"temperature": 0.8, "top_k": 10, "top_p": 0.9},
    {"repetition_penalty": 1.1, "temperature": 1.2, "top_k": 20, "top_p": 0.95, "min_p": 0.05},
]


def sampling():
    generator = torch.Generator().manual_seed(11)
    logits = ((1.2 * torch.randn((2, 31), generator=generator)) * 1000).round() / 1000
    previous = torch.tensor([[3, 3, 17, 30], [0, 5, 9, 28]])
    cases = []
    for setting in SETTINGS:
        chain = LogitsProcessorList(make(setting[k]) for k, make in PROCESSORS.items() if k in setting)
        rows = torch.log_softmax(chain(previous, logits.clone()).double(), -1).tolist()
        rows = [[None if x == -math.inf else round(x, 9) for x in row] for row in rows]
        cases.append({"settings": setting, "log_probs": rows})
    return {"logits": [[round(x, 3) for x in row] for row in logits.tolist()],
            "previous": previous.tolist(), "cases": cases}


def greedy():
    model = AutoModelForCausalLM.from_pretrained(
        HERE / "checkpoints/llama_gqa", dtype=torch.float32, attn_implementation="eager")
    answers = []
    for prompt in ([1, 7, 23, 42, 11], [5, 60, 33]):
        ids, margins = list(prompt), []
        for _ in range(16):  # no cache and no stop: the plainest loop there is
            with torch.no_grad():
                best = model(torch.tensor([ids])).logits[0, -1].topk(2)
            ids.append(best.indices[0].item())
            margins.append((best.values[0] - best.values[1]).item())
        answers.append({"prompt": prompt, "continuation": ids[len(prompt):],
                        "smallest_margin": round(min(margins), 6)})
    return {"checkpoint": "llama_gqa", "cases": answers}


def main():
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    golden = {"sampling": sampling(), "greedy": greedy()}
    (HERE / "generation.json").write_text(json.dumps(golden, separators=(",", ":"), allow_nan=False) + "\n")
    for case in golden["sampling"]["cases"]:
        print(case["settings"], "kept", [sum(x is not None for x in row) for row in case["log_probs"]])
    print(golden["greedy"])


if __name__ == "__main__":
    main()
