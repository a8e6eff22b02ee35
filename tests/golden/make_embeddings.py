"""Mean-pooled last hidden states of sequences of different lengths, each run alone by transformers.

    python tests/golden/make_embeddings.py          (after make_checkpoints.py)

embeddings.safetensors holds:
    lengths  i64 [sequences]
    ids      i64 [sum of lengths], the sequences joined
    <name>   f32 [sequences, hidden], for each checkpoint
"""
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModel

ROOT = Path(__file__).parent
LENGTHS = [5, 24, 1, 11, 24, 17, 2, 40]

generator = torch.Generator().manual_seed(7)
sequences = [torch.randint(0, 80, (length,), generator=generator) for length in LENGTHS]
arrays = {"lengths": torch.tensor(LENGTHS), "ids": torch.cat(sequences)}
for name in ["llama_gqa", "qwen2_window"]:
    model = AutoModel.from_pretrained(
        ROOT / "checkpoints" / name, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        states = [model(ids[None]).last_hidden_state[0] for ids in sequences]
    arrays[name] = torch.stack([state.double().mean(0).float() for state in states])
save_file(arrays, ROOT / "embeddings.safetensors")
