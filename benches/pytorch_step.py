"""One distillation step in PyTorch: the peer that `benches` compares the trainer with.

    python benches/pytorch_step.py --mode plain --steps 5 --warmup 2

SmolLM2-135M's shapes: a teacher of 30 layers, a student of 10, a batch of 4 × 256 tokens in f32,
0.9·T²·forward KL at T = 2 plus 0.1·cross-entropy, gradient norm clipped to 1, AdamW.
The weights are random, because speed does not depend on them.

    plain     as most people write it: whole logits of both models, log_softmax, KL
    best      the fastest and leanest that we know in stock PyTorch on a CPU: the loss in token chunks
              with its gradient computed on the way, allocator settings, fused AdamW
    student   the student alone on hard labels: what a step costs without a teacher

Prints one line of JSON.
"""
import argparse
import json
import os
import statistics
import sys
import time

TEMPERATURE, KL_WEIGHT, CE_WEIGHT = 2.0, 0.9, 0.1
BATCH, LENGTH = 4, 256
CHUNK = 128  # tokens: 128 × 49152 logits are 24 MiB

# glibc maps large blocks and returns them at once by default; every step then pays for fresh pages.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_ARENA_MAX": "1",
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", choices=["plain", "best", "student"], default="plain")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", choices=["random"], default="random")
    return parser.parse_args()


args = arguments()
if args.mode == "best" and any(os.environ.get(k) != v for k, v in ALLOCATOR.items()):
    # glibc reads these once, at start: set them and start again.
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402


def smollm2(layers):
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0}, tie_word_embeddings=True,
        initializer_range=0.04, use_cache=False, attn_implementation="sdpa")
    return LlamaForCausalLM(config)


def plain_loss(student, teacher, ids, targets):
    with torch.no_grad():
        teacher_logits = teacher(ids).logits
    logits = student(ids).logits
    q = F.log_softmax(logits / TEMPERATURE, -1).flatten(0, 1)
    p = F.log_softmax(teacher_logits / TEMPERATURE, -1).flatten(0, 1)
    kl = F.kl_div(q, p, reduction="batchmean", log_target=True)
    ce = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    return KL_WEIGHT * TEMPERATURE**2 * kl + CE_WEIGHT * ce


def student_loss(student, teacher, ids, targets):
    return F.cross_entropy(student(ids).logits.flatten(0, 1), targets.flatten())


class ChunkedLoss(torch.autograd.Function):
    """KL and cross-entropy over token chunks. Both gradients have closed forms, so they are computed
    in the forward pass and no chunk's logits outlive it: nothing is computed twice."""

    @staticmethod
    def forward(ctx, hidden, head, teacher_hidden, teacher_head, targets):
        tokens = hidden.shape[0]
        hidden_grad, head_grad = torch.empty_like(hidden), torch.zeros_like(head)
        total = hidden.new_zeros(())
        for start in range(0, tokens, CHUNK):
            part = slice(start, start + CHUNK)
            rows = torch.arange(len(targets[part]))
            p = teacher_hidden[part] @ teacher_head.T
            log_p = torch.log_softmax(p.div_(TEMPERATURE), -1)
            logits = hidden[part] @ head.T
            log_q1 = torch.log_softmax(logits, -1)
            total -= CE_WEIGHT * log_q1[rows, targets[part]].sum()
            # d CE = softmax(z) − onehot;  d T²·KL = T·(softmax(z/T) − p)
            grad = log_q1.exp_().mul_(CE_WEIGHT)
            grad[rows, targets[part]] -= CE_WEIGHT
            log_q = torch.log_softmax(logits.div_(TEMPERATURE), -1)
            p = torch.exp(log_p, out=p)
            total += KL_WEIGHT * TEMPERATURE**2 * torch.dot(p.flatten(), log_p.sub_(log_q).flatten())
            grad.add_(log_q.exp_().sub_(p), alpha=KL_WEIGHT * TEMPERATURE).div_(tokens)
            hidden_grad[part] = grad @ head
            head_grad.addmm_(grad.T, hidden[part])
        ctx.save_for_backward(hidden_grad, head_grad)
        return total / tokens

    @staticmethod
    def backward(ctx, upstream):
        hidden_grad, head_grad = ctx.saved_tensors
        return hidden_grad.mul_(upstream), head_grad.mul_(upstream), None, None, None


def best_loss(student, teacher, ids, targets):
    with torch.no_grad():
        teacher_hidden = teacher.model(ids).last_hidden_state.flatten(0, 1)
    hidden = student.model(ids).last_hidden_state.flatten(0, 1)
    return ChunkedLoss.apply(
        hidden, student.lm_head.weight, teacher_hidden, teacher.lm_head.weight, targets.flatten())


def peak_rss_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def main():
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    teacher = None if args.mode == "student" else smollm2(30).eval().requires_grad_(False)
    student = smollm2(10).train()
    if teacher:  # every third layer, as the quickstart prunes
        student.model.embed_tokens.load_state_dict(teacher.model.embed_tokens.state_dict())
        for i, layer in enumerate(student.model.layers):
            layer.load_state_dict(teacher.model.layers[3 * i].state_dict())
    decayed = [p for p in student.parameters() if p.ndim == 2]
    rest = [p for p in student.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=3e-4, betas=(0.9, 0.95), fused=args.mode == "best")
    loss_of = {"plain": plain_loss, "best": best_loss, "student": student_loss}[args.mode]
    tokens = torch.randint(0, 49152, (args.warmup + args.steps, BATCH, LENGTH + 1))

    seconds = []
    for step, batch in enumerate(tokens):
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(student, teacher, batch[:, :-1], batch[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        if step >= args.warmup:
            seconds.append(time.perf_counter() - begin)
        print(f"step {step}: loss {loss.item():.6f}", file=sys.stderr)
    print(json.dumps({
        "mode": args.mode,
        "steps": args.steps,
        "seconds_per_step": [round(s, 4) for s in seconds],
        "tokens_per_second": round(BATCH * LENGTH / statistics.median(seconds), 1),
        "peak_rss_bytes": peak_rss_bytes(),
    }))


main()
