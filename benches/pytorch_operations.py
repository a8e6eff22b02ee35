"""Times one operation at a time in PyTorch, as it is asked: `benches/operations/main.rs` with PyTorch's own means.

A JSON object a line on stdin, one a line on stdout; `benches/operations.py` asks. Each operation is written as a user
of stock PyTorch would: fused where it has a fused form (`scaled_dot_product_attention`, `rms_norm`, fused AdamW),
with autograd's backward pass.
"""
import argparse
import json
import sys
import time

import torch
import torch.nn.functional as F

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
parser.add_argument("--memory", action="store_true", help="do it once, answer with the peak memory that this took")
parser.add_argument("--peer", choices=["torch", "liger"], default="torch", help="whose linear loss")
args = parser.parse_args()
torch.set_num_threads(args.threads)
torch.manual_seed(0)
DEVICE = torch.device(args.device)
# On a GPU activations are bf16, and so are the weights that they meet.
COMPUTE = torch.float32 if args.device == "cpu" else torch.bfloat16


def random(*shape, dtype=None, scale=1.0):
    return torch.randn(*shape, device=DEVICE, dtype=dtype or COMPUTE) * scale


def passes(forward, inputs, which):
    """One run of `forward` over `inputs`, of its backward pass, or of both."""
    inputs = [x.requires_grad_() for x in inputs]
    if which == "forward":
        return forward
    d_out = torch.randn_like(forward())
    if which == "both":
        return lambda: torch.autograd.grad(forward(), inputs, d_out)
    out = forward()
    return lambda: torch.autograd.grad(out, inputs, d_out, retain_graph=True)


def attention(rows, length, heads, kv_heads, head_dim, segment, which):
    def split(count):
        return random(rows, length, count, head_dim).transpose(1, 2)
    q, k, v = split(heads), split(kv_heads), split(kv_heads)
    group = heads // kv_heads
    mask = None
    if segment < length:
        number = torch.arange(length, device=DEVICE) // segment
        mask = (number[:, None] == number[None, :]).tril()[None, None]

    def forward():
        # As transformers calls it: on a CPU there is no fused kernel for grouped heads.
        return F.scaled_dot_product_attention(
            q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), attn_mask=mask, is_causal=mask is None)
    return passes(forward, [q, k, v], which)


def rms_norm(rows, width, which):
    x, weight = random(rows, width), random(width)
    return passes(lambda: F.rms_norm(x, (width,), weight, 1e-5), [x, weight], which)


def rope(rows, heads, head_dim, which):
    x = random(1, heads, rows, head_dim)
    half = head_dim // 2
    angle = torch.arange(rows, device=DEVICE)[:, None] * (1e5 ** (-torch.arange(half, device=DEVICE) / half))[None, :]
    angle = torch.cat([angle, angle], -1)
    cos, sin = angle.cos().to(COMPUTE), angle.sin().to(COMPUTE)

    def forward():
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin
    return passes(forward, [x], which)


def swiglu(rows, width, which):
    gate, up = random(rows, width), random(rows, width)
    return passes(lambda: F.silu(gate) * up, [gate, up], which)


def ids(count, vocabulary):
    return torch.tensor([(i * i * 2654435761 + i * 40503) % vocabulary for i in range(count)], device=DEVICE)


def embedding(rows, vocabulary, width, which):
    weight = random(vocabulary, width, dtype=torch.float32).requires_grad_()
    weight.grad = torch.zeros_like(weight)
    out = F.embedding(ids(rows, vocabulary), weight)
    d_out = torch.randn_like(out)
    return lambda: out.backward(d_out, retain_graph=True)


def product(rows, input, output, which):
    x = random(rows, input).requires_grad_()
    weight = random(output, input).requires_grad_()
    weight.grad = torch.zeros_like(weight)
    if which == "forward":
        return lambda: F.linear(x, weight)
    out = F.linear(x, weight)
    d_out = torch.randn_like(out)

    def backward():
        x.grad = None
        out.backward(d_out, retain_graph=True)
    return backward


def adapter(rows, input, output, rank, which):
    """As PEFT writes it, without dropout."""
    x, d_out = random(rows, input).requires_grad_(), random(rows, output)
    weight = random(output, input)
    a, b = random(rank, input).requires_grad_(), random(output, rank).requires_grad_()

    def both():
        x.grad = a.grad = b.grad = None
        (F.linear(x, weight) + F.linear(F.linear(x, a), b) * 2.0).backward(d_out)
    return both


