"""Makes preferences.jsonl and preferences-heldout.jsonl: short pairs of LLaMA-Factory's demonstration data.

    pip download --no-deps --no-binary :all: llamafactory==0.9.5 && tar xzf llamafactory-0.9.5.tar.gz
    python recipes/data/make_preferences.py llamafactory-0.9.5/data/dpo_en_demo.json

A pair is short when its conversation, counted twice, and both answers have 2100 characters at most. Every third is held out.
Lines are the file's own records, unchanged.
"""
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
MOST = 2100


def length(pair):
    turns = sum(len(turn["value"]) for turn in pair["conversations"])
    return 2 * turns + len(pair["chosen"]["value"]) + len(pair["rejected"]["value"])


def write(name, pairs):
    lines = [json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs]
    (HERE / name).write_text("".join(lines), encoding="utf-8", newline="\n")
    print(name, len(pairs))


def main():
    pairs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    short = [pair for pair in pairs if length(pair) <= MOST]
    write("preferences.jsonl", [pair for i, pair in enumerate(short) if i % 3 != 2])
    write("preferences-heldout.jsonl", short[2::3])


if __name__ == "__main__":
    main()
