"""Makes small random checkpoints with Hugging Face transformers and records what it computes with them.

    pip install torch==2.9.1 transformers==5.0.0
    python generate.py                  the checkpoints beside this file
    python generate.py sweep FOLDER     many more, a folder each
    python generate.py record FOLDER…   transformers' numbers for checkpoints that are there already

A checkpoint is a Hugging Face folder; recording.safetensors in it holds the numbers, in the form that package
model/eval documents. They are computed from the folder as it lies there, so that what is recorded is also what
transformers makes of its config.json and of the names of its tensors. Deterministic.
"""

import itertools
import json
import pathlib
import shutil
import sys

PINNED = "torch==2.9.1 transformers==5.0.0"
try:
    import torch
    import transformers
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, FlexOlmoConfig, FlexOlmoForCausalLM, Olmo2Config, Olmo2ForCausalLM
except ImportError as e:
    sys.exit(f"generate.py: {e}; install {PINNED}")
found = f"torch=={torch.__version__.split('+')[0]} transformers=={transformers.__version__}"
if found != PINNED:
    sys.exit(f"generate.py: {found} is installed; install {PINNED}")

HERE = pathlib.Path(__file__).parent
PROMPT, NEW, DISTINCT = 8, 64, 12

# A choice, of a token or of an expert, is too close to hold anybody to where its runner-up is nearer than this,
# relative to the largest logit of the row: ten times by how much two orders of a float32 sum may differ.
NEAR = 2e-4

SMALL = dict(hidden=32, intermediate=20, layers=2, vocab=64, batch=2, length=16)
HEADS = {  # attention heads, key-value heads, head_dim
    "plain": (4, 4, None),
    "grouped": (4, 2, None),
    "multi": (4, 1, None),
    "wide": (4, 2, 12),
}
CASE = dict(SMALL, heads="grouped", experts=3, k=2, norm=False, tied=False, rope="new", alias=False, eos=False,
            dtype="float32", fused=False, sharded=False, own=False)  # experts=0 is a dense Olmo2ForCausalLM

FIXTURES = {
    "plain": dict(heads="plain"),
    "normalised": dict(experts=5, norm=True, rope="old", alias=True, eos=True, sharded=True, dtype="bfloat16"),
    "fused": dict(heads="multi", experts=2, tied=True, fused=True),
    "wide": dict(heads="wide", experts=7, k=4, fused=True, sharded=True, dtype="bfloat16"),
    "one": dict(heads="multi", experts=1, k=1, rope="old", dtype="bfloat16"),
    "dense": dict(experts=0, eos=True, sharded=True),
    "dense-tied": dict(heads="plain", experts=0, tied=True, rope="old", dtype="bfloat16"),
}


def sweep():
    """Each kind of heads with each number of experts, and of the eight things that are one way or the other
    every pair of ways; then dense models and larger ones. A way is the parity of some bits of the case's number."""
    counts = [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (5, 2), (5, 5), (7, 4), (7, 7)]
    ways = [("norm", True), ("tied", True), ("rope", "old"), ("alias", True), ("eos", True),
            ("dtype", "bfloat16"), ("fused", True), ("sharded", True)]
    masks = [0b0001_01, 0b0001_10, 0b0001_11, 0b0010_01, 0b0010_10, 0b0010_11, 0b0100_01, 0b0100_10]
    flex = []
    for (c, (experts, k)), (h, heads) in itertools.product(enumerate(counts), enumerate(HEADS)):
        case = dict(heads=heads, experts=experts, k=k)
        case |= {name: way for (name, way), mask in zip(ways, masks) if ((c << 2 | h) & mask).bit_count() % 2}
        flex.append(case)
    values = [{name: case.get(name, CASE[name]) for name in CASE} for case in flex]
    for a, b in itertools.combinations(["heads", *dict(ways)], 2):
        pairs = {(v[a], v[b]) for v in values}
        assert len(pairs) == len({p[0] for p in pairs}) * len({p[1] for p in pairs}), (a, b)
    dense = [dict(heads=heads, experts=0) | way for heads, way in zip(HEADS, [
        dict(sharded=True, eos=True), dict(tied=True), dict(rope="old", dtype="bfloat16"), dict(tied=True, dtype="bfloat16")])]
    large = dict(hidden=256, intermediate=512, layers=4, vocab=4096, length=64)
    middle = dict(hidden=120, intermediate=77, layers=3, vocab=501, length=33, batch=3)
    larger = [
        large | dict(experts=4, norm=True, rope="old"),
        large | dict(experts=7, k=5, dtype="bfloat16", sharded=True),
        large | dict(heads="multi", experts=2, dtype="bfloat16", fused=True),
        large | dict(heads="plain", experts=8, tied=True, fused=True, sharded=True),
        large | dict(experts=0, dtype="bfloat16"),
        middle | dict(heads="wide", experts=3, dtype="bfloat16"),
        middle | dict(heads="plain", experts=6, k=3, norm=True, tied=True),
        middle | dict(experts=5, k=1, fused=True, alias=True),
    ]
    odd = [
        dict(own=True),
        dict(batch=1, length=1500),
        dict(batch=1, length=1500, dtype="bfloat16", experts=2),
    ]
    return {f"{i:02d}-{title(case)}": case for i, case in enumerate(flex + dense + larger + odd, 1)}


