"""Answers questions about Hugging Face's tokenizers, for the trial of the same name."""

import json
import sys
import time

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Oracle:
    def version(self):
        global tokenizers
        import tokenizers

        return tokenizers.__version__

    def texts(self, path):
        """Keeps the texts of a .jsonl file."""
        with open(path, encoding="utf-8") as f:
            self.kept = [json.loads(line)["text"] for line in f]
        return len(self.kept)

    def train(self, kind, size, specials, added, out):
        """Trains on the texts and returns the seconds that took. The added tokens come after."""
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

        t = Tokenizer(models.BPE())
        if kind == "gpt2":
            t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        else:
            t.pre_tokenizer = pre_tokenizers.Sequence([
                pre_tokenizers.Split(Regex(CL100K), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ])
        t.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size, min_frequency=2, special_tokens=specials, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        began = time.perf_counter()
        t.train_from_iterator(self.kept, trainer)
        seconds = time.perf_counter() - began
        t.add_tokens([AddedToken(c, normalized=n, special=False) for c, n in added])
        t.save(out)
        return seconds

    def load(self, path):
        self.t = tokenizers.Tokenizer.from_file(path)
        return self.t.get_vocab_size()

    def encode(self, texts):
        """The ids of texts, those with special tokens where they differ, and what they decode to where
        that is not the text."""
        out = {"ids": [], "special": {}, "decoded": {}}
        found = {}
        for special in (False, True):
            self.t.encode_special_tokens = not special
            found[special] = [e.ids for e in self.t.encode_batch(texts, add_special_tokens=False)]
        for i, text in enumerate(texts):
            plain, special = found[False][i], found[True][i]
            out["ids"].append(plain)
            if special != plain:
                out["special"][i] = special
            for ids in (plain, special):
                decoded = self.t.decode(ids, skip_special_tokens=False)
                if decoded != text:
                    out["decoded"][i] = decoded
        return out

    def time(self, texts=None):
        """The seconds that encoding the texts takes, by the library's fastest call, and their ids' number."""
        texts = self.kept if texts is None else texts
        self.t.encode_special_tokens = True
        began = time.perf_counter()
        out = self.t.encode_batch_fast(texts, add_special_tokens=False)
        seconds = time.perf_counter() - began
        return [seconds, sum(len(e.ids) for e in out)]


oracle = Oracle()
for line in sys.stdin.buffer:
    question = json.loads(line)
    try:
        answer = {"value": getattr(oracle, question.pop("do", "version"))(**question)}
    except BaseException as e:
        answer = {"error": f"{type(e).__name__}: {e}"}
    print(json.dumps(answer), flush=True)
