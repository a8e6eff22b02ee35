"""A long run that is killed in the middle and goes on, against one that is left alone: the same bits, the same metrics.

    DISTILL=path/to/distill python benches/gpu/long_run.py --minutes 8

Both train the same number of steps, as many as fit into the time together; the kill is SIGKILL.
"""
import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import program

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--minutes", type=float, default=8, help="of training, both runs together")
parser.add_argument("--steps", type=int, help="in place of --minutes")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
parser.add_argument("--tiny", action="store_true")
args = parser.parse_args()
distill = program.distill_path()


def command(out, steps):
    parts = [distill, "run", "benches/gpu/step.toml", "--device", args.device, "--out", out,
             "--set", f"stage.student.steps={steps}", "--set", f"stage.student.checkpoint_every={max(steps // 5, 1)}"]
    return [str(part) for part in parts + (["--preset", "tiny"] if args.tiny else [])]


def metrics(out):
    found = [line for path in Path(out).glob("*/*/metrics.jsonl") for line in path.read_text().splitlines()]
    steps = [json.loads(line) for line in found if line.endswith("}")]
    return [{key: value for key, value in step.items() if key != "seconds"} for step in steps]


def digest(out):
    [model] = Path(out).glob("*/distill-*/model")
    whole = hashlib.sha256()
    for path in sorted(model.iterdir()):
        whole.update(path.name.encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


def whole(out, steps):
    begin = time.time()
    program.run(command(out, steps), "cpu", 900)
    return time.time() - begin


def killed(out, steps):
    """Kills the run after half of its steps, then runs the same command again; where it was killed, and what it said then."""
    errors = open(Path(out).with_suffix(".log"), "w+")
    process = subprocess.Popen(command(out, steps), cwd=program.ROOT, stdin=subprocess.DEVNULL, stdout=errors,
                               stderr=errors, start_new_session=True)
    while process.poll() is None and len(metrics(out)) < steps // 2:
        time.sleep(0.005)
    at = len(metrics(out))
    if process.poll() is not None:
        errors.seek(0)
        raise program.Failed(f"it ended by itself\n{program.tail(errors.read())}")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(command(out, steps), cwd=program.ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise program.Failed(program.tail(done.stderr))
    return at, [line.strip() for line in done.stderr.splitlines() if "going on" in line]


place = Path(tempfile.mkdtemp(dir=program.ROOT / "runs"))
try:
    steps = args.steps
    if steps is None:
        probe = program.train(distill, args.device, ["stage.student.steps=12"], args.tiny)["steps"]
        steps = max(int(args.minutes * 30 / probe[-1]["seconds"]), 10)
    seconds = whole(place / "whole", steps)
    at, said = killed(place / "killed", steps)
    same = digest(place / "whole") == digest(place / "killed")
    lines = metrics(place / "whole") == metrics(place / "killed")
    print(f"\n{steps} steps in {seconds:.0f} s; killed after step {at}; {' '.join(said)}\n")
    print(f"| model, bit for bit | {'the same' if same else 'differs'} |\n|---|---|")
    print(f"| metrics but for the seconds | {'the same' if lines else 'differ'} |")
    print(f"| loss, first and last | {metrics(place / 'whole')[0]['loss']:.4f}, {metrics(place / 'whole')[-1]['loss']:.4f} |")
    sys.exit(not (same and lines))
except program.Failed as reason:
    sys.exit(str(reason))
finally:
    shutil.rmtree(place, ignore_errors=True)
