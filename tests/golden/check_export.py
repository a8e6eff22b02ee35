"""What transformers computes from a Hugging Face directory that `distill export` wrote.

    python tests/golden/check_export.py DIR IDS.json

IDS.json holds one array of token ids, or an array of such arrays. Prints one JSON object:
    {"ids": [[…]], "logits": [[[…]]], "missing": […], "unexpected": […], "text": […] | null}
`text` is the ids decoded, when the directory holds a tokenizer.
"""
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging


def main():
    logging.disable_progress_bar()
    directory, ids_file = Path(sys.argv[1]), Path(sys.argv[2])
    ids = json.loads(ids_file.read_text())
    if ids and isinstance(ids[0], int):
        ids = [ids]
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    model.eval()
    with torch.no_grad():
        logits = [model(torch.tensor([row])).logits[0].tolist() for row in ids]
    text = None
    if (directory / "tokenizer.json").exists() or (directory / "tokenizer_config.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(directory)
        text = [tokenizer.decode(row) for row in ids]
    print(json.dumps({
        "ids": ids, "logits": logits, "missing": sorted(map(str, info["missing_keys"])),
        "unexpected": sorted(map(str, info["unexpected_keys"])), "text": text,
    }))


main()
