"""Whether it works on this GPU at all: the same tiny run on CPU and GPU, the time to the first step, memory over 50 steps.

    DISTILL=path/to/distill python benches/gpu/smoke.py
"""
import argparse
import math
import statistics
import sys
import tempfile

import program


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--tolerance", type=float, default=1e-2, help="relative, of losses and gradient norms in bf16")
    parser.add_argument("--tiny", action="store_true", help="tiny models throughout, to see that everything works")
    return parser.parse_args()


def parity(args, distill):
    """The first steps of one tiny run on both devices."""
    here, there = (program.train(distill, device, ["stage.student.steps=3"], True)["steps"] for device in ("cpu", args.device))
    worst = 0.0
    for ours, theirs in zip(here, there):
        pairs = [(ours["gradient_norm"], theirs["gradient_norm"]), (ours["loss"], theirs["loss"])]
        pairs += [(ours["losses"][name], theirs["losses"][name]) for name in ours["losses"]]
        worst = max([worst, *(abs(b / a - 1) for a, b in pairs)])
    if not worst <= args.tolerance:
        raise program.Failed(f"losses or gradient norms differ by {worst:.1e}, relative; {args.tolerance:.0e} is allowed")
    return f"losses and gradient norms of 3 steps within {worst:.1e} of the CPU's, relative"


def start(args, distill):
    """What the first process on this machine spends before it is at speed, and what the next one does."""
    said = []
    for which in ("first process", "second process"):
        found = program.train(distill, args.device, ["stage.student.steps=6"], args.tiny)
        seconds = [step["seconds"] for step in found["steps"]]
        before = found["seconds"] - sum(seconds)
        said.append(f"{which}: {before:.1f} s outside the steps, first step {seconds[0]:.2f} s, "
                    f"then {statistics.median(seconds[3:]):.3f} s")
    return "; ".join(said)


def memory(args, distill):
    """Whether memory stays the same over 50 steps."""
    found = program.train(distill, args.device, ["stage.student.steps=50"], args.tiny)
    if any(not math.isfinite(step["loss"]) for step in found["steps"]):
        raise program.Failed("a loss is not finite")
    samples = found["samples"]
    if not samples:
        return "50 steps; no GPU, no memory to tell"
    half, whole = max(samples[:len(samples) // 2]), max(samples)
    return f"{half / 2**30:.2f} GiB at the most in the first half of a run of 50 steps, {whole / 2**30:.2f} GiB in all"


def listed(args, distill):
    """A device that the program cannot use is refused before anything is computed."""
    if args.device == "cpu":
        return "computing on the CPU"
    said, _, _ = program.run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"], "cpu")
    with tempfile.TemporaryDirectory() as out:
        program.train(distill, "cuda:0", ["stage.student.steps=1"], True, out=out)
    return said.strip()


def main():
    args = arguments()
    distill = program.distill_path()
    print("\n| what | found |\n|---|---|")
    failed = False
    for check in (listed, parity, start, memory):
        try:
            said = check(args, distill)
        except Exception as reason:  # the other checks are still made
            failed, said = True, "failed: " + str(reason).replace("\n", " / ").replace("|", "\\|")
        print(f"| {check.__name__} | {said} |", flush=True)
    sys.exit(failed)


main()
