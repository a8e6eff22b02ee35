"""The shapes of the models, and what a step on them must compute."""

QWEN_1_5B = {"vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
             "num_attention_heads": 12, "num_key_value_heads": 2}
QWEN_0_5B = {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
             "num_attention_heads": 14, "num_key_value_heads": 2}
TINY_TEACHER = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
                "num_attention_heads": 4, "num_key_value_heads": 2}
TINY_STUDENT = TINY_TEACHER | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
# Rows and tokens of a row; the recipes have the same.
BATCH, TINY_BATCH = (8, 2048), (2, 32)
# Of an H200, in bf16 products.
PEAK_FLOPS = 790e12


def of(tiny):
    """Teacher, student and the tokens that the tokenizer has."""
    return (TINY_TEACHER, TINY_STUDENT, 500) if tiny else (QWEN_1_5B, QWEN_0_5B, 151665)


def forward_flops(shape, length):
    """A token's share of a forward pass over rows of `length` tokens, head included, causal attention."""
    hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
    keys = shape["num_key_value_heads"] * hidden // heads
    weights = shape["num_hidden_layers"] * (2 * hidden * (hidden + keys) + 3 * hidden * shape["intermediate_size"])
    return 2 * (weights + shape["vocab_size"] * hidden) + 2 * shape["num_hidden_layers"] * length * hidden


def step_flops(tiny):
    """A token's share of a distillation step: forward by both, backward by the student, nothing twice."""
    teacher, student, _ = of(tiny)
    length = (TINY_BATCH if tiny else BATCH)[1]
    return forward_flops(teacher, length) + 3 * forward_flops(student, length)
