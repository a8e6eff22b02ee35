"""Greedy generation with and without a draft: speed in alternating rounds, and with --check token for token.

    cargo build --release
    python benches/speculative.py --draft runs/smollm2-distill/distill-0123456789ab/model
    python benches/speculative.py --check --prompts 50 --tokens 32

SmolLM2-135M-Instruct continues passages of the quickstart's book, one a process, plain and with drafts in turn. Without
--draft a copy of it without some of its layers drafts: it is not trained, so it is good for --check and slow otherwise.
Speeds are tokens a second behind the first token of each prompt, medians over the rounds. Where --check finds another
token it scores the text before it, and prints how far the logits of the two tokens are apart: at most 1e-3 passes.
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

ROOT = Path(__file__).resolve().parent.parent
# Of 30 layers.
LEFT_OUT = [9, 13, 17, 21]
PASSAGE = 160  # characters
LARGEST_GAP = 1e-3


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distill", default=ROOT / "target/release/distill", type=Path, help="the binary")
    parser.add_argument("--model", type=Path, help="the teacher; that of the quickstart, in its cache, when left out")
    parser.add_argument("--draft", type=Path, help="the student; the teacher without some layers when left out")
    parser.add_argument("--draft-tokens", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="one round; compare the tokens")
    args = parser.parse_args()
    if not args.distill.is_file():
        parser.error(f"there is no {args.distill}: build it, or say --distill PATH")
    args.model = args.model or cached()
    if not args.model.exists():
        parser.error(f"there is no {args.model}: run `distill run recipes/quickstart.toml`, or say --model FILE")
    return args


def cached():
    with open(ROOT / "recipes/quickstart.toml", "rb") as file:
        source = tomllib.load(file)["models"]["teacher"]["source"]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path(os.environ.get("DISTILL_CACHE") or home / "distill")
    return cache / "files" / source["sha256"] / Path(source["files"][0]).name


def run(args, *command, where=None):
    env = os.environ | {"RAYON_NUM_THREADS": str(args.threads)}
    command = [str(part) for part in (args.distill, *command)]
    done = subprocess.run(command, env=env, cwd=where, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{done.stderr}\n{command} ended with {done.returncode}")
    return done.stdout


def pruned(args, place):
    kept = [layer for layer in range(30) if layer not in LEFT_OUT]
    (place / "draft.toml").write_text(f"""[models.whole]
source = {json.dumps(str(args.model.resolve()))}
[[stage]]
kind = "prune"
model = "whole"
keep_layers = {kept}
""")
    run(args, "run", "draft.toml", where=place)
    return next((place / "runs/draft").glob("prune-*/model"))


def passages(count):
    text = " ".join((ROOT / "recipes/data/book.txt").read_text().split())
    starts = range(len(text) // 20, len(text) - PASSAGE, len(text) // (count + 2))
    return [text[start:start + PASSAGE].partition(" ")[2].rpartition(" ")[0] for start in starts][:count]


def generate(args, prompt, *more):
    lines = run(args, "generate", "--device", "cpu", "--model", args.model, "--raw", "--prompt", prompt,
                "--max-tokens", args.tokens, "--json", "--stats", *more).splitlines()
    answer, stats = (json.loads(line) for line in lines)
    return answer["ids"], stats["stats"]


def both(args, prompt):
    return generate(args, prompt), generate(args, prompt, "--draft", args.draft, "--draft-tokens", args.draft_tokens)


def gap(args, place, prompt, plain, drafted):
    """Difference of the logits of the first tokens that differ, at that place."""
    at = next(i for i, (a, b) in enumerate(zip(plain, drafted)) if a != b)
    ids = json.loads(run(args, "score", "--model", args.model, "--text", prompt, "--json"))["ids"] + plain[:at]
    (place / "ids.json").write_text(json.dumps(ids))
    top = json.loads(run(args, "score", "--model", args.model, "--ids", place / "ids.json", "--json", "--top", 20))
    logits = {token[0]: token[1] for token in top["top"][-1]}
    return abs(logits[plain[at]] - logits[drafted[at]])


def check(args, place, prompts):
    gaps, tokens, accepted, rounds = [], 0, 0, 0
    for prompt in prompts:
        (plain, _), (drafted, stats) = both(args, prompt)
        tokens += len(plain)
        accepted += stats["drafts"]["accepted"]
        rounds += stats["drafts"]["rounds"]
        if plain != drafted:
            gaps.append(gap(args, place, prompt, plain, drafted))
    print(f"{len(prompts) - len(gaps)} of {len(prompts)} texts equal, {tokens} tokens, "
          f"{accepted / max(rounds, 1):.2f} accepted a round; gaps of logits where they part: {gaps}")
    sys.exit(int(any(found > LARGEST_GAP for found in gaps)))


def measure(args, prompts):
    speeds, lengths = {"plain": [], "with drafts": []}, []
    for number in range(args.rounds):
        seconds, tokens, accepted, rounds = dict.fromkeys(speeds, 0.0), 0, 0, 0
        for prompt in prompts:
            (plain, alone), (drafted, stats) = both(args, prompt)
            tokens += len(plain) - 1
            seconds["plain"] += alone["decode_seconds"]
            seconds["with drafts"] += stats["decode_seconds"] * (len(plain) - 1) / max(len(drafted) - 1, 1)
            accepted += stats["drafts"]["accepted"]
            rounds += stats["drafts"]["rounds"]
        for who, spent in seconds.items():
            speeds[who].append(tokens / spent)
        lengths.append(accepted / max(rounds, 1))
        print(f"round {number + 1}/{args.rounds}: " + ", ".join(f"{who} {found[-1]:.1f} tokens/s" for who, found in speeds.items()),
              file=sys.stderr)
    middle = {who: statistics.median(found) for who, found in speeds.items()}
    print(f"\n{args.prompts} prompts, {args.tokens} tokens each, {args.draft_tokens} drafted a round, {args.threads} threads, "
          f"{args.rounds} rounds\n\n| | tokens/s | slowest and fastest round |\n|---|---:|---:|")
    for who, found in speeds.items():
        print(f"| {who} | {middle[who]:.1f} | {min(found):.1f} – {max(found):.1f} |")
    print(f"\nspeed with drafts to plain: {middle['with drafts'] / middle['plain']:.2f}; "
          f"{statistics.median(lengths):.2f} drafted tokens accepted a round")


def main():
    args = arguments()
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        args.draft = args.draft or pruned(args, place)
        prompts = passages(args.prompts)
        if args.check:
            check(args, place, prompts)
        measure(args, prompts)


main()