def title(case):
    c = CASE | case
    words = [c["heads"], f"{c['k']}of{c['experts']}" if c["experts"] else "dense"]
    words += ["large"] if c["hidden"] == 256 else ["middle"] if c["hidden"] == 120 else []
    words += ["long"] if c["length"] > 1000 else []
    words += [w for w in ["norm", "tied", "own", "alias", "eos", "fused", "sharded"] if c[w]]
    words += ["rope"] if c["rope"] == "old" else []
    return "-".join(words + ["bf16" if c["dtype"] == "bfloat16" else "f32"])


def build(c, seed, folder):
    """Saves a model with random weights large enough that tokens, positions, norms and router all matter."""
    heads, kv, head_dim = HEADS[c["heads"]]
    common = dict(
        vocab_size=c["vocab"], hidden_size=c["hidden"], intermediate_size=c["intermediate"],
        num_hidden_layers=c["layers"], num_attention_heads=heads, num_key_value_heads=kv, rms_norm_eps=1e-3,
        max_position_embeddings=2048, pad_token_id=0, eos_token_id=[c["vocab"] - 1, 7] if c["eos"] else c["vocab"] - 1,
        tie_word_embeddings=c["tied"], rope_parameters={"rope_theta": 10000.0, "rope_type": "default"},
    )
    if head_dim:
        common["head_dim"] = head_dim
    if c["experts"]:
        model = FlexOlmoForCausalLM(FlexOlmoConfig(
            num_experts=c["experts"], num_experts_per_tok=c["k"], norm_topk_prob=c["norm"], **common))
    else:
        model = Olmo2ForCausalLM(Olmo2Config(**common))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=g)
            if p.dim() == 1:
                p.copy_(1 + 0.3 * noise)
            elif "embed" in name:
                p.copy_(noise * (1.5 / p.shape[-1] ** 0.5 if c["tied"] else 0.7))
            elif name.endswith("mlp.gate.weight"):
                p.copy_(noise * 2 / p.shape[-1] ** 0.5)
            else:
                p.copy_(noise * 1.5 / p.shape[-1] ** 0.5)
    model.to(getattr(torch, c["dtype"]))
    shards = {"max_shard_size": sum(p.nbytes for p in model.parameters()) // 3} if c["sharded"] else {}
    model.save_pretrained(folder, save_original_format=not c["fused"], **shards)
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    if c["rope"] == "old":  # as transformers 4 writes it
        config |= {"rope_theta": config.pop("rope_parameters")["rope_theta"], "rope_scaling": None}
    if c["alias"]:
        config["num_local_experts"] = config.pop("num_experts")
    if c["own"]:  # transformers 5 keeps a head that is there, although the configuration ties it; 4 does not
        config["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load(folder, dtype):
    """Without transformers' choice of faster experts, which wants widths that are multiples of 16 bytes."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
    if any(info.values()):
        sys.exit(f"generate.py: {folder}: transformers reports {info}")
    return model.eval()


class Watch:
    """What passes through a model: with hooks, because output_hidden_states has the last one normalised."""

    def __init__(self, model):
        self.hidden, self.router, self.chosen, self.margin = [], [], [], float("inf")
        layers = model.model.layers
        for layer in layers:
            layer.register_forward_pre_hook(lambda _, args: self.hidden.append(args[0]))
            if hasattr(layer.mlp, "gate"):
                layer.mlp.gate.register_forward_hook(self.route)
        layers[-1].register_forward_hook(lambda _, args, out: self.hidden.append(out))

    def route(self, gate, args, out):
        p, _, chosen = out
        self.router.append(p)
        self.chosen.append(chosen)
        self.choice(torch.nn.functional.linear(args[0], gate.weight), gate.top_k)

    def choice(self, logits, k):
        """Keeps the smallest margin of the k largest over the next, relative to the row's largest magnitude."""
        logits = logits.float()
        if k < logits.shape[-1]:
            top = logits.topk(k + 1).values
            self.margin = min(self.margin, ((top[:, -2] - top[:, -1]) / logits.abs().amax(-1)).min().item())


def observe(folder, ids, dtype):
    """What transformers computes in dtype for ids, (batch, length), under the recording's names."""
    model = load(folder, dtype)
    w = Watch(model)
    out = {"logits": model(ids).logits, "hidden": torch.stack(w.hidden)}
    if w.router:
        shape = (len(w.router), *ids.shape, -1)
        out |= {"router": torch.stack(w.router).view(shape), "chosen": torch.stack(w.chosen).view(shape).float()}
    if dtype != torch.float32:
        return out, None
    prompts, greedy = ids[:, :PROMPT], []
    step = model(prompts, use_cache=True)
    while True:
        w.choice(step.logits[:, -1], 1)
        greedy.append(step.logits[:, -1].argmax(-1, keepdim=True))
        if len(greedy) == NEW:
            break
        step = model(greedy[-1], past_key_values=step.past_key_values, use_cache=True)
    out |= {"prompts": prompts.float(), "greedy": torch.cat(greedy, 1).float()}
    return out, w.margin


@torch.no_grad()
def record(folder, batch, length, seed=0):
    """Writes the recording of folder, and returns whether its choices are clear and its continuations varied."""
    config = json.loads((folder / "config.json").read_text())
    ids = torch.randint(config["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(length + seed))
    tensors, margin = observe(folder, ids, torch.float32)
    tensors["ids"] = ids.float()
    if config["dtype"] == "bfloat16":
        rounded, _ = observe(folder, ids, torch.bfloat16)
        tensors |= {f"bfloat16.{name}": t for name, t in rounded.items()}
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "recording.safetensors")
    return margin > NEAR, all(len(set(row.tolist())) >= DISTINCT for row in tensors["greedy"])


def make(case, folder):
    """Makes a case with the first seed of weights that leaves its choices clear and its continuations varied."""
    c = CASE | case
    for seed in itertools.count():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        build(c, seed, folder)
        if all(record(folder, c["batch"], c["length"])):
            print(f"{folder.name}: weights of seed {seed}", flush=True)
            return


def record_clear(folder):
    """Records a checkpoint with the first seed of tokens that leaves its choices clear."""
    seed = next(seed for seed in itertools.count() if record(folder, 2, 32, seed)[0])
    print(f"{folder.name}: tokens of seed {seed}", flush=True)


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    match sys.argv[1:]:
        case []:
            for name, case in FIXTURES.items():
                make(case, HERE / name)
        case ["sweep", folder]:
            for name, case in sweep().items():
                make(case, pathlib.Path(folder) / name)
        case ["record", *folders] if folders:
            for folder in folders:
                record_clear(pathlib.Path(folder))
        case _:
            sys.exit(__doc__)


main()
