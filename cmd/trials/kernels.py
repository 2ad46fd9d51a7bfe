"""Answers with what products and steps of training take in PyTorch, for the trial of the kernels."""

import json
import math
import sys
import time


def fastest(seconds, f):
    """The seconds of the fastest call of f among those of a while, three at first apart."""
    for _ in range(3):
        f()
    least, began = math.inf, time.perf_counter()
    while time.perf_counter() - began < seconds:
        t = time.perf_counter()
        f()
        least = min(least, time.perf_counter() - t)
    return least


class Peer:
    def __init__(self):
        self.weights, self.steps = {}, {}

    def version(self):
        global torch
        import torch

        if not torch.backends.mkldnn.is_available():
            raise RuntimeError("this PyTorch has no oneDNN")
        config = torch.__config__.show()
        onednn = [line.split("MKL-DNN ")[1].split()[0] for line in config.splitlines() if "MKL-DNN v" in line]
        return f"{torch.__version__}, oneDNN {' '.join(onednn)}"

    def product(self, kind, m, k, n, cores, seconds):
        """A product with weights that oneDNN laid out beforehand."""
        torch.set_num_threads(cores)
        key = kind, m, k, n
        with torch.inference_mode():
            if kind == "int8":
                if key not in self.weights:
                    w = torch.randint(-127, 128, (n, k), dtype=torch.int8)
                    self.weights[key] = torch.ops.onednn.qlinear_prepack(w, [m, k])
                x, w = torch.randint(0, 256, (m, k), dtype=torch.uint8), self.weights[key]
                scales, zeros = torch.ones(n), torch.zeros(n, dtype=torch.int32)
                return fastest(seconds, lambda: torch.ops.onednn.qlinear_pointwise(
                    x, 1.0, 0, w, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""))
            dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[kind]
            if key not in self.weights:
                self.weights[key] = torch.ops.mkldnn._reorder_linear_weight(torch.randn(n, k, dtype=dtype), m)
            x, w = torch.randn(m, k, dtype=dtype), self.weights[key]
            return fastest(seconds, lambda: torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], ""))

    def prepare(self, hidden, intermediate, layers, heads, vocabulary, slots, sequences, length, bf16, compiled, cores, name):
        """Makes a step of training: of everything, or with two slots of the second and its router row."""
        torch.set_num_threads(cores)
        torch.manual_seed(0)
        model = mixture(hidden, intermediate, layers, heads, vocabulary, slots, length)
        if slots > 1:
            for key, p in model.named_parameters():
                p.requires_grad_(".slots.1." in key or "router" in key)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        ids = torch.randint(0, vocabulary, (sequences, length + 1))
        forward = torch.compile(model) if compiled else model

        def step():
            optimiser.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = forward(ids[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            return loss.item()

        for _ in range(3 if compiled else 2):
            step()
        self.steps[name] = step, cores
        return sum(p.numel() for p in model.parameters())

    def step(self, name):
        step, cores = self.steps[name]
        torch.set_num_threads(cores)
        began = time.perf_counter()
        step()
        return time.perf_counter() - began


def mixture(hidden, intermediate, layers, heads, vocabulary, slots, length):
    """A FlexOlmo whose tokens take every slot."""
    from torch import nn
    from torch.nn import functional as F

    width = hidden // heads
    angle = torch.outer(torch.arange(length), 10000.0 ** (-torch.arange(0, width, 2) / width))
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)

    def turn(x):
        a, b = x.chunk(2, -1)
        return (x * cos + torch.cat((-b, a), -1) * sin).to(x.dtype)

    class Norm(nn.Module):
        """PyTorch's own norm, which is fast where weight and input are of one type."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(hidden))

        def forward(self, x):
            return F.rms_norm(x, (hidden,), self.weight.to(x.dtype), 1e-6)

    class FFN(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Linear(hidden, intermediate, bias=False)
            self.up = nn.Linear(hidden, intermediate, bias=False)
            self.down = nn.Linear(intermediate, hidden, bias=False)

        def forward(self, x):
            return self.down(F.silu(self.gate(x)) * self.up(x))

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(hidden, hidden, bias=False) for _ in range(4))
            self.q_norm, self.k_norm, self.attention_norm, self.ffn_norm = (Norm() for _ in range(4))
            self.slots = nn.ModuleList(FFN() for _ in range(slots))
            self.router = nn.Linear(hidden, slots) if slots > 1 else None

        def forward(self, x):
            split = lambda t: t.unflatten(-1, (heads, width)).transpose(1, 2)
            q, k, v = split(self.q_norm(self.q(x))), split(self.k_norm(self.k(x))), split(self.v(x))
            a = F.scaled_dot_product_attention(turn(q).to(v.dtype), turn(k).to(v.dtype), v, is_causal=True)
            x = x + self.attention_norm(self.o(a.transpose(1, 2).flatten(-2)))
            y = self.slots[0](x)
            if self.router is not None:
                p = self.router(x).float().softmax(-1).to(y.dtype)
                y = sum(p[..., i:i + 1] * (y if i == 0 else s(x)) for i, s in enumerate(self.slots))
            return x + self.ffn_norm(y)

    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(vocabulary, hidden)
            self.layers = nn.ModuleList(Layer() for _ in range(layers))
            self.norm = Norm()
            self.head = nn.Linear(hidden, vocabulary, bias=False)

        def forward(self, ids):
            x = self.embed(ids)
            for layer in self.layers:
                x = layer(x)
            return self.head(self.norm(x))

    return Mixture()


peer = Peer()
for line in sys.stdin:
    question = json.loads(line)
    try:
        name, *args = question or ["version"]
        answer = {"value": getattr(peer, name)(*args)}
    except Exception as e:
        answer = {"error": f"{type(e).__name__}: {e}"}
    print(json.dumps(answer), flush=True)
