"""Writes trl_jsd.json: values and gradients of TRL's own `generalized_jsd_loss` (GKD), by float64 autograd.

    pip install --no-deps trl==1.16.0
    python make_trl_jsd.py        (needs torch)

The function is taken out of TRL's file, so that nothing else of TRL is imported. It has no T², which we have: only then is
the gradient of a KL of the same size at every temperature (Hinton et al., arXiv 1503.02531). The test multiplies by it.
TRL's default reduction divides by the tokens of a microbatch, so what a token counts for depends on what it is batched
with; we divide once by those of the whole step, as TRL does with `num_items_in_batch`, which is given here.
"""

import ast
import importlib.util
import json
import pathlib

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)

file = pathlib.Path(importlib.util.find_spec("trl").submodule_search_locations[0], "experimental/gkd/gkd_trainer.py")
functions = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef))
function = next(node for node in functions if node.name == "generalized_jsd_loss")
function.decorator_list = []
names = {"torch": torch, "F": F}
exec(compile(ast.Module([function], []), str(file), "exec"), names)

g = torch.Generator().manual_seed(20230613)
rows, vocabulary = 5, 29
student = (torch.randn(rows, vocabulary, generator=g) * 3).float().double()
teacher = (torch.randn(rows, vocabulary, generator=g) * 3).float().double()
labels = torch.tensor([3, -100, 0, 7, 28])
count = int((labels != -100).sum())

cases = []
for beta in (0.0, 0.1, 0.5, 0.9, 1.0):
    for temperature in (1.0, 2.0):
        s = student.clone().requires_grad_()
        value = names["generalized_jsd_loss"](
            s[None], teacher[None], labels[None], beta=beta, temperature=temperature, num_items_in_batch=count
        )
        value.backward()
        cases.append({"beta": beta, "temperature": temperature, "value": value.item(),
                      "gradient": s.grad.flatten().tolist()})

out = pathlib.Path(__file__).with_name("trl_jsd.json")
out.write_text(json.dumps({
    "vocabulary": vocabulary,
    "student": student.flatten().tolist(),
    "teacher": teacher.flatten().tolist(),
    "labels": labels.tolist(),
    "cases": cases,
}) + "\n")
print(out, out.stat().st_size)
