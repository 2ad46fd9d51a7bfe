"""Writes the fixtures beside it: two tokenizers that Hugging Face's library
trained, and what that library makes of texts. Deterministic.

    pip install tokenizers==0.23.3
    python generate.py
"""

import json
import random

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

assert tokenizers.__version__ == "0.23.3"

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

TRAIN = [
    "The river rose in the night, and by the morning the lower meadow was a lake.",
    "She'd said that they're late; he'll say it wasn't so, and I've no reason to doubt it.",
    "Nobody who lives by the river trusts the river. The meadow knows it, the morning shows it.",
    "In 1987 there were 12345 of them, in 2024 there are 67, and by 2050 there'll be none.",
    "func main() {\n\tfor i := 0; i < 10; i++ {\n\t\tfmt.Println(i, \"of\", 10)\n\t}\n}\n",
    "if (x == 0) { return x; } else { return x - 1; }  // the rest follows\r\n\r\n",
    "L'été dernier, la rivière était basse; l'été prochain, la rivière sera haute.",
    "Der Fluss war über Nacht gestiegen, und am Morgen war die untere Wiese ein See.",
    "Река поднялась за ночь, и к утру нижний луг стал озером. Река, река, луг.",
    "河水在夜里上涨,到了早晨,低处的草地变成了湖。河水,草地,湖。",
    "夜のうちに川の水が増え、朝には下の草原が湖になっていた。川の水、草原、湖。",
    "ارتفع النهر في الليل، وفي الصباح صار المرج السفلي بحيرة. النهر، المرج.",
    "रात में नदी चढ़ गई, और सुबह तक निचला मैदान झील बन गया। नदी, मैदान, झील।",
    "🙂🙂🙂 🌊🌊 👩‍👩‍👧 🇳🇱🇩🇪 ½ ² Ⅳ ٣٤٥ naïve café Ångström ﬁn 'ſ",
    "    four spaces, then\n        eight spaces, then\n\n\n three lines of nothing   \n",
    "the the the the the then then there there this this that that with with within within",
]

SPECIALS = ["<|endoftext|>", "<|pad|>"]


def train(pre):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        min_frequency=2,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    t.train_from_iterator(TRAIN, trainer)
    return t


def texts():
    r = random.Random(20)
    yield from ["", " ", "  ", "\n", "\r\n", "\n \n", " \n x", "'", "''", "'s", "'S", "'ſ", "'Ll", "'rE", "'r", "x'lls", "!'s"]
    yield from TRAIN
    kinds = [
        [chr(c) for c in range(32, 127)],
        list(" \t\n\r\v\f\x1c\x85\u00a0\u1680\u180e\u2003\u2028\u200b\u202f\u3000\ufeff"),
        list("'sStTrReEvVmMlLdDſK’"),
        [chr(c) for c in range(0xA1, 0x250)],
        [chr(c) for c in range(0x300, 0x370)],
        [chr(c) for c in range(0x600, 0x700)],
        [chr(c) for c in range(0x900, 0x980)],
        [chr(c) for c in range(0x4E00, 0x4E40)],
        list("🙂🌊👩\u200d👧🏽\u20e3\ufe0f🇳🇱"),
        list("0123456789½²Ⅳ٣৩"),
        [w + " " for s in TRAIN for w in s.split(" ")],
        SPECIALS + ["[LINK]", "[LINK", "[NAME]", "<|endoftext", "<|<|pad|>|>", "[[NAME]]"],
    ]
    for _ in range(520):
        mix = r.sample(kinds, r.randint(1, 4))
        out = []
        for _ in range(r.choice([2, 3, 5, 8, 13, 21])):
            out.append(r.choice(r.choice(mix)) * r.choice([1, 1, 1, 1, 2, 5]))
            if r.random() < 0.05:
                c = r.randrange(0x110000)
                out.append(chr(c) if not 0xD800 <= c < 0xE000 else "?")
        yield "".join(out)


def runs(pattern):
    """The characters that match, as skip+take: so many do not, the next ones do."""
    match = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    found = []
    everything = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for i in range(0, len(everything), 4096):
        part = "".join(map(chr, everything[i : i + 4096]))
        found += [ord(c) for piece, _ in match.pre_tokenize_str(part) for c in piece]
    out, at, i = [], 0, 0
    while i < len(found):
        j = i
        while j + 1 < len(found) and found[j + 1] == found[j] + 1:
            j += 1
        out.append(f"{found[i] - at}+{j - i + 1}")
        at = found[j] + 1
        i = j + 1
    return " ".join(out)


gpt2 = train(pre_tokenizers.ByteLevel(add_prefix_space=False))
cl100k = train(
    pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CL100K), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
)
for t in (gpt2, cl100k):
    t.add_tokens([AddedToken("[LINK]", normalized=True), AddedToken("[NAME]", normalized=False)])
    t.add_special_tokens([AddedToken("[LINK][NAME]", normalized=False)])
gpt2.save("gpt2.json", pretty=False)
cl100k.save("cl100k.json", pretty=False)


def encode(t, text, special):
    t.encode_special_tokens = not special
    return t.encode(text, add_special_tokens=False).ids


cases = [
    {
        "text": text,
        "gpt2": encode(gpt2, text, False),
        "gpt2_special": encode(gpt2, text, True),
        "cl100k": encode(cl100k, text, False),
        "cl100k_special": encode(cl100k, text, True),
    }
    for text in texts()
]
for case in cases:  # most texts have no special token
    for name in ("gpt2", "cl100k"):
        if case[name] == case[name + "_special"]:
            del case[name + "_special"]

with open("oracle.json", "w") as f:
    json.dump(
        {
            "train": TRAIN,
            "specials": SPECIALS,
            "letters": runs(r"\p{L}"),
            "numbers": runs(r"\p{N}"),
            "spaces": runs(r"\s"),
            "cases": cases,
        },
        f,
        ensure_ascii=False,
        separators=(",", ":"),
    )
