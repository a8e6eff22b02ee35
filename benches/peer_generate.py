"""Greedy decoding by transformers or llama.cpp: the peers of `generate.py`. Prints one line of JSON.

    python benches/peer_generate.py --with transformers --model DIRECTORY --prompts FILE --max-tokens 128
    python benches/peer_generate.py --with llama.cpp --model FILE.gguf --prompts FILE --max-tokens 128

The keys are those of `distill generate --stats --json`.
"""
import argparse
import json
import os
import threading
import time
from pathlib import Path


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--with", dest="peer", choices=["transformers", "llama.cpp"], required=True)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file for llama.cpp, a directory for transformers")
    parser.add_argument("--prompts", type=Path, required=True, help="a JSON string a line, all of one length")
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def status_bytes(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {key} in /proc/self/status")


def transformers(args, prompts):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria
    torch.set_num_threads(args.threads)
    begin = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    load, loaded = time.perf_counter() - begin, status_bytes("VmRSS:")
    times = []

    class Clock(StoppingCriteria):
        def __call__(self, ids, scores, **_):
            times.append(time.perf_counter())
            return torch.zeros(ids.shape[0], dtype=torch.bool)

    rows = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    assert len({len(row) for row in rows}) == 1, "prompts of one length need no padding"
    ids = torch.tensor(rows)
    with torch.inference_mode():
        model(ids[:1, :4])  # what is set up at the first call is not timed
        begin = time.perf_counter()
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, stopping_criteria=[Clock()],
                             max_new_tokens=args.max_tokens, min_new_tokens=args.max_tokens, pad_token_id=0)
    assert out.shape[1] - ids.shape[1] == args.max_tokens == len(times)
    return {"prompt_tokens": ids.numel(), "new_tokens": args.max_tokens * len(prompts), "load_seconds": load,
            "loaded_bytes": loaded, "prefill_seconds": times[0] - begin, "decode_seconds": times[-1] - times[0]}


def llama_cpp(args, prompts):
    import xllamacpp
    params = xllamacpp.CommonParams()
    params.model.path = str(args.model)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
    params.n_parallel, params.n_ctx, params.n_gpu_layers = len(prompts), 1024 * len(prompts), 0
    begin = time.perf_counter()
    server = xllamacpp.Server(params)
    load, loaded = time.perf_counter() - begin, status_bytes("VmRSS:")
    # The first new token of the last prompt ends the prefill, the last token of all the decoding.
    first, last, prompt_tokens = [None] * len(prompts), [None] * len(prompts), [0] * len(prompts)
    new_tokens = [0] * len(prompts)

    def complete(number):
        def on_part(part):
            now = time.perf_counter()
            first[number] = first[number] or now
            last[number] = now
            part = part if isinstance(part, dict) else json.loads(part)
            if "timings" in part:
                prompt_tokens[number] = part["timings"]["prompt_n"]
                new_tokens[number] = part["timings"]["predicted_n"]
        server.handle_completions({
            "prompt": prompts[number], "max_tokens": args.max_tokens, "temperature": 0, "ignore_eos": True,
            "stream": True, "cache_prompt": False}, on_part)

    begin = time.perf_counter()
    workers = [threading.Thread(target=complete, args=(number,)) for number in range(len(prompts))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sum(new_tokens) == args.max_tokens * len(prompts), new_tokens
    return {"prompt_tokens": sum(prompt_tokens), "new_tokens": sum(new_tokens), "load_seconds": load,
            "loaded_bytes": loaded, "prefill_seconds": max(first) - begin, "decode_seconds": max(last) - max(first)}


def main():
    args = arguments()
    prompts = [json.loads(line) for line in args.prompts.read_text().splitlines()]
    found = {"transformers": transformers, "llama.cpp": llama_cpp}[args.peer](args, prompts)
    print(json.dumps(found | {"prompts": len(prompts), "peak_bytes": status_bytes("VmHWM:")}), flush=True)
    os._exit(0)  # the server of llama.cpp does not always end by itself


main()
