"""What the PyTorch programs of the GPU benchmarks share: arguments, random batches, a timed loop, one line of JSON."""
import argparse
import json
import sys
import time
from pathlib import Path

import torch

import shapes

ROOT = Path(__file__).resolve().parent.parent.parent


def arguments(modes):
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=modes, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    args.models = ROOT / "runs" / ("gpu-tiny" if args.tiny else "gpu")
    args.batch = shapes.TINY_BATCH if args.tiny else shapes.BATCH
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    return args


def synchronize(args):
    if args.device == "cuda":
        torch.cuda.synchronize()


def run(args, step):
    """Calls `step(ids, targets)`, which returns the loss, and prints the seconds of the steps after the warm-up."""
    rows, length = args.batch
    vocabulary = shapes.of(args.tiny)[2]
    seconds = []
    for number in range(args.warmup + args.steps):
        tokens = torch.randint(0, vocabulary, (rows, length + 1), device=args.device)
        synchronize(args)
        begin = time.perf_counter()
        loss = step(tokens[:, :-1], tokens[:, 1:])
        synchronize(args)
        seconds.append(time.perf_counter() - begin)
        print(f"step {number}: loss {loss.item():.6f}, {seconds[-1]:.3f} s", file=sys.stderr, flush=True)
    report(args, seconds[args.warmup:])


def report(args, seconds):
    found = {"seconds_per_step": seconds, "tokens_per_step": args.batch[0] * args.batch[1]}
    if args.device == "cuda":
        found["torch_reserved_bytes"] = torch.cuda.max_memory_reserved()
    print(json.dumps(found), flush=True)
