"""One distillation step in PyTorch on a GPU: the peer of step.toml.

    python benches/gpu/pytorch_step.py --mode compile

Weights, gradients and moments in f32, products and activations in bf16 by autocast; the teacher in bf16; SDPA's flash attention;
fused AdamW, gradient norm clipped to 1.

    plain        0.9·T²·forward KL at T = 2 plus 0.1·cross-entropy over whole logits, as most people write it
    compile      the same, models and loss under torch.compile, the loss in chunks of positions that are run twice
    compile-jsd  JSD (β = 0.5) in place of it
    liger-jsd    JSD by Liger's fused linear loss, Liger's kernels for the rest, not compiled
"""
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM

import torch_loop

TEMPERATURE, KL_WEIGHT, CE_WEIGHT = 2.0, 0.9, 0.1
CHUNK = 2048  # positions


def kl_loss(logits, teacher_logits, targets):
    """Sum over the positions."""
    logits, teacher_logits = logits.float(), teacher_logits.float()
    q = F.log_softmax(logits / TEMPERATURE, -1)
    p = F.log_softmax(teacher_logits / TEMPERATURE, -1)
    kl = F.kl_div(q, p, reduction="sum", log_target=True)
    return KL_WEIGHT * TEMPERATURE**2 * kl + CE_WEIGHT * F.cross_entropy(logits, targets, reduction="sum")


def jsd_loss(logits, teacher_logits, targets):
    q, p = F.log_softmax(logits.float(), -1), F.log_softmax(teacher_logits.float(), -1)
    mixture = torch.logaddexp(p, q) - torch.tensor(2.0).log()
    return 0.5 * (F.kl_div(mixture, p, reduction="sum", log_target=True)
                  + F.kl_div(mixture, q, reduction="sum", log_target=True))


def whole(student, teacher, loss):
    def step(ids, targets):
        with torch.no_grad():
            teacher_logits = teacher(ids).logits
        return loss(student(ids).logits.flatten(0, 1), teacher_logits.flatten(0, 1), targets.flatten()) / targets.numel()
    return step


def compiled(student, teacher, loss):
    student_body, teacher_body = torch.compile(student.model), torch.compile(teacher.model)

    @torch.compile
    def part(hidden, head, teacher_hidden, teacher_head, targets):
        return loss(hidden @ head.to(hidden.dtype).T, teacher_hidden @ teacher_head.T, targets)

    def step(ids, targets):
        with torch.no_grad():
            teacher_hidden = teacher_body(ids).last_hidden_state.flatten(0, 1)
        hidden, targets = student_body(ids).last_hidden_state.flatten(0, 1), targets.flatten()
        hidden = hidden.to(teacher_hidden.dtype)
        total = 0
        for start in range(0, len(targets), CHUNK):
            rows = slice(start, start + CHUNK)
            total = total + checkpoint(part, hidden[rows], student.lm_head.weight, teacher_hidden[rows],
                                       teacher.lm_head.weight, targets[rows], use_reentrant=False)
        return total / len(targets)
    return step


def liger(student, teacher):
    from liger_kernel.transformers import LigerFusedLinearJSD
    jsd = LigerFusedLinearJSD(jsd_beta=0.5)

    def step(ids, targets):
        with torch.no_grad():
            teacher_hidden = teacher.model(ids).last_hidden_state.flatten(0, 1)
        hidden = student.model(ids).last_hidden_state.flatten(0, 1)
        head = student.lm_head.weight.to(torch.bfloat16)
        return jsd(hidden.to(torch.bfloat16), head, teacher_hidden, teacher.lm_head.weight, targets.flatten())
    return step


def main():
    args = torch_loop.arguments(["plain", "compile", "compile-jsd", "liger-jsd"])
    if args.mode == "liger-jsd":
        from liger_kernel.transformers import apply_liger_kernel_to_qwen2
        apply_liger_kernel_to_qwen2()

    def load(name, dtype):
        model = AutoModelForCausalLM.from_pretrained(
            args.models / name, dtype=dtype, attn_implementation="sdpa", use_cache=False)
        return model.to(args.device)
    teacher = load("teacher", torch.bfloat16).eval().requires_grad_(False)
    student = load("student", torch.float32).train()
    loss_of = {
        "plain": lambda: whole(student, teacher, kl_loss),
        "compile": lambda: compiled(student, teacher, kl_loss),
        "compile-jsd": lambda: compiled(student, teacher, jsd_loss),
        "liger-jsd": lambda: liger(student, teacher),
    }[args.mode]()
    decayed = [p for p in student.parameters() if p.ndim == 2]
    rest = [p for p in student.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
                                  lr=1e-4, betas=(0.9, 0.95), fused=True)

    def step(ids, targets):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(args.device, torch.bfloat16):
            loss = loss_of(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    torch_loop.run(args, step)


main()
