"""Makes the tokenizer fixtures of this folder. Needs transformers, tokenizers and sentencepiece.

    python make_tokenizer.py

vocabularies.json   small GGUF-like vocabularies (one BPE vocabulary under each pre-tokenizer, one SentencePiece model),
                    with the ids that Hugging Face's pipelines and SentencePiece itself give for every text
tiny/               a small Hugging Face tokenizer directory
tiny.json           the ids that transformers.AutoTokenizer gives with it
"""
import io
import json
import os

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))

CORPUS = [
    "The capital of France is Paris. The quick brown fox jumps over the lazy dog, and the dog doesn't mind.",
    "  1 indented\n    42 more\n\n\tdef main(argc, argv):\n\t\treturn 0  # don't\n",
    "We've 1234567 apples; they'll cost $3.50 each. I'm sure it's fine -- isn't it?",
    "대한민국의 수도는 서울이다. 나랏말싸미 듕귁에 달아 문자와로 서로 사맛디 아니할쎄.",
    "대한민국 서울",
    "Émile Zola était naïf; Straße, Ünïcödé. 日本語のテキスト。 العربية",
    "emoji 👩‍👩‍👧‍👦 🎉🎉 ❤️ and more",
    "line one\r\nline two\r\n\r\nline three\n\n\nend   ",
    "class Point:\n    def __init__(self, x: float, y: float) -> None:\n        self.x, self.y = x, y\n",
] * 4

TEXTS = [
    "",
    " ",
    "\n",
    "The capital of France is",
    "  1 indented\n    42 more",
    "hello world  two  spaces   three",
    "tabs\tand\t\ttabs \t mixed",
    "line\r\nends\r\n\r\n\n\nmany",
    "digits 1 12 123 1234 12345 ٣٤ ²½",
    "don't DON'T we'll WE'LL it's I'm you've 'S 'rE",
    "대한민국의 수도는 서울이다",
    "대한민국의 수도는",
    "e\u0301 \u00e9 A\u030a",
    "👩‍👩‍👧‍👦🎉 ❤️",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "a<|im_end|>b <|im_end|> c<|fim|>d",
    "x=1;y+=2;\n    if x==y: return (x**2)//3  # ok!?\n",
    "日本語 العربية Straße",
    "trailing space ",
    " \n \n x",
    "\u00a0nbsp\u3000wide",
    "a\u0000b\u007fc",
]

SMOLLM = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def by_pattern(pattern):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


PRE = {
    "default": (None, pre_tokenizers.ByteLevel(add_prefix_space=False), False),
    "smollm": (None, SMOLLM, False),
    "qwen2": (normalizers.NFC(), by_pattern(QWEN2), False),
    "llama-bpe": (None, by_pattern(LLAMA3), True),
}
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<|fim|>"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def special(tokens):
    return [AddedToken(t, special=True, normalized=False) for t in tokens]


def byte_level_vocabulary():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=CONTROL + USER_DEFINED,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return tokens, [tuple(m) for m in model["merges"]]


def pipeline(tokens, merges, pre):
    normalizer, pre_tokenizer, ignore_merges = PRE[pre]
    model = models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, ignore_merges=ignore_merges)
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special(CONTROL))
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in USER_DEFINED])
    return tokenizer


def sentence_piece():
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=out,
        model_type="bpe",
        vocab_size=620,
        byte_fallback=True,
        character_coverage=0.985,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        add_dummy_prefix=True,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    kinds = []
    for i in range(model.get_piece_size()):
        kinds.append(2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1)
    vocabulary = {
        "model": "llama",
        "tokens": [model.id_to_piece(i) for i in range(model.get_piece_size())],
        "scores": [model.get_score(i) for i in range(model.get_piece_size())],
        "token_types": kinds,
        "bos": model.bos_id(),
        "eos": model.eos_id(),
        "unk": model.unk_id(),
    }
    # SentencePiece strips nothing from an empty text but gives no token for it either; special tokens are not parsed.
    texts = [t for t in TEXTS if "<|" not in t and "\0" not in t]
    return {"vocabulary": vocabulary, "ids": [[t, [model.bos_id()] + model.encode(t)] for t in texts]}


def main():
    tokens, merges = byte_level_vocabulary()
    cases = []
    for pre in PRE:
        tokenizer = pipeline(tokens, merges, pre)
        vocabulary = {"model": "gpt2", "pre": pre, "eos": 2, "pad": 2, "bos": 1}
        ids = [[t, tokenizer.encode(t).ids] for t in TEXTS]
        cases.append({"vocabulary": vocabulary, "ids": ids})
    kinds = [3 if t in CONTROL else 4 if t in USER_DEFINED else 1 for t in tokens]
    shared = {"tokens": tokens, "merges": [" ".join(m) for m in merges], "token_types": kinds}
    with open(f"{HERE}/vocabularies.json", "w") as f:
        json.dump({"byte_level": shared, "cases": cases, "sentence_piece": sentence_piece()}, f, ensure_ascii=False)
        f.write("\n")

    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = pipeline(tokens, merges, "smollm")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", pair="<|endoftext|> $A $B", special_tokens=[("<|endoftext|>", 0)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(f"{HERE}/tiny")
    with open(f"{HERE}/tiny/generation_config.json", "w") as f:
        json.dump({"eos_token_id": [2, 0]}, f)
        f.write("\n")
    loaded = AutoTokenizer.from_pretrained(f"{HERE}/tiny")
    rows = [[t, loaded(t)["input_ids"], loaded(t, add_special_tokens=False)["input_ids"]] for t in TEXTS]
    with open(f"{HERE}/tiny.json", "w") as f:
        json.dump(rows, f, ensure_ascii=False)
        f.write("\n")


main()
