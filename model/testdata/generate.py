"""Writes the golden forward passes beside it with Hugging Face transformers' own
FlexOlmoForCausalLM. Deterministic.

    pip install torch==2.9.1 transformers==5.0.0
    python generate.py
"""

import json
import pathlib
import shutil
import tempfile

import torch
import transformers
from safetensors.torch import save_file
from transformers import FlexOlmoConfig, FlexOlmoForCausalLM
from transformers.utils import logging

assert transformers.__version__ == "5.0.0"
assert torch.__version__.split("+")[0] == "2.9.1"

HERE = pathlib.Path(__file__).parent
PROMPT, NEW, MARGIN = 20, 40, 2e-3  # MARGIN: in logits, between what is chosen and what is not


def build(seed):
    """Random weights large enough that tokens, positions and router rows matter."""
    config = FlexOlmoConfig(
        vocab_size=64, hidden_size=32, intermediate_size=20, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        num_experts=3, num_experts_per_tok=2, pad_token_id=0, eos_token_id=63,
        rope_parameters={"rope_theta": 10000.0, "rope_type": "default"},
    )
    config._attn_implementation = "eager"
    model = FlexOlmoForCausalLM(config).eval()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=g)
            if p.dim() == 1:
                p.copy_(1 + 0.3 * noise)
            elif "embed" in name or "gate.weight" in name:
                p.copy_(noise * 0.7)
            else:
                p.copy_(noise * 1.5 / p.shape[-1] ** 0.5)
    return model


@torch.no_grad()
def run(model, k):
    """Logits and router choices of a prompt, and its greedy continuation; None if a choice is close."""
    choices, close = [], []

    def watch(module, args, out):
        p, _, chosen = out
        top = p.topk(p.shape[-1]).values.log()
        close.append((top[:, :-1] - top[:, 1:]).min().item() < MARGIN)  # order and membership
        choices.append(chosen.tolist())

    for layer in model.model.layers:
        layer.mlp.gate.top_k = k
    hooks = [layer.mlp.gate.register_forward_hook(watch) for layer in model.model.layers]
    ids = [(7 * i * i + 3 * i + 11) % 63 for i in range(PROMPT)]
    logits = model(torch.tensor([ids])).logits[0]
    for h in hooks:
        h.remove()
    text = list(ids)
    for _ in range(NEW):
        last = model(torch.tensor([text])).logits[0, -1]
        top = last.topk(2).values
        close.append((top[0] - top[1]).item() < MARGIN)
        text.append(int(last.argmax()))
    if any(close):
        return None
    return {"top_k": k, "prompt": ids, "chosen": choices, "greedy": text[PROMPT:]}, logits


def cases(seed, folder):
    model = build(seed)
    model.save_pretrained(folder / "f32")
    model.to(torch.bfloat16).save_pretrained(folder / "bf16")
    for weights in ["f32", "bf16"]:
        model = FlexOlmoForCausalLM.from_pretrained(
            folder / weights, dtype=torch.float32, attn_implementation="eager").eval()
        for k in [2, 3]:
            out = run(model, k)
            if out is None or len(set(out[0]["greedy"])) < 12:
                return
            yield {"weights": weights + ".safetensors", **out[0]}, out[1]


torch.set_num_threads(1)
logging.disable_progress_bar()
for seed in range(1000):
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        found = list(cases(seed, tmp))
        if len(found) < 4:
            continue
        for weights in ["f32", "bf16"]:
            shutil.copy(tmp / weights / "model.safetensors", HERE / f"{weights}.safetensors")
        shutil.copy(tmp / "f32" / "config.json", HERE / "config.json")
    save_file({f"{i}": logits.contiguous() for i, (_, logits) in enumerate(found)}, HERE / "logits.safetensors")
    lines = ",\n".join(json.dumps(c) for c, _ in found)
    (HERE / "golden.json").write_text(f"[\n{lines}\n]\n")
    break
