"""Exports a model to GGUF in every type and asks others what they make of the files.

    pip install gguf xllamacpp torch transformers && python check_gguf_in_llama_cpp.py DISTILL [MODEL [TYPE …]]

DISTILL is the binary. Without a MODEL it takes the checkpoints beside it, one for each architecture, gives them a tokenizer and
compares the log-probabilities of llama.cpp on the F32 export with ours. MODEL is what `distill export --model` takes; for each type
of it the script prints
- how many tensors are, byte for byte, what ggml's own quantisers make of the F32 export;
- how far the log-probabilities of llama.cpp are from ours on 256 tokens that it generates greedily, and the same for the values of
  that file as F32 (beside quantised weights it rounds activations to 8 bits, which we do not);
- the NLL of transformers, which reads the file with its own code, against ours, on 2,000 tokens,
and, once, on how many of a list of texts llama.cpp's tokenizer, from the exported file, gives other ids than ours.
"""

import ctypes
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import gguf
import numpy as np
import xllamacpp

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0"]
PROMPT = "The history of the steam engine begins in the first century"
TEXTS = [
    "The capital of France is Paris.", "  1 indented\n    42 more", "don't, we'll, I'VE, it's", "3.14159 and 1,234,567",
    "\tif x != y:\n\t\treturn x ** 2\n", "trailing space ", "\n\n\n", " ", "a\r\nb\r\n", "...!?--==++", "日本語のテキスト",
    "안녕하세요 세계", "Привет, мир", "🙂👩‍👩‍👧‍👦 emoji", "naïve café", "x" * 300, "<|im_start|>user\nhi<|im_end|>\n",
    "http://example.org/a?b=c&d=%20", "{\"a\": [1, 2.5e-3, null]}", "\u00a0nbsp\u2003em", "ﬁ ligature ①②", "١٢٣ ४५६",
]


