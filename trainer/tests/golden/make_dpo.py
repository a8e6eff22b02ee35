"""Writes dpo.json and dpo_step.safetensors: preference losses as TRL's DPOTrainer computes them, by float64 autograd.

    python make_dpo.py        (needs torch, transformers, safetensors and trl 1.16.0)

`DPOTrainer._compute_loss` itself runs, on a stand-in for the trainer that has only the settings that it reads. `cases`: losses
and means of rewards of given log-probabilities, with gradients of the mean loss by the log-probability of each token of each
side. TRL 1.x has no label smoothing for `sigmoid`; as in its earlier versions it is (1 − ε)·loss + ε·loss of the swapped pair.
`steps`: the first optimizer step of the tiny model llama_gqa against references of llama_tied, in float32, as TRL's trainer would
make it: mean over the pairs, clipping, AdamW. The weights after it are in the safetensors file, by loss and parameter.
"""

import collections
import json
import pathlib
import types

import torch
import transformers
from safetensors.torch import save_file
from trl import DPOTrainer

HERE = pathlib.Path(__file__).parent
MODELS = HERE / "../../../tests/golden/checkpoints"


def identity(x):
    return x


def stand_in(kind, beta):
    accelerator = types.SimpleNamespace(device="cpu", gather=identity, gather_for_metrics=identity)
    return types.SimpleNamespace(
        model=types.SimpleNamespace(training=True), accelerator=accelerator, aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[kind], loss_weights=[1.0], beta=beta,
        use_weighting=False, label_smoothing=0.0, _metrics={"train": collections.defaultdict(list)},
        _total_train_tokens=0, _tp_size=1)


class Outputs(types.SimpleNamespace):
    def __init__(self, log_probs):
        zeros = torch.zeros_like(log_probs)
        super().__init__(log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


def trl(kind, beta, model, ids, mask, attention, reference):
    trainer = stand_in(kind, beta)
    inputs = {"input_ids": ids, "attention_mask": attention, "completion_mask": mask,
              "ref_chosen_logps": reference[:, 0], "ref_rejected_logps": reference[:, 1]}
    loss = DPOTrainer._compute_loss(trainer, model, inputs, False)
    return loss, {name: values[0] for name, values in trainer._metrics["train"].items()}


def case(loss, pairs):
    (kind, settings), = loss.items()
    beta, smoothing = settings.get("beta", 0.1), settings.get("label_smoothing", 0.0)
    free = settings.get("reference_free", False)
    longest = int(max(max(pair["tokens"]) for pair in pairs))

    def once(swapped):
        order = (1, 0) if swapped else (0, 1)
        mask, leaf = [], []
        for side in order:
            for pair in pairs:
                tokens = pair["tokens"][side]
                mask.append([0] + [1] * tokens + [0] * (longest - tokens))
                leaf.append([pair["log_probs"][side] / tokens] * tokens + [0.0] * (longest - tokens))
        mask = torch.tensor(mask)
        leaf = torch.tensor(leaf, dtype=torch.float64, requires_grad=True)
        reference = torch.tensor([[0.0 if free else pair["reference"][side] for side in order] for pair in pairs],
                                 dtype=torch.float64)
        value, metrics = trl(kind, beta, lambda **_: Outputs(leaf), torch.zeros_like(mask), mask,
                             torch.ones_like(mask), reference)
        gradient = torch.autograd.grad(value, leaf)[0]
        first = gradient[:, 0].reshape(2, -1).T
        return value.item(), first[:, list(order)], metrics

    value, gradient, metrics = once(False)
    if smoothing:
        other, other_gradient, _ = once(True)
        value = (1 - smoothing) * value + smoothing * other
        gradient = (1 - smoothing) * gradient + smoothing * other_gradient
    return {"loss": loss, "pairs": pairs, "value": value, "gradients": gradient.tolist(),
            "chosen_reward": metrics["rewards/chosen"], "rejected_reward": metrics["rewards/rejected"],
            "accuracy": metrics["rewards/accuracies"]}


def cases():
    g = torch.Generator().manual_seed(20250611)
    pairs = []
    for _ in range(7):
        tokens = torch.randint(1, 12, (2,), generator=g).tolist()
        log_probs = [round(-2.5 * n * (0.5 + torch.rand(1, generator=g).item()), 3) for n in tokens]
        reference = [round(x + 3 * torch.randn(1, generator=g).item(), 3) for x in log_probs]
        pairs.append({"tokens": tokens, "log_probs": log_probs, "reference": reference})
    for loss in [
        {"sigmoid": {}},
        {"sigmoid": {"beta": 0.5}},
        {"sigmoid": {"beta": 0.3, "label_smoothing": 0.1}},
        {"sigmoid": {"beta": 0.2, "reference_free": True}},
        {"ipo": {}},
        {"ipo": {"beta": 0.5}},
        {"hinge": {}},
        {"hinge": {"beta": 0.4}},
        {"hinge": {"beta": 0.05, "reference_free": True}},
    ]:
        yield case(loss, pairs)


def load(name):
    model = transformers.AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32)
    return model.eval()


