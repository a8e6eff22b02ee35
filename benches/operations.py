"""Each operation of the step by itself: ours, Burn's tensor formula for it, and PyTorch, in turns in one run.

    pip install torch
    python benches/operations.py

Two programs wait for work, one Rust (`benches/operations/`), one Python (`pytorch_operations.py`), with the same number
of threads and the same settings of glibc's allocator. They are asked for one operation after the other, round by round, so that
a machine that gets slower gets slower for all. A time is the median over all runs of all rounds. "Of copy" is the
bytes that the operation must move at the least, over its time, against a plain copy measured in the same run.
Prints Markdown tables.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import cases
import gpu_memory

ROOT = Path(__file__).resolve().parent.parent
COPY = {"operation": "copy", "bytes": 1 << 30, "pass": "both"}
# glibc maps large blocks and returns them at once by default; `distill` tells it to keep them.
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(4 << 30), "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
        "MALLOC_TOP_PAD_": str(64 << 20), "MALLOC_ARENA_MAX": "1"}
# For memory every block is mapped by itself, so that what is freed is not counted as held.
RETURN = {"MALLOC_MMAP_THRESHOLD_": str(64 << 10)}
SECONDS = 0.5  # of each program for each operation in a round


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=list(cases.SETS), default="step", help="which operations")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--program", help="the built benchmark; built with cargo when left out")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with torch")
    parser.add_argument("--liger", action="store_true", help="compare the linear losses with Liger too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="operations whose name has this in it")
    parser.add_argument("--lengths", type=int, nargs="*", default=[512, 1024, 2048, 4096, 8192],
                        help="tokens for the memory of attention; none for no such table")
    return parser.parse_args()


def build(args):
    command = ["cargo", "build", "--release", "--bench", "operations", "--message-format", "json"]
    command += ["--features", "cuda"] if args.device == "cuda" else []
    out = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    messages = (json.loads(line) for line in out.splitlines())
    [path] = [m["executable"] for m in messages
              if m["reason"] == "compiler-artifact" and m["target"]["name"] == "operations"]
    return path


class Program:
    """A program that waits for work. One that dies is started again; the work that killed it has failed."""

    def __init__(self, command, env, extra=None):
        self.command, self.env, self.extra = [str(part) for part in command], os.environ | env, extra or {}
        self.process = None

    def ask(self, request):
        """The answer, or a line that says why there is none."""
        if self.process is None:
            self.errors = tempfile.TemporaryFile("w+")
            self.process = subprocess.Popen(self.command, env=self.env, cwd=ROOT, stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=self.errors, text=True)
        try:
            self.process.stdin.write(json.dumps(request | self.extra) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            return json.loads(line)
        self.end()
        self.errors.seek(0)
        said = self.errors.read().strip().splitlines()
        return said[-1] if said else "it ended without a word"

    def end(self):
        if self.process is not None:
            process, self.process = self.process, None
            try:
                process.stdin.close()
            except BrokenPipeError:
                pass
            process.wait()


def programs(args, env, flags=()):
    rust = [args.program, "--device", args.device, *flags]
    python = [args.python, ROOT / "benches/pytorch_operations.py", "--device", args.device,
              "--threads", args.threads, *flags]
    threads = {"RAYON_NUM_THREADS": str(args.threads), "OMP_NUM_THREADS": str(args.threads)}
    ours = Program(rust, env | threads)
    found = {"Distillery": ours, "Burn": SameProcess(ours, {"formula": True}), "PyTorch": Program(python, env | threads)}
    if args.liger:
        found["Liger"] = Program([*python, "--peer", "liger"], env | threads)
    return found


class SameProcess:
    """Burn's formulas run in the process of ours, with other words."""

    def __init__(self, program, extra):
        self.program, self.extra = program, extra

    def ask(self, request):
        return self.program.ask(request | self.extra)

    def end(self):
        self.program.end()


def times(asked, args, chosen):
    """Seconds of each case and program, and of the copy."""
    found, failed, runs = {}, {}, {}
    work = [("copy", COPY, {"Burn", "PyTorch", "Liger"})]
    work += [(case.name, case.request, case.without | ({"Liger"} if case.request["operation"] != "linear_loss" else set()))
             for case in chosen]
    for number in range(args.rounds + 1):  # the first one finds out how many runs fit
        for name, request, without in work:
            for who, program in asked.items():
                if who in without or (name, who) in failed:
                    continue
                answer = program.ask(request | {"runs": runs.get((name, who), 1)})
                if isinstance(answer, str):
                    failed[name, who] = answer
                    print(f"{name}, {who}: failed: {answer}", file=sys.stderr)
                elif number == 0:
                    runs[name, who] = int(min(max(SECONDS / answer["seconds"][0], 3), 200))
                else:
                    found.setdefault((name, who), []).extend(answer["seconds"])
        print(f"round {number}/{args.rounds}", file=sys.stderr)
    return {key: statistics.median(seconds) for key, seconds in found.items()}, failed


