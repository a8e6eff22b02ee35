"""The five kernels that a distillation step spends most of its GPU time in, by `ncu`.

    DISTILL=path/to/distill python benches/gpu/top_kernels.py

The clocks stay as they are. Every kernel is measured by itself, so that times add up to more than those of a step.
"""
import argparse
import csv
import sys

import program

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--launches", type=int, default=3000, help="kernels that are measured")
parser.add_argument("--skip", type=int, default=6000, help="kernels before them: start and autotune")
parser.add_argument("--limit", type=int, default=400, help="seconds")
args = parser.parse_args()

command = ["ncu", "--clock-control", "none", "--csv", "--metrics", "gpu__time_duration.sum", "--launch-skip", args.skip,
           "--launch-count", args.launches, "--kill", "yes", program.distill_path(), "run", "benches/gpu/step.toml",
           "--device", "cuda", "--out", "runs/gpu/profile"]
try:
    out, _, _ = program.run(command, "cpu", args.limit)
except program.Failed as reason:
    sys.exit(str(reason))
lines = [line for line in out.splitlines() if line.startswith('"')]
UNITS = {"ns": 1e-6, "nsecond": 1e-6, "us": 1e-3, "usecond": 1e-3, "ms": 1.0, "msecond": 1.0}
kernels = {}
for row in csv.DictReader(lines):
    milliseconds = float(row["Metric Value"].replace(",", "")) * UNITS[row["Metric Unit"]]
    count, total = kernels.get(row["Kernel Name"], (0, 0.0))
    kernels[row["Kernel Name"]] = (count + 1, total + milliseconds)
whole = sum(total for _, total in kernels.values())
print(f"\n{sum(count for count, _ in kernels.values())} launches, {whole:.1f} ms\n\n| kernel | launches | ms | share |\n|---|---:|---:|---:|")
for name, (count, total) in sorted(kernels.items(), key=lambda item: -item[1][1])[:5]:
    print(f"| `{name[:80]}` | {count} | {total:.1f} | {total / whole:.0%} |")
