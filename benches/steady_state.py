"""What a training step asks of the system once everything is there: page faults and calls for memory.

    cargo build --release
    python benches/steady_state.py

Runs the distillation step of `step.toml` and looks between two steps. Page faults and memory are read from /proc while it
runs: no privileges, nothing slowed down. The calls are counted in a second run under strace, where there is one. Prints a
Markdown table. Linux only.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CALLS = ["mmap", "munmap", "mremap", "brk", "madvise"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distill", default=ROOT / "target/release/distill", type=Path, help="the binary")
    parser.add_argument("--recipe", default=ROOT / "benches/step.toml", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for `distill run`")
    parser.add_argument("--between", type=int, nargs=2, default=[10, 20], metavar=("FIRST", "LAST"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if not args.distill.is_file():
        parser.error(f"there is no {args.distill}: build it, or say --distill PATH")
    if not 1 <= args.between[0] < args.between[1]:
        parser.error("--between takes two steps, the earlier one first, counted from 1")
    return args


def command(args, out):
    parts = [args.distill, "run", args.recipe, "--device", "cpu", "--out", out]
    for setting in [*args.set, f"stage.student.steps={args.between[1] + 2}"]:
        parts += ["--set", setting]
    return [str(part) for part in parts]


def environment(args):
    return os.environ | {"RAYON_NUM_THREADS": str(args.threads)}


def steps_done(out):
    done = 0
    for metrics in Path(out).glob("*/*/metrics.jsonl"):
        for line in metrics.read_text().splitlines():
            done = max(done, json.loads(line)["step"]) if line.endswith("}") else done
    return done


def state(pid):
    """Minor and major faults, and resident bytes."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return {"minor page faults": int(fields[7]), "major page faults": int(fields[9]),
            "resident, KiB": int(fields[21]) * os.sysconf("SC_PAGE_SIZE") // 1024}


def faults(args):
    """What changed between the two steps."""
    first, last = args.between
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command(args, out), cwd=ROOT, env=environment(args), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=errors)
        seen = {}
        while process.poll() is None:
            done = steps_done(out)
            for step in (first, last):
                if done >= step and step not in seen:
                    seen[step] = state(process.pid)
            time.sleep(0.005)
        if process.returncode != 0 or last not in seen:
            errors.seek(0)
            sys.exit(f"{errors.read()}\n{args.distill} ended with {process.returncode}")
    return {name: seen[last][name] - seen[first][name] for name in seen[first]}


def calls(args):
    """How often each call was made between the lines of the two steps in `metrics.jsonl`."""
    counts = dict.fromkeys(CALLS, 0)
    with tempfile.TemporaryDirectory() as out:
        log = Path(out) / "strace.log"
        done = subprocess.run(["strace", "-f", "-s", "24", "-o", log, "-e", f"trace={','.join(CALLS)},write",
                               *command(args, Path(out) / "runs")], cwd=ROOT, env=environment(args),
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            print(f"strace failed:\n{done.stderr}", file=sys.stderr)
            return None
        step = 0
        for line in log.read_text(errors="replace").splitlines():
            call = re.match(r"\d+ +(\w+)\((.*)", line)
            if call is None:
                continue
            if found := re.match(r'\d+, "\{\\"step\\":(\d+),', call[2]):
                step = int(found[1])
            elif args.between[0] <= step < args.between[1] and call[1] in counts:
                counts[call[1]] += 1
    return counts


def main():
    args = arguments()
    first, last = args.between
    print(f"\nbetween steps {first} and {last}, {args.threads} threads\n\n| what | in all | per step |\n|---|---:|---:|")
    found = faults(args)
    counted = calls(args) if shutil.which("strace") else None
    for name, count in (found | (counted or dict.fromkeys(CALLS, None))).items():
        shown = "not counted | –" if count is None else f"{count} | {count / (last - first):.1f}"
        print(f"| {name} | {shown} |")


main()
