"""Runs one program of the GPU benchmarks: its output, its time, the GPU memory that it took. Nothing here stops for a failure."""
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benches"))
import gpu_memory  # noqa: E402

JSD = 'stage.student.loss=[{ kind = "jsd", beta = 0.5 }]'


class Failed(Exception):
    """With the tail of what the program said."""


def run(command, device, limit=240):
    """(stdout, peak bytes of GPU memory, samples of it) of a program; memory is 0 on the CPU."""
    watch = gpu_memory.Watch() if device == "cuda" else contextlib.nullcontext()
    with watch:
        try:
            done = subprocess.run([str(part) for part in command], cwd=ROOT, stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired as late:
            raise Failed(f"not done after {limit} s\n{tail(late.stderr)}") from None
    if done.returncode != 0:
        raise Failed(f"{command[0]} ended with {done.returncode}\n{tail(done.stderr)}")
    print(tail(done.stderr, 4), file=sys.stderr)
    return done.stdout, *((watch.peak, watch.samples) if device == "cuda" else (0, []))


def tail(said, lines=12):
    said = said.decode(errors="replace") if isinstance(said, bytes) else said or ""
    return "\n".join(said.strip().splitlines()[-lines:])


def train(distill, device, settings, tiny, recipe="benches/gpu/step.toml", limit=240, out=None):
    """What `metrics.jsonl` says of a run of the recipe, and its GPU memory."""
    with contextlib.ExitStack() as stack:
        out = out or stack.enter_context(tempfile.TemporaryDirectory())
        command = [distill, "run", recipe, "--device", device, "--out", out]
        command += ["--preset", "tiny"] if tiny else []
        for setting in settings:
            command += ["--set", setting]
        begin = time.time()
        _, peak, samples = run(command, device, limit)
        [metrics] = Path(out).glob("*/*/metrics.jsonl")
        steps = [json.loads(line) for line in metrics.read_text().splitlines()]
        return {"steps": [step for step in steps if "seconds" in step], "peak": peak, "samples": samples,
                "seconds": time.time() - begin}


def distill_path():
    path = os.environ.get("DISTILL")
    if not path:
        sys.exit("DISTILL names no binary: DISTILL=path/to/distill")
    return Path(path).resolve()
