#!/usr/bin/env python3
# Writes the texts and vectors that inference/tests/embedding.rs compares with.
#
# Usage: make-embedding-references.py --model FOLDER --output inference/testdata/embedding
#
# Needs the packages numpy, safetensors, transformers and, unless --no-check, onnxruntime with onnx.
# FOLDER is all-MiniLM-L6-v2 as sentence-transformers publishes it. Texts are tokenized by
# transformers, cut as sentence-transformers cuts them, and go through the model in 64-bit floats,
# which is written out below; onnxruntime runs the same weights in 32 bits as a check on it.
#
# A text is a list of phrases that are put together without anything between, so that the file stays
# small: texts.json has the phrases, each text's list, and how many ids the tokenizer makes of it.
# vectors.f16 has 384 numbers of 16 bits for each text, little endian.

import argparse
import json
import math
import pathlib

import numpy as np
from safetensors.numpy import load_file

WORDS = [
    "the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "as", "was", "with", "be",
    "by", "on", "not", "he", "his", "but", "at", "are", "this", "have", "from", "or", "had", "an",
    "they", "which", "you", "were", "her", "all", "she", "there", "would", "their", "we", "him",
    "been", "has", "when", "who", "will", "no", "more", "if", "out", "so", "up", "said", "what",
    "its", "about", "than", "into", "them", "can", "only", "other", "time", "new", "some", "could",
    "these", "two", "may", "first", "then", "do", "any", "like", "my", "now", "over", "such",
    "our", "man", "me", "even", "most", "made", "after", "also", "did", "many", "off", "before",
    "must", "well", "back", "through", "years", "where", "much", "your", "way", "down", "should",
    "because", "long", "each", "just", "state", "those", "people", "too", "mr", "how", "little",
    "good", "world", "make", "very", "year", "still", "see", "own", "work", "men", "day", "get",
    "here", "memory", "agent", "ledger", "federation", "embedding", "vector", "search", "node",
    "quantum", "river", "mountain", "violin", "recipe", "inflation", "parliament",
    "photosynthesis", "mitochondria", "jurisprudence", "kubernetes", "transformer", "tokenization",
    "antidisestablishmentarianism", "unbelievable", "reconsideration", "hyperparameters",
]  # fmt: skip

SENTENCES = [
    "The user asked about the opening hours of the library last Tuesday.",
    "A cat sat on the warm stone wall and watched the harbour.",
    "Remember that the deployment failed because the certificate had expired.",
    "She prefers tea without sugar, and meetings after ten o'clock.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "The committee postponed its decision until the figures could be audited.",
    "How do I reset my password if I no longer have the old phone?",
    "Prices rose by 3.7% in March, the sharpest increase since 1991.",
    'fn main() { println!("{}", 6 * 7); }',
    "SELECT name, COUNT(*) FROM visits WHERE day >= '2024-01-01' GROUP BY name;",
    "https://example.org/a/b?query=1&other=two#part",
    "He said: \"It's done -- isn't it?\" (Nobody answered.)",
    "E = mc^2, and e^(i*pi) + 1 = 0.",
    "The quick brown fox jumps over the lazy dog.",
    "Our train leaves from platform nine at a quarter past six in the morning.",
    "It was the first of many winters that they would spend on the island.",
    "To whom it may concern: the parcel arrived damaged and incomplete.",
    "Mix flour, butter and salt; add cold water until the dough holds together.",
]

