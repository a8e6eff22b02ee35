"""One step of SmolLM2-135M trained whole, with LoRA and with QLoRA: time and peak memory, alternating in one run.

    cargo build --release
    python benches/adapters.py

Each round runs every form once, each in a process of its own. The time of a step is the median over all rounds, without
the first steps of each process. Memory is the most that a process ever held, start-up and loading included. Ratios are
to the full step. Prints a Markdown table.
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
FORMS = {"full": None, "LoRA, base as stored (Q4_1)": "lora", "LoRA, base in f32": "lora_f32", "QLoRA, base in NF4": "qlora"}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distill", default=ROOT / "target/release/distill", type=Path, help="the binary")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a process")
    parser.add_argument("--warmup", type=int, default=1, help="steps before them, not timed")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if not args.distill.is_file():
        parser.error(f"there is no {args.distill}: build it, or say --distill PATH")
    return args


def measure(args, preset):
    """Seconds of the timed steps, and peak memory in bytes."""
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryFile("w+") as err:
        command = [args.distill, "run", ROOT / "benches/adapter_step.toml", "--device", "cpu", "--out", out,
                   "--set", f"stage.tuned.steps={args.warmup + args.steps}"]
        command += ["--preset", preset] if preset else []
        process = subprocess.Popen([str(part) for part in command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=err,
                                   stderr=err, env=os.environ | {"RAYON_NUM_THREADS": str(args.threads)})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            err.seek(0)
            sys.exit(f"{err.read()}\n{command[0]} ended with {process.returncode}")
        [metrics] = Path(out).glob("*/*/metrics.jsonl")
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    return seconds[args.warmup:], usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main():
    args = arguments()
    found = {form: ([], []) for form in FORMS}
    for number in range(args.rounds):
        for form, preset in FORMS.items():
            seconds, peak = measure(args, preset)
            found[form][0].append(seconds)
            found[form][1].append(peak)
            print(f"round {number + 1}/{args.rounds}  {form}: {statistics.median(seconds):.3f} s, "
                  f"{peak / 2**30:.2f} GiB", file=sys.stderr)
    print("| form | seconds a step | fastest and slowest round | time to full | peak memory, GiB | memory to full |")
    print("|---|---:|---:|---:|---:|---:|")
    steps = {form: statistics.median(s for one in rounds for s in one) for form, (rounds, _) in found.items()}
    peaks = {form: max(peaks) for form, (_, peaks) in found.items()}
    for form, (rounds, _) in found.items():
        medians = [statistics.median(one) for one in rounds]
        print(f"| {form} | {steps[form]:.3f} | {min(medians):.3f} – {max(medians):.3f} | {steps[form] / steps['full']:.2f} "
              f"| {peaks[form] / 2**30:.2f} | {peaks[form] / peaks['full']:.2f} |")


main()
