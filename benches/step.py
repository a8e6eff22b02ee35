"""The whole training step against PyTorch: speed and peak memory, alternating in one run.

    cargo build --release
    pip install torch transformers
    python benches/step.py

Each round runs every program once, each in a process of its own, so that a machine that gets slower gets slower for
all of them. The time of a step is the median over all rounds, without the first steps of each process. Memory is the
most that a process ever held, start-up and loading included. Ratios are ours to theirs: of speed, more is better,
of memory, less. Prints a Markdown table.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The programs of a group do the same work; the first is ours.
GROUPS = {
    "distil": ("distillation, teacher and student", "step.toml", ["plain", "best"]),
    "student": ("student alone, hard labels", "student_step.toml", ["student"]),
}
NAMES = {
    "plain": "PyTorch, as usually written",
    "best": "PyTorch, loss in chunks, tuned allocator",
    "student": "PyTorch",
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distill", default=ROOT / "target/release/distill", type=Path, help="the binary")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with torch and transformers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a process")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them, not timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=list(GROUPS), help="one of the two tables")
    args = parser.parse_args()
    if not args.distill.is_file():
        parser.error(f"there is no {args.distill}: build it, or say --distill PATH")
    if min(args.rounds, args.steps, args.threads) < 1 or args.warmup < 0:
        parser.error("--rounds, --steps and --threads are at least 1, --warmup at least 0")
    return args


def run(command, env):
    """Standard output and the peak memory in bytes of a process."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([str(part) for part in command], cwd=ROOT, env=os.environ | env,
                                   stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        if process.returncode != 0:
            sys.exit(f"{err.read()}\n{command[0]} ended with {process.returncode}")
        return out.read(), usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def distillery(args, recipe):
    """(seconds, tokens) of the timed steps, and peak memory."""
    with tempfile.TemporaryDirectory() as out:
        command = [args.distill, "run", ROOT / "benches" / recipe, "--device", "cpu", "--out", out,
                   "--set", f"stage.student.steps={args.warmup + args.steps}"]
        _, peak = run(command, {"RAYON_NUM_THREADS": str(args.threads)})
        [metrics] = Path(out).glob("*/*/metrics.jsonl")
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [(line["seconds"], line["tokens"]) for line in lines if "seconds" in line]
    return steps[args.warmup:], peak


def pytorch(args, mode):
    command = [args.python, ROOT / "benches/pytorch_step.py", "--mode", mode, "--steps", args.steps,
               "--warmup", args.warmup, "--threads", args.threads]
    out, peak = run(command, {"OMP_NUM_THREADS": str(args.threads)})
    seconds = json.loads(out)["seconds_per_step"]
    return [(s, 4 * 256) for s in seconds], peak


def measure(args, recipe, modes):
    programs = {"Distillery": lambda: distillery(args, recipe)}
    programs |= {NAMES[mode]: lambda mode=mode: pytorch(args, mode) for mode in modes}
    found = {name: ([], []) for name in programs}
    for number in range(args.rounds):
        for name, program in programs.items():
            steps, peak = program()
            found[name][0].append([tokens / seconds for seconds, tokens in steps])
            found[name][1].append(peak)
            speed = statistics.median(found[name][0][-1])
            print(f"round {number + 1}/{args.rounds}  {name}: {speed:.1f} tokens/s, {peak / 2**30:.2f} GiB",
                  file=sys.stderr)
    return found


def table(title, found):
    print(f"\n{title}\n")
    print("| program | tokens/s | slowest and fastest round | speed of Distillery to it | peak memory, GiB "
          "| memory of Distillery to it |")
    print("|---|---:|---:|---:|---:|---:|")
    speeds = {name: statistics.median(s for one in rounds for s in one) for name, (rounds, _) in found.items()}
    peaks = {name: max(peaks) for name, (_, peaks) in found.items()}
    for name, (rounds, _) in found.items():
        medians = [statistics.median(one) for one in rounds]
        print(f"| {name} | {speeds[name]:.0f} | {min(medians):.0f} – {max(medians):.0f} "
              f"| {speeds['Distillery'] / speeds[name]:.2f} | {peaks[name] / 2**30:.2f} "
              f"| {peaks['Distillery'] / peaks[name]:.2f} |")


def main():
    args = arguments()
    for key, (title, recipe, modes) in GROUPS.items():
        if args.only in (None, key):
            found = measure(args, recipe, modes)
            table(f"{title}: 4 × 256 tokens, f32, {args.threads} threads, {args.rounds} rounds of {args.steps} steps",
                  found)


main()