OTHER_SCRIPTS = [
    "Где находится ближайшая библиотека и когда она открывается?",
    "Η θάλασσα ήταν ήρεμη και ο ουρανός γεμάτος άστρα. ΟΔΟΣ",
    "今天天气很好，我们去公园散步吧。",
    "昨日、図書館で新しい本を三冊借りました。カタカナもあります。",
    "오늘은 날씨가 맑아서 산책하기 좋습니다.",
    "أين تقع أقرب محطة قطار من هنا؟",
    "איפה נמצאת תחנת הרכבת הקרובה?",
    "मुझे कल सुबह दस बजे की बैठक याद दिलाना।",
    "พรุ่งนี้ฉันจะไปตลาดกับแม่",
    "தமிழ் ஒரு செம்மொழி ஆகும்.",
    "საქართველო მდებარეობს კავკასიაში.",
    "ሰላም ለዓለም ሁሉ",
    "Ngày mai trời sẽ mưa to ở Hà Nội.",
    "İstanbul'da ılık bir akşamdı. IĞDIR",
    "Größe, Straße, ẞ, Übermut, naïve, façade, coöperate, Ångström",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň.",
    "e\u0301 a\u0300 n\u0303 o\u0308 \u1e9b\u0323 \u212b \u2126",
]

ODD = [
    "😀 🎉 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇫🇷",
    "\u0000\u0001\u0002\u001b[31m\u007f\u0085\u009f",
    "\ufffd \ufeff\u200b\u200c\u200d\u2060\u00ad",
    "\t\n\r\u000b\u000c \u00a0\u2003\u3000\u2028\u2029",
    "ＦＵＬＬ　ｗｉｄｔｈ ﬁ ﬂ ½ ² ™ ℌ",
    "[CLS] [SEP] [MASK] [UNK] [PAD] [sep] [unused7] ##ing",
    "\U00020000\U0002a6d6\uf900\u4e00\u9fff\U0002f800",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋ ∑∏√∞≠≤",
    "\ue000\uf8ff\U000f0000\U0010fffd",
    "....!!!???---___***///\\\\\\|||~~~```'''\"\"\"",
    "don't won't it's O'Neill's '90s rock'n'roll",
    "a" * 99,
    "b" * 101,
    "é" * 60,
    "1234567890" * 9,
    "0x7fff 1e-12 -3.14 1,000,000 €99.99 £5 ¥100 50%",
    "camelCaseWord snake_case_word kebab-case-word SCREAMING",
    "Z\u0351\u036b\u0343\u036a\u0302a\u0363\u036b\u033f\u0304l\u0305\u0332g\u0353o",
]


# The error function, which numpy lacks: straight lines between many of its points, which are within
# 10^-9 of it.
ERF_STEPS = 20_000
ERF = np.array([math.erf(step / ERF_STEPS) for step in range(6 * ERF_STEPS + 2)])


def erf(values):
    at = np.minimum(np.abs(values), 6) * ERF_STEPS
    step = at.astype(np.int32)
    low = ERF[step]
    return np.copysign(low + (at - step) * (ERF[step + 1] - low), values)


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--no-check", action="store_true")
    return parser.parse_args()


def make_texts(count, rng):
    """Phrases, and lists of phrases that texts are made of."""
    phrases = [" ", ". ", "\n", *WORDS, *SENTENCES, *OTHER_SCRIPTS, *ODD]
    at = {phrase: index for index, phrase in enumerate(phrases)}
    space = at[" "]

    def words(length):
        return [index for _ in range(length) for index in (at[str(rng.choice(WORDS))], space)]

    def mixed(pool, length):
        return [index for _ in range(length) for index in (at[str(rng.choice(pool))], space)]

    texts = [[], [space], [at["\n"], space]]
    texts += [[at[phrase]] for phrase in [*SENTENCES, *OTHER_SCRIPTS, *ODD]]
    everything = [*SENTENCES, *OTHER_SCRIPTS, *ODD]
    while len(texts) < count:
        kind = len(texts) % 8
        if kind < 2:
            texts.append(words(int(rng.integers(1, 12))))
        elif kind < 4:
            texts.append(words(int(rng.integers(12, 250))))
        elif kind == 4:
            texts.append(mixed(SENTENCES, int(rng.integers(2, 16))))
        elif kind == 5:
            texts.append(mixed(OTHER_SCRIPTS, int(rng.integers(1, 9))))
        elif kind == 6:
            texts.append(mixed(everything, int(rng.integers(2, 12))))
        else:
            texts.append(mixed(everything, int(rng.integers(15, 60))))
    return phrases, texts