def batch(pairs):
    """Ids, completion mask and attention mask, all chosen sides first, padded on the right."""
    sides = [pair["prompt"] + pair[side] for side in ("chosen", "rejected") for pair in pairs]
    longest = max(map(len, sides))
    prompts = [len(pair["prompt"]) for pair in pairs] * 2
    ids = torch.tensor([side + [0] * (longest - len(side)) for side in sides])
    mask = torch.tensor([[0] * p + [1] * (len(s) - p) + [0] * (longest - len(s)) for s, p in zip(sides, prompts)])
    attention = torch.tensor([[1] * len(side) + [0] * (longest - len(side)) for side in sides])
    return ids, mask, attention


def forward(model):
    """What TRL asks a model for: the log-probability of each label, 0 where there is none."""
    def run(input_ids, attention_mask, labels, **_):
        logits = model(input_ids=input_ids, attention_mask=attention_mask).logits[:, :-1]
        known = labels[:, 1:] != -100
        picked = logits.log_softmax(-1).gather(2, input_ids[:, 1:, None]).squeeze(2)
        return Outputs(torch.where(known, picked, 0.0))
    return run


def steps():
    g = torch.Generator().manual_seed(20250612)

    def ids(low, high):
        count = int(torch.randint(low, high, (1,), generator=g))
        return torch.randint(3, 80, (count,), generator=g).tolist()

    pairs = [{"prompt": ids(2, 5), "chosen": ids(2, 8), "rejected": ids(2, 8)} for _ in range(5)]
    inputs = batch(pairs)
    with torch.no_grad():
        log_probs = forward(load("llama_tied"))(inputs[0], inputs[2], inputs[0].masked_fill(inputs[1] == 0, -100)).log_probs
    reference = log_probs.sum(1).reshape(2, -1).T.contiguous()
    optimizer = {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-6, "weight_decay": 0.0}
    record, weights = {"pairs": pairs, "reference": reference.tolist(), "optimizer": optimizer, "clip": 1.0, "steps": []}, {}
    for loss in [{"sigmoid": {"beta": 0.1}}, {"ipo": {"beta": 0.1}}, {"hinge": {"beta": 0.1}}]:
        (kind, settings), = loss.items()
        model = load("llama_gqa")
        value, metrics = trl(kind, settings["beta"], forward(model), *inputs, reference)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), record["clip"])
        torch.optim.AdamW(model.parameters(), **optimizer).step()
        record["steps"].append({"loss": loss, "value": value.item(), "gradient_norm": norm.item(),
                                "margin": metrics["rewards/margins"], "accuracy": metrics["rewards/accuracies"],
                                "chosen_log_prob": metrics["logps/chosen"]})
        weights.update({f"{kind}.{name}": p.detach().clone() for name, p in model.named_parameters()})
    save_file(weights, HERE / "dpo_step.safetensors")
    return record


if __name__ == "__main__":
    made = {"cases": list(cases()), **steps()}
    (HERE / "dpo.json").write_text(json.dumps(made, indent=1) + "\n")
