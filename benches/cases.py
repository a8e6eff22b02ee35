"""The operations that `operations.py` times: their shapes, the bytes that they must move and what they must compute."""
from dataclasses import dataclass, field

# Matrices of SmolLM2-135M's every third layer, 63.7 M weights: what AdamW and the global norm go over.
HIDDEN, INTERMEDIATE, KEYS, VOCABULARY = 576, 1536, 192, 49152
LAYER = [[1, HIDDEN], [1, HIDDEN], [HIDDEN, HIDDEN], [KEYS, HIDDEN], [KEYS, HIDDEN], [HIDDEN, HIDDEN],
         [INTERMEDIATE, HIDDEN], [INTERMEDIATE, HIDDEN], [HIDDEN, INTERMEDIATE]]
STUDENT = [[VOCABULARY, HIDDEN], *LAYER * 10, [1, HIDDEN]]
# Rows of a chunk of `linear_loss`: 64 MiB of logits.
CHUNK = (64 << 20) // (4 * VOCABULARY)
MIX = [{"forward_kl": {"weight": 0.9, "temperature": 2}}, {"cross_entropy": {"weight": 0.1}}]


@dataclass
class Case:
    name: str
    # What both programs are asked for.
    request: dict
    # Values that must be read or written once, at the least; 0 where that says nothing.
    values: int = 0
    # Multiplications and additions; 0 where bytes decide.
    operations: float = 0
    # Programs that cannot do it.
    without: set = field(default_factory=set)