def distill(*arguments):
    done = subprocess.run([DISTILL, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"distill {' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout


def score(model, ids, place):
    path = place / "ids.json"
    path.write_text(json.dumps(ids))
    return json.loads(distill("score", "--model", model, "--ids", path, "--json"))


def quantised_alike(path, plain):
    """Tensors of the file that are what ggml makes of the F32 file's values."""
    package = Path(importlib.util.find_spec("xllamacpp").origin).parent
    lib = ctypes.CDLL(str(next(package.glob("*.so"))))
    call = lib.ggml_quantize_chunk
    call.restype = ctypes.c_size_t
    call.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    values = {tensor.name: tensor for tensor in gguf.GGUFReader(plain).tensors}
    alike, total = 0, 0
    for tensor in gguf.GGUFReader(path).tensors:
        source = np.ascontiguousarray(values[tensor.name].data, dtype=np.float32)
        rows, columns = (1, source.size) if source.ndim == 1 else source.shape
        if tensor.tensor_type == gguf.GGMLQuantizationType.F32:
            expected = source.view(np.uint8)
        else:
            expected = np.zeros(tensor.n_bytes, dtype=np.uint8)
            written = call(tensor.tensor_type.value, source.ctypes.data, expected.ctypes.data, 0, rows, columns, None)
            assert written == tensor.n_bytes
        total += 1
        alike += np.array_equal(np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1), expected.reshape(-1))
    return alike, total


class LlamaCpp:
    def __init__(self, path):
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.n_predict, params.warmup = 2048, 1, 256, False
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.verbosity, params.cpuparams.n_threads = -1, len(os.sched_getaffinity(0))
        self.server = xllamacpp.Server(params)

    def ask(self, path, question):
        request = urllib.request.Request(self.server.listening_address + path, json.dumps(question).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tokenize(self, text):
        return self.ask("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]

    def generate(self, ids, count):
        answer = self.ask("/completion", {"prompt": ids, "n_predict": count, "temperature": 0, "n_probs": 1, "ignore_eos": True,
                                          "cache_prompt": False, "samplers": ["temperature"]})
        tokens = answer["completion_probabilities"]
        return [token["id"] for token in tokens], [token["logprob"] for token in tokens]


def transformers_nll(path, ids):
    import torch
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1]
    parts = zip(logits.split(256), torch.tensor(ids[1:]).split(256))
    return sum(torch.nn.functional.cross_entropy(a.double(), b, reduction="sum").item() for a, b in parts) / len(logits)


def compare(path, place, prompt, count):
    """Ours and llama.cpp's log-probabilities of what it generates."""
    llama = LlamaCpp(path)
    generated, logprobs = llama.generate(prompt, count)
    found = score(path, prompt + generated, place)["logprobs"][len(prompt) - 1:]
    return llama, np.abs(np.array(found) - np.array(logprobs))


def print_texts(path, place, llama):
    other = 0
    for text in TEXTS:
        (place / "sample.txt").write_bytes(text.encode())
        ours = json.loads(distill("score", "--model", path, "--file", place / "sample.txt", "--json"))["ids"]
        theirs = llama.tokenize(text)
        if ours != theirs:
            other += 1
            print(f"      {text!r}: ours {ours}, llama.cpp {theirs}")
    print(f"      other ids for {other} of {len(TEXTS)} texts", flush=True)


def architectures(place):
    characters = [chr(c) for c in range(ord("!"), ord("~"))][:76]
    tokens = ["<unk>", "<s>", "</s>", *characters, "!!"]
    tokenizer = {
        "version": "1.0", "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": i, "content": tokens[i], "special": True, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False} for i in range(3)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": ["! !"]},
    }
    for source in sorted((Path(__file__).parent / "checkpoints").iterdir()):
        model = place / source.name
        shutil.copytree(source, model)
        (model / "tokenizer.json").write_text(json.dumps(tokenizer))
        (model / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
        path = place / f"{source.name}.gguf"
        if source.name == "qwen2_window":
            continue  # GGUF cannot say which layers have the window.
        distill("export", "--model", model, "--to", "gguf", "--type", "F32", "--out", path, "--verify")
        # Mistral's window of 8 is none of llama.cpp's: all of it lies within.
        first, count = (3, 6) if source.name == "mistral" else (8, 40)
        prompt = [(7 * i + 4) % 80 for i in range(first)]
        _, difference = compare(path, place, prompt, count)
        print(f"{source.name:18} mean {difference.mean():.6f} largest {difference.max():.6f} ({count} tokens)", flush=True)


def main():
    place = Path(tempfile.mkdtemp(dir=os.environ.get("TMPDIR")))
    if len(sys.argv) == 2:
        return architectures(place)
    model = sys.argv[2]
    plain = place / "F32.gguf"
    distill("export", "--model", model, "--to", "gguf", "--type", "F32", "--out", plain)
    heldout = Path(__file__).parents[2] / "recipes/data/heldout.txt"
    text = place / "text.txt"
    text.write_text(heldout.read_text()[:10_000])
    for number, kind in enumerate(sys.argv[3:] or TYPES):
        path = place / f"{kind}.gguf"
        if kind != "F32":
            distill("export", "--model", model, "--to", "gguf", "--type", kind, "--out", path)
        alike, total = quantised_alike(path, plain)
        ids = json.loads(distill("score", "--model", path, "--file", text, "--json"))["ids"][:2000]
        ours, theirs = score(path, ids, place)["nll"], transformers_nll(path, ids)
        (place / "sample.txt").write_text(PROMPT)
        prompt = json.loads(distill("score", "--model", path, "--file", place / "sample.txt", "--json"))["ids"]
        llama, difference = compare(path, place, prompt, 256)
        print(f"{kind:5} {path.stat().st_size / 1e6:7.1f} MB  bytes {alike}/{total}  llama.cpp mean {difference.mean():.5f} largest "
              f"{difference.max():.4f} ({len(difference)} tokens)  transformers NLL {theirs:.6f} ours {ours:.6f} "
              f"({(theirs / ours - 1) * 100:+.4f} %)", flush=True)
        if number == 0:
            print_texts(path, place, llama)
        del llama
        if kind.startswith("Q"):
            values = place / "values.gguf"
            distill("export", "--model", path, "--to", "gguf", "--type", "F32", "--out", values)
            _, difference = compare(values, place, prompt, 256)
            print(f"      its values as F32: mean {difference.mean():.5f} largest {difference.max():.4f}", flush=True)
            values.unlink()
        if kind != "F32":
            path.unlink()


DISTILL = sys.argv[1]
main()
