"""Random models with the shapes of Qwen2.5-Coder 1.5B and 0.5B, and a text for them: what the GPU benchmarks run on.

    python benches/gpu/make_models.py runs/gpu
    python benches/gpu/make_models.py runs/gpu-tiny --tiny

Speed does not depend on the weights, and the machine needs no network. Both models are Hugging Face directories in bf16
that all programs read. The tokenizer's tokens are the words w0, w1, …, as many as Qwen has; the text is random
words, so that ids come from the whole vocabulary. A directory that is there already is left alone.
"""
import argparse
import json
import random
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import shapes

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("directory", type=Path)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--tokens", type=int, default=1_000_000, help="of the text")
args = parser.parse_args()


def tokenizer(words):
    return {
        "version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None, "decoder": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(words)}, "unk_token": "w0"},
    }


def make(name, shape, words):
    torch.manual_seed(len(name))
    config = Qwen2Config(**shape, tie_word_embeddings=True, max_position_embeddings=32768, rms_norm_eps=1e-6,
                         rope_parameters={"rope_type": "default", "rope_theta": 1e6}, dtype="bfloat16",
                         bos_token_id=None, eos_token_id=None)
    torch.set_default_dtype(torch.bfloat16)
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(args.directory / name)
    (args.directory / name / "tokenizer.json").write_text(json.dumps(tokenizer(words)))
    (args.directory / name / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "w0"}))


done = args.directory / "done"
if not done.exists():
    teacher, student, words = shapes.of(args.tiny)
    make("teacher", teacher, words)
    make("student", student, words)
    draw = random.Random(0)
    (args.directory / "text.txt").write_text(
        " ".join(f"w{draw.randrange(words)}" for _ in range(20_000 if args.tiny else args.tokens)))
    done.touch()
