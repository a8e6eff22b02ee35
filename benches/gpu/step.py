"""The training step on a GPU against PyTorch, Liger, TRL and PEFT: speed and memory, alternating in one run.

    DISTILL=path/to/distill python benches/gpu/step.py kl jsd

Each round runs every program once, each in a process of its own. Tokens a second are those of the median step after the warm-up; memory
is what the driver says is in use at the most, pools and context included. What fails is shown as failed and not tried again.
"""
import argparse
import json
import statistics
import sys

import program
import shapes

HERE = program.ROOT / "benches/gpu"
# name, title, programs: Distillery with its settings, or a PyTorch file with its mode
GROUPS = {
    "kl": ("distillation, forward KL (T = 2) and cross-entropy", [
        ("Distillery", []),
        ("PyTorch, as usually written", ["pytorch_step.py", "plain"]),
        ("PyTorch, torch.compile, loss in chunks", ["pytorch_step.py", "compile"])]),
    "jsd": ("distillation, JSD (β = 0.5)", [
        ("Distillery", [program.JSD]),
        ("PyTorch, torch.compile, loss in chunks", ["pytorch_step.py", "compile-jsd"]),
        ("Liger", ["pytorch_step.py", "liger-jsd"]),
        ("TRL's GKD trainer, λ = 0", ["trl_gkd.py", "data"])]),
    "adapters": ("fine-tuning of the 1.5B model, cross-entropy", [
        ("PyTorch, all weights", ["pytorch_adapters.py", "full"]),
        ("PEFT, LoRA", ["pytorch_adapters.py", "lora"]),
        ("PEFT and bitsandbytes, QLoRA", ["pytorch_adapters.py", "qlora"])]),
    "on-policy": ("on-policy distillation, JSD (β = 0.5)", [
        ("TRL's GKD trainer, λ = 1", ["trl_gkd.py", "on-policy"])]),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="+", choices=list(GROUPS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a process")
    parser.add_argument("--warmup", type=int, default=4, help="steps before them, not timed")
    parser.add_argument("--limit", type=int, default=150, help="seconds for a process")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to see that everything works")
    return parser.parse_args()


def distillery(args, settings):
    settings = [*settings, f"stage.student.steps={args.warmup + args.steps}"]
    found = program.train(program.distill_path(), args.device, settings, args.tiny, limit=args.limit)
    rates = [step["tokens"] / step["seconds"] for step in found["steps"][args.warmup:]]
    return statistics.median(rates), found["peak"]


def pytorch(args, file, mode):
    command = [sys.executable, HERE / file, "--mode", mode, "--device", args.device, "--steps", args.steps,
               "--warmup", args.warmup, *(["--tiny"] if args.tiny else [])]
    out, peak, _ = program.run(command, args.device, args.limit)
    *said, last = out.strip().splitlines()
    print("\n".join(said), file=sys.stderr)
    found = json.loads(last)
    return found["tokens_per_step"] / statistics.median(found["seconds_per_step"]), peak


def measure(args, programs):
    """Tokens a second and peak bytes of each round, and why what failed has failed."""
    found, failed = {}, {}
    for number in range(args.rounds):
        for name, work in programs:
            if name in failed:
                continue
            try:
                rate, peak = distillery(args, work) if name == "Distillery" else pytorch(args, *work)
            except Exception as reason:  # whatever it is, the others are still measured
                failed[name] = str(reason)
                print(f"{name}: failed\n{reason}", file=sys.stderr)
                continue
            found.setdefault(name, []).append((rate, peak))
            print(f"round {number + 1}/{args.rounds}  {name}: {rate:.0f} tokens/s, {peak / 2**30:.2f} GiB", file=sys.stderr)
    return found, failed


def table(args, group, title, programs, found, failed):
    rows, length = shapes.TINY_BATCH if args.tiny else shapes.BATCH
    print(f"\n{title}: {rows} × {length} tokens, {args.device}, {args.rounds} rounds of {args.steps} steps\n")
    print("| program | tokens/s | slowest and fastest round | of 790 TFLOP/s | speed of Distillery to it | peak memory, GiB "
          "| memory of Distillery to it |\n|---|---:|---:|---:|---:|---:|---:|")
    ours = found.get("Distillery")
    for name, _ in programs:
        if name in failed:
            print(f"| {name} | failed | – | – | – | – | – |")
            continue
        rates, peaks = zip(*found[name])
        rate, peak = statistics.median(rates), max(peaks)
        share = f"{rate * shapes.step_flops(args.tiny) / shapes.PEAK_FLOPS:.1%}" if group in ("kl", "jsd") else "–"
        speed = f"{statistics.median([r for r, _ in ours]) / rate:.2f}" if ours else "–"
        memory = f"{max(p for _, p in ours) / peak:.2f}" if ours and peak else "–"
        print(f"| {name} | {rate:.0f} | {min(rates):.0f} – {max(rates):.0f} | {share} | {speed} "
              f"| {peak / 2**30:.2f} | {memory} |")
    for name, reason in failed.items():
        print(f"\n{name} failed:\n\n```\n{reason}\n```")


def main():
    args = arguments()
    all_failed = False
    for group in args.groups:
        title, programs = GROUPS[group]
        found, failed = measure(args, programs)
        table(args, group, title, programs, found, failed)
        sys.stdout.flush()
        all_failed |= bool(failed)
    sys.exit(all_failed)


main()
