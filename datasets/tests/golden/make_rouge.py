"""ROUGE-L of pairs of texts by rouge-score: `pip install rouge-score==0.1.2 && python make_rouge.py > rouge.json`."""

import json
import re

from rouge_score import rouge_scorer

ALONE = "\u3040-\u30ff\u4e00-\u9fff"
WORD = re.compile(rf"[{ALONE}]|[^\W{ALONE}]+")

ENGLISH = [
    "Write a short poem about the sea.",
    "Write a short poem about the sea in autumn, and give it a title.",
    "Give a title to a short poem about autumn.",
    "Explain why the sky is blue to a child of five.",
    "Explain to a child of five why the sky is blue.",
    "Why is the sky blue?",
    "List three uses of a 10-litre bucket; don't repeat yourself.",
    "the the the sky sky the",
    "",
    "...",
]
OTHERS = [
    "가을 바다에 대한 짧은 시를 써 줘.",
    "바다에 대한 짧은 시를 제목과 함께 써 줘.",
    "用三句话介绍北京。",
    "用一句话介绍上海。",
]


class Words:
    """rouge-score's own tokenizer drops all but ASCII; this one cuts as filters do."""

    def tokenize(self, text):
        return WORD.findall(text.lower())


own = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
unicode = rouge_scorer.RougeScorer(["rougeL"], tokenizer=Words())
texts = ENGLISH + OTHERS


def score(a, b):
    scorer = own if a in ENGLISH and b in ENGLISH else unicode
    return scorer.score(a, b)["rougeL"].fmeasure


print(json.dumps({"texts": texts, "rouge_l": [[score(a, b) for b in texts] for a in texts]}, indent=1))