def plain_linear_loss(losses):
    """Of hidden states, head, the teacher's two, and targets; whole logits, mean over the rows."""
    def loss(hidden, head, teacher_hidden, teacher_head, targets):
        logits = F.linear(hidden, head).float()
        total = 0
        for entry in losses:
            [(name, keys)] = entry.items()
            temperature = keys.get("temperature", 1)
            if name == "cross_entropy":
                value = F.cross_entropy(logits, targets)
            else:
                teacher = F.linear(teacher_hidden, teacher_head).float()
                q = F.log_softmax(logits / temperature, -1)
                p = F.log_softmax(teacher / temperature, -1)
                value = temperature**2 * divergence(name, keys, p, q)
            total = total + keys.get("weight", 1) * value
        return total
    return loss


def divergence(name, keys, p, q):
    if name == "forward_kl":
        return F.kl_div(q, p, reduction="batchmean", log_target=True)
    assert name == "jsd", name
    beta = keys.get("beta", 0.5)
    mixture = torch.logaddexp(p + torch.tensor(beta).log(), q + torch.tensor(1 - beta).log())
    return (beta * F.kl_div(mixture, p, reduction="batchmean", log_target=True)
            + (1 - beta) * F.kl_div(mixture, q, reduction="batchmean", log_target=True))


def liger_linear_loss(losses):
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss, LigerFusedLinearJSD
    [entry] = losses
    [(name, keys)] = entry.items()
    if name == "cross_entropy":
        cross_entropy = LigerFusedLinearCrossEntropyLoss()
        return lambda hidden, head, _, __, targets: cross_entropy(head, hidden, targets)
    assert name == "jsd", f"Liger has no fused linear {name}"
    jsd = LigerFusedLinearJSD(jsd_beta=keys.get("beta", 0.5))
    return lambda hidden, head, teacher_hidden, teacher_head, targets: jsd(
        hidden, head, teacher_hidden, teacher_head, targets)


def linear_loss(rows, width, vocabulary, losses, which):
    hidden = random(rows, width).requires_grad_()
    head = random(vocabulary, width, scale=0.04).requires_grad_()
    head.grad = torch.zeros_like(head)
    teacher = any("cross_entropy" not in entry for entry in losses)
    teacher_hidden = random(rows, width) if teacher else None
    teacher_head = random(vocabulary, width, scale=0.04) if teacher else None
    targets = ids(rows, vocabulary)
    loss = (liger_linear_loss if args.peer == "liger" else plain_linear_loss)(losses)

    def once():
        hidden.grad = None
        loss(hidden, head, teacher_hidden, teacher_head, targets).backward()
    return once


def adamw(shapes, which):
    parameters = [random(*shape, dtype=torch.float32).requires_grad_() for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    return optimizer.step


def global_norm(shapes, which):
    gradients = [random(*shape, dtype=torch.float32) for shape in shapes]
    return lambda: torch.nn.utils.get_total_norm(gradients)


def copy(bytes, which):
    source = torch.ones(bytes // 8, device=DEVICE, dtype=torch.float32)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


OPERATIONS = {f.__name__: f for f in (
    attention, rms_norm, rope, swiglu, embedding, product, adapter, linear_loss, adamw, global_norm, copy)}


def synchronize():
    if args.device == "cuda":
        torch.cuda.synchronize()


def status_bytes(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {key} in /proc/self/status")


def peak_bytes(once):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # sets the high-water mark back to what is resident now
    before = status_bytes("VmRSS:")
    once()
    return max(status_bytes("VmHWM:") - before, 0)


def seconds(once, runs):
    found = []
    for _ in range(runs + 1):
        synchronize()
        begin = time.perf_counter()
        result = once()
        synchronize()
        found.append(time.perf_counter() - begin)
        del result
    return found[1:]


for line in sys.stdin:
    request = json.loads(line)
    operation, runs = OPERATIONS[request.pop("operation")], request.pop("runs")
    once = operation(which=request.pop("pass"), **request)
    if args.memory:
        answer = {"peak_bytes": peak_bytes(once)}
    else:
        answer = {"seconds": seconds(once, runs)}
    del once
    print(json.dumps(answer), flush=True)
