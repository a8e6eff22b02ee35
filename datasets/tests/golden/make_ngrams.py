"""Sets of word n-grams and their exact Jaccard indices, in plain Python: `python make_ngrams.py > ngrams.json`."""

import json
import re
import unicodedata

ALONE = "\u3040-\u30ff\u4e00-\u9fff"
WORD = re.compile(rf"[{ALONE}]|[^\W{ALONE}]+")

BASE = (
    "The harbour was quiet that morning, and the fog, which had come in during the night, lay over the boats so "
    "thickly that nobody could see the end of the pier. An old man mended his nets; he had done so every day for "
    "forty years. In 1998 the last ferry left for good, and with it went the market, the school and most of the young."
)
TEXTS = [
    BASE,
    BASE.replace("An old man", "Two old women").replace("his", "their"),
    BASE.upper().replace(",", " ,"),
    BASE + " " + "Nothing else has changed since then, or so they say in the only café that is still open.",
    "def add(a_1, b):\n    return a_1 + b  # 3.5 apples",
    "한국어 문장은 띄어쓰기를 한다. 그래서 낱말로 나눈다.",
    unicodedata.normalize("NFD", "한국어 문장은 띄어쓰기를 한다. 그래서 낱말로 나눈다!"),
    "我爱自然语言处理，因为它很有意思。",
    "我爱自然语言，因为它很难。",
    "short text",
    "",
]


def words(text):
    return WORD.findall(unicodedata.normalize("NFC", text).lower())


def ngrams(text, n):
    found = words(text)
    if not found:
        return set()
    n = min(n, len(found))
    return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}


cases = []
for n in (1, 2, 5, 13):
    sets = [ngrams(text, n) for text in TEXTS]
    jaccard = [[len(a & b) / max(len(a | b), 1) for b in sets] for a in sets]
    cases.append({"n": n, "sizes": [len(s) for s in sets], "jaccard": jaccard})
print(json.dumps({"texts": TEXTS, "words": [words(text) for text in TEXTS], "cases": cases}, indent=1))