def time_table(args, chosen, medians, failed, names):
    width = 4 if args.device == "cpu" else 2
    copy = COPY["bytes"] / medians["copy", "Distillery"] if ("copy", "Distillery") in medians else float("nan")
    print(f"\n{args.device}, {args.threads} threads, {args.rounds} rounds; a copy moves {copy / 1e9:.1f} GB/s.\n")
    peers = [name for name in names if name != "Distillery"]
    print("| operation | Distillery, ms | " + " | ".join(f"{peer}, ms" for peer in peers) + " | "
          + " | ".join(f"{peer} ÷ Distillery" for peer in peers) + " | of copy | GFLOP/s |")
    print("|---|" + "---:|" * (2 * len(peers) + 3))
    for case in chosen:
        ours = medians.get((case.name, "Distillery"))
        cells = [shown(case, name, medians, failed) for name in names]
        for peer in peers:
            theirs = medians.get((case.name, peer))
            cells.append(f"{theirs / ours:.2f}" if ours and theirs else "–")
        cells.append(f"{case.values * width / ours / copy:.0%}" if ours and case.values else "–")
        cells.append(f"{case.operations / ours / 1e9:.0f}" if ours and case.operations else "–")
        print(f"| {case.name} | " + " | ".join(cells) + " |")


def shown(case, name, medians, failed):
    if (case.name, name) in failed:
        return "failed"
    seconds = medians.get((case.name, name))
    return f"{seconds * 1e3:.3g}" if seconds else "–"


def memory_table(args):
    """Peak memory of attention, forward and backward, beyond its inputs, each in a process of its own."""
    shape = {"operation": "attention", "rows": 1, "heads": 9, "kv_heads": 3, "head_dim": 64, "pass": "both", "runs": 1}
    print("\nattention, forward and backward, 9/3 heads of 64, one row: peak memory beyond its inputs, MiB\n")
    columns = [(who, packed) for who in ("Distillery", "PyTorch") for packed in (False, True)]
    print("| tokens | " + " | ".join(f"{who}, {'samples of 256' if packed else 'causal'}" for who, packed in columns) + " |")
    print("|---:|" + "---:|" * len(columns))
    for length in args.lengths:
        cells = [peak(args, who, shape | {"length": length, "segment": 256 if packed else length},
                      {"length": 256, "segment": 128}) for who, packed in columns]
        print(f"| {length} | " + " | ".join(cells) + " |", flush=True)


def adapter_memory_table(args, chosen):
    """Peak memory of a layer with an adapter beyond its inputs, each in a process of its own."""
    print("\na layer with an adapter, forward and backward: peak memory beyond matrix and inputs, MiB\n")
    names = ("Distillery", "Burn", "PyTorch")
    print("| layer | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names))
    for case in chosen:
        cells = [peak(args, who, case.request | {"runs": 1}, {"rows": 32, "input": 64, "output": 64}) for who in names]
        print(f"| {case.name} | " + " | ".join(cells) + " |", flush=True)


def peak(args, who, request, smaller):
    program = programs(args, RETURN, ["--memory"])[who]
    small = request | smaller
    before = gpu_memory.used_bytes() if args.device == "cuda" else 0
    program.ask(small)  # what is set up once is not counted
    answer = program.ask(request)
    after = gpu_memory.used_bytes() if args.device == "cuda" else 0
    program.end()
    if isinstance(answer, str):
        print(f"{request}, {who}: failed: {answer}", file=sys.stderr)
        return "failed"
    return f"{(after - before or answer['peak_bytes']) / 2**20:.1f}"


def main():
    args = arguments()
    args.program = args.program or build(args)
    chosen = [case for case in cases.SETS[args.set]() if args.only in case.name]
    asked = programs(args, KEEP)
    medians, failed = times(asked, args, chosen)
    for program in asked.values():
        program.end()
    time_table(args, chosen, medians, failed, list(asked))
    if args.set == "adapters":
        adapter_memory_table(args, chosen)
    elif args.lengths:
        memory_table(args)


main()
