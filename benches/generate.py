"""Greedy text generation against transformers and llama.cpp: speed and memory, alternating in one run.

    cargo build --release
    pip install torch transformers xllamacpp
    python benches/generate.py

SmolLM2-135M-Instruct, once with one prompt, once with eight together, once a long prompt. Distillery and llama.cpp
read the same GGUF file (Q4_1, embedding Q8_0); transformers reads the same weights in f32, as `distill export` writes
them. Each round runs every program once, each in a process of its own. Speeds are medians over the rounds, without loading.
Prefill ends with the first new token, so the first token of each prompt is not counted as decoded. Prints Markdown tables.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
# name, prompts, tokens of a prompt, new tokens, what is shown
CASES = [
    ("decoding, one prompt", 1, 32, 128, "decode"),
    ("decoding, eight prompts together", 8, 32, 128, "decode"),
    ("prefill, one prompt of 512 tokens", 1, 512, 2, "prefill"),
]
TINY = [("decoding, two prompts", 2, 8, 4, "decode"), ("prefill", 1, 16, 2, "prefill")]
PROGRAMS = ["Distillery", "transformers", "llama.cpp"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distill", default=ROOT / "target/release/distill", type=Path, help="the binary")
    parser.add_argument("--model", type=Path, help="the GGUF file; that of the quickstart, in its cache, when left out")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with transformers and xllamacpp")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without", choices=PROGRAMS[1:], nargs="*", default=[])
    parser.add_argument("--tiny", action="store_true", help="a few tokens, to see that everything works")
    args = parser.parse_args()
    if not args.distill.is_file():
        parser.error(f"there is no {args.distill}: build it, or say --distill PATH")
    args.model = args.model or cached()
    if not args.model.is_file():
        parser.error(f"there is no {args.model}: run `distill run recipes/quickstart.toml`, or say --model FILE")
    return args


def cached():
    with open(ROOT / "recipes/quickstart.toml", "rb") as file:
        source = tomllib.load(file)["models"]["teacher"]["source"]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path(os.environ.get("DISTILL_CACHE") or home / "distill")
    return cache / "files" / source["sha256"] / Path(source["files"][0]).name


def run(command, threads):
    env = os.environ | {"RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([str(part) for part in command], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{done.stderr}\n{command[0]} ended with {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def distillery(args, prompts, new):
    return run([args.distill, "generate", "--device", "cpu", "--model", args.model, "--raw", "--prompts", prompts,
                "--max-tokens", new, "--json", "--stats"], args.threads)


def peer(args, name, exported, prompts, new):
    model = exported if name == "transformers" else args.model
    [found] = run([args.python, ROOT / "benches/peer_generate.py", "--with", name, "--model", model,
                   "--prompts", prompts, "--max-tokens", new, "--threads", args.threads], args.threads)
    return found


def write_prompts(args, exported, place, count, length, new):
    """Passages of the quickstart's book, cut to one length, whose continuations do not end early."""
    tokenizer = Tokenizer.from_file(str(exported / "tokenizer.json"))
    ids = tokenizer.encode((ROOT / "recipes/data/book.txt").read_text()).ids
    cuts = (tokenizer.decode(ids[start:start + length]) for start in range(0, len(ids) - length, 2 * length))
    passages = [cut for cut in cuts if len(tokenizer.encode(cut).ids) == length][:3 * count + 2]
    path = place / f"{count}-{length}.jsonl"
    path.write_text("".join(json.dumps(text) + "\n" for text in passages))
    whole = [answer.get("finish_reason") == "length" for answer in distillery(args, path, new)[:-1]]
    chosen = [text for text, goes_on in zip(passages, whole) if goes_on][:count]
    if len(chosen) < count:
        sys.exit(f"only {len(chosen)} of {len(passages)} passages are continued for {new} tokens")
    path.write_text("".join(json.dumps(text) + "\n" for text in chosen))
    return path


def measure(args, exported, place, case):
    name, count, length, new, _ = case
    prompts = write_prompts(args, exported, place, count, length, new)
    found = {}
    for number in range(args.rounds):
        for who in PROGRAMS:
            if who in args.without:
                continue
            stats = (distillery(args, prompts, new)[-1]["stats"] if who == "Distillery"
                     else peer(args, who, exported, prompts, new))
            expected = (count * length, count * new)
            if (stats["prompt_tokens"], stats["new_tokens"]) != expected:
                sys.exit(f"{who} read and wrote {stats['prompt_tokens']} and {stats['new_tokens']} tokens, not {expected}")
            stats["prefill"] = stats["prompt_tokens"] / stats["prefill_seconds"]
            stats["decode"] = (stats["new_tokens"] - count) / stats["decode_seconds"]
            found.setdefault(who, []).append(stats)
            print(f"{name}, round {number + 1}/{args.rounds}, {who}: {stats['prefill']:.1f} tokens/s prefill, "
                  f"{stats['decode']:.1f} decoding", file=sys.stderr)
    return found


def speed_table(case, found):
    name, _, _, _, shown = case
    print(f"\n{name}\n\n| program | tokens/s | slowest and fastest round | speed of Distillery to it "
          "| peak memory, MiB | memory of Distillery to it |\n|---|---:|---:|---:|---:|---:|")
    speeds = {who: [stats[shown] for stats in rounds] for who, rounds in found.items()}
    middle = {who: statistics.median(rounds) for who, rounds in speeds.items()}
    peaks = {who: max(stats["peak_bytes"] for stats in rounds) for who, rounds in found.items()}
    for who, rounds in speeds.items():
        print(f"| {who} | {middle[who]:.1f} | {min(rounds):.1f} – {max(rounds):.1f} "
              f"| {middle['Distillery'] / middle[who]:.2f} | {peaks[who] / 2**20:.0f} "
              f"| {peaks['Distillery'] / peaks[who]:.2f} |")


def load_table(args, found):
    size = args.model.stat().st_size
    print(f"\nthe loaded model; the file has {size / 2**20:.0f} MiB\n")
    print("| program | loading, s | held, MiB | of the file |\n|---|---:|---:|---:|")
    for who, rounds in found.items():
        held = statistics.median(stats["loaded_bytes"] for stats in rounds)
        seconds = statistics.median(stats["load_seconds"] for stats in rounds)
        print(f"| {who} | {seconds:.2f} | {held / 2**20:.0f} | {held / size:.2f} |")


def main():
    args = arguments()
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        exported = place / "model"
        subprocess.run([args.distill, "export", "--device", "cpu", "--model", args.model, "--to", "safetensors",
                        "--out", exported], check=True, stdout=subprocess.DEVNULL)
        results = [(case, measure(args, exported, place, case)) for case in (TINY if args.tiny else CASES)]
    print(f"\nSmolLM2-135M-Instruct, greedy, {args.threads} threads, {args.rounds} rounds")
    for case, found in results:
        speed_table(case, found)
    load_table(args, results[0][1])


main()