class Encoder:
    """BERT, as the paper has it, in 64 bits; mean of the rows, length 1."""

    def __init__(self, folder):
        weights = load_file(folder / "model.safetensors")
        self.weights = {
            name: value.astype(np.float64)
            for name, value in weights.items()
            if value.dtype == np.float32
        }
        config = json.loads((folder / "config.json").read_text())
        self.layers = config["num_hidden_layers"]
        self.heads = config["num_attention_heads"]
        self.epsilon = config["layer_norm_eps"]

    def linear(self, rows, name):
        return rows @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def normalise(self, rows, name):
        centred = rows - rows.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        normed = centred / np.sqrt(variance + self.epsilon)
        return normed * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def split(self, rows):
        return rows.reshape(len(rows), self.heads, -1).swapaxes(0, 1)

    def layer(self, rows, name):
        attention = f"{name}.attention"
        query, key, value = (
            self.split(self.linear(rows, f"{attention}.self.{part}"))
            for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        seen = (scores / scores.sum(-1, keepdims=True) @ value).swapaxes(0, 1)
        seen = self.linear(seen.reshape(len(rows), -1), f"{attention}.output.dense")
        rows = self.normalise(rows + seen, f"{attention}.output.LayerNorm")
        inner = self.linear(rows, f"{name}.intermediate.dense")
        inner *= 0.5 * (1 + erf(inner / math.sqrt(2)))
        outer = self.linear(inner, f"{name}.output.dense")
        return self.normalise(rows + outer, f"{name}.output.LayerNorm")

    def embed(self, ids):
        tables = [
            self.weights[f"embeddings.{name}_embeddings.weight"]
            for name in ("word", "position", "token_type")
        ]
        rows = tables[0][ids] + tables[1][: len(ids)] + tables[2][0]
        rows = self.normalise(rows, "embeddings.LayerNorm")
        for index in range(self.layers):
            rows = self.layer(rows, f"encoder.layer.{index}")
        vector = rows.mean(0)
        return vector / max(np.linalg.norm(vector), 1e-12)


def check(folder, ids, vectors):
    """Compares with onnxruntime; the graph is the benchmark's."""
    import sys

    sys.path.insert(0, str(pathlib.Path(__file__).parent / "bench"))
    from embedding_onnx import OnnxEncoder

    encoder = OnnxEncoder.of_folder(folder, threads=2)
    worst = min(
        float(encoder.embed([one])[0] @ vector)
        for one, vector in zip(ids[::7], vectors[::7], strict=True)
    )
    print(f"onnxruntime agrees to a cosine of {worst:.7f}")
    assert worst > 0.99999


def main():
    arguments = parse_arguments()
    from transformers import AutoTokenizer

    rng = np.random.default_rng(arguments.seed)
    phrases, texts = make_texts(arguments.count, rng)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    config = json.loads((arguments.model / "sentence_bert_config.json").read_text())
    encoder = Encoder(arguments.model)
    all_ids = []
    for text in texts:
        joined = "".join(phrases[index] for index in text)
        # sentence-transformers strips a text's ends before anything else.
        encoded = tokenizer(joined.strip(), truncation=True, max_length=config["max_seq_length"])
        all_ids.append(encoded["input_ids"])
    vectors = np.array([encoder.embed(ids) for ids in all_ids])
    if not arguments.no_check:
        check(arguments.model, all_ids, vectors)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "vectors.f16").write_bytes(vectors.astype("<f2").tobytes())
    lines = ",\n".join(json.dumps(text) for text in texts)
    words = ",\n".join(json.dumps(phrase) for phrase in phrases)
    lengths = json.dumps([len(ids) for ids in all_ids])
    (arguments.output / "texts.json").write_text(
        f'{{"phrases": [\n{words}\n],\n"lengths": {lengths},\n"texts": [\n{lines}\n]}}\n'
    )
    print(f"{len(texts)} texts, {sum(map(len, all_ids))} ids")


if __name__ == "__main__":
    main()