def attention(name, rows, length, heads, kv_heads, head_dim, segment):
    shape = {"operation": "attention", "rows": rows, "length": length, "heads": heads, "kv_heads": kv_heads,
             "head_dim": head_dim, "segment": segment}
    pairs = rows * heads * (length // segment) * segment * (segment + 1) / 2
    values = rows * length * (heads + kv_heads) * head_dim
    name = f"attention {rows} × {length}, {heads}/{kv_heads} heads of {head_dim}, {name}"
    return [Case(f"{name}: forward", shape | {"pass": "forward"}, 2 * values, 4 * pairs * head_dim),
            Case(f"{name}: backward", shape | {"pass": "backward"}, 4 * values, 10 * pairs * head_dim)]


def two(name, shape, forward, backward):
    return [Case(f"{name}: forward", shape | {"pass": "forward"}, forward),
            Case(f"{name}: backward", shape | {"pass": "backward"}, backward)]


def product(name, rows, input, output):
    shape = {"operation": "product", "rows": rows, "input": input, "output": output}
    name, work = f"{name}, {rows} × {input} → {output}", 2 * rows * input * output
    return [Case(f"{name}: forward", shape | {"pass": "forward"}, 0, work),
            Case(f"{name}: backward", shape | {"pass": "backward"}, 0, 2 * work)]


def adapters(tokens=1024, rank=16):
    """The linear layers of a block of SmolLM2 with adapters, forward and backward."""
    shapes = [("q, o", HIDDEN, HIDDEN), ("k, v", HIDDEN, KEYS), ("gate, up", HIDDEN, INTERMEDIATE), ("down", INTERMEDIATE, HIDDEN)]
    return [Case(f"adapter of rank {rank} on {name}, {tokens} × {input} → {output}: both",
                 {"operation": "adapter", "rows": tokens, "input": input, "output": output, "rank": rank, "pass": "both"},
                 0, 4 * tokens * input * output + 8 * tokens * rank * (input + output))
            for name, input, output in shapes]


def linear_loss(name, rows, width, vocabulary, losses, teacher, without=()):
    request = {"operation": "linear_loss", "rows": rows, "width": width, "vocabulary": vocabulary,
               "losses": losses, "pass": "both"}
    work = 2 * rows * width * vocabulary * (4 if teacher else 3)
    return Case(f"linear loss {rows} × {width} × {vocabulary}, {name}", request, 0, work, set(without))


def step(tokens=1024):
    """What a step of SmolLM2's student is made of."""
    count = sum(rows * columns for rows, columns in STUDENT)
    norm = {"operation": "rms_norm", "rows": tokens, "width": HIDDEN}
    rope = {"operation": "rope", "rows": tokens, "heads": 9, "head_dim": 64}
    gate = {"operation": "swiglu", "rows": tokens, "width": INTERMEDIATE}
    embedding = {"operation": "embedding", "rows": tokens, "vocabulary": VOCABULARY, "width": HIDDEN,
                 "pass": "backward"}
    weights = {"shapes": STUDENT, "pass": "both"}
    return [
        *attention("causal", 4, 256, 9, 3, 64, 256),
        *attention("causal", 1, 2048, 9, 3, 64, 2048),
        *attention("4 samples a row", 4, 256, 9, 3, 64, 64),
        *attention("8 samples a row", 1, 2048, 9, 3, 64, 256),
        *two(f"RMSNorm {tokens} × {HIDDEN}", norm, 2 * tokens * HIDDEN, 3 * tokens * HIDDEN),
        *two(f"RoPE {tokens} × {HIDDEN}", rope, 2 * tokens * HIDDEN, 2 * tokens * HIDDEN),
        *two(f"SwiGLU {tokens} × {INTERMEDIATE}", gate, 3 * tokens * INTERMEDIATE, 5 * tokens * INTERMEDIATE),
        Case(f"embedding gradient {tokens} of {VOCABULARY} × {HIDDEN}", embedding, 3 * tokens * HIDDEN),
        linear_loss("cross-entropy", CHUNK, HIDDEN, VOCABULARY, [{"cross_entropy": {}}], False),
        linear_loss("forward KL (T = 2) + cross-entropy", CHUNK, HIDDEN, VOCABULARY, MIX, True),
        Case(f"AdamW, {count / 1e6:.1f} M weights", {"operation": "adamw"} | weights, 7 * count),
        Case(f"global norm, {count / 1e6:.1f} M weights", {"operation": "global_norm"} | weights, count),
        *product("product q, o", tokens, HIDDEN, HIDDEN),
        *product("product k, v", tokens, HIDDEN, KEYS),
        *product("product gate, up", tokens, HIDDEN, INTERMEDIATE),
        *product("product down", tokens, INTERMEDIATE, HIDDEN),
        *product("product head", CHUNK, HIDDEN, VOCABULARY),
    ]


def large_losses():
    """Liger's published shape, and Qwen2.5's vocabulary."""
    jsd, cross_entropy = [{"jsd": {"beta": 0.5}}], [{"cross_entropy": {}}]
    return [linear_loss(name, rows, width, vocabulary, losses, losses is jsd)
            for rows, width, vocabulary in [(8192, 4096, 128256), (16384, 2048, 151936)]
            for name, losses in [("JSD", jsd), ("cross-entropy", cross_entropy)]]


def large_attention():
    """Heads of Qwen2.5 0.5B and 1.5B, 16384 tokens at a time."""
    return [case for heads, head_dim in [(14, 64), (12, 128)] for length in (2048, 8192)
            for name, segment in [("causal", length), ("samples of 512", 512)]
            for case in attention(name, 16384 // length, length, heads, 2, head_dim, segment)]


def large_products():
    """What the products of a large step reach."""
    return product("product", 8192, 8192, 8192)


def tiny():
    """One of each, to see that everything works."""
    shapes = {"shapes": [[8, 16], [1, 16]], "pass": "both"}
    return [
        *attention("causal", 2, 32, 4, 2, 8, 32), *attention("packed", 2, 32, 4, 2, 8, 16),
        *two("RMSNorm", {"operation": "rms_norm", "rows": 8, "width": 16}, 256, 384),
        *two("RoPE", {"operation": "rope", "rows": 8, "heads": 2, "head_dim": 8}, 256, 256),
        *two("SwiGLU", {"operation": "swiglu", "rows": 8, "width": 16}, 384, 640),
        Case("embedding", {"operation": "embedding", "rows": 8, "vocabulary": 64, "width": 16, "pass": "backward"}, 384),
        linear_loss("cross-entropy", 16, 16, 64, [{"cross_entropy": {}}], False),
        linear_loss("JSD", 16, 16, 64, [{"jsd": {"beta": 0.5}}], True),
        linear_loss("mix", 16, 16, 64, MIX, True, without=["Liger"]),
        Case("AdamW", {"operation": "adamw"} | shapes, 1008), Case("global norm", {"operation": "global_norm"} | shapes, 144),
        *product("product", 8, 16, 32),
    ]


SETS = {"adapters": adapters, "step": step, "large-losses": large_losses, "large-attention": large_attention,
        "large-products": large_products, "tiny": tiny}
