#!/usr/bin/env python3
# Records what llama.cpp computes, for inference/tests/references.rs to compare with.
#
# Usage: make-references.py --model SmolLM2-135M-Instruct.Q4_1.gguf [--only KIND]
#        make-references.py --model gemma3-270m-q4_k_m.gguf --prefix gemma3- --only KIND
# Options: --tiny inference/testdata/tiny, --output inference/testdata/references
# A KIND is greedy, perplexity or logits (of the tiny models).
#
# Needs the packages gguf, llama-cpp-python and numpy, and 1.1 GB of temporary space for gemma.
# The shapes are in inference/testdata/README.md.

import argparse
import json
import pathlib
import random
import tempfile

import gguf
import llama_cpp
import numpy as np

TESTDATA = pathlib.Path("inference/testdata")

GENERATED = 64
WINDOW = 512
# Longer than the sliding window of gemma.
GEMMA_WINDOW = 768
TEXT_TOKENS = 5000
TINY_IDS = 24

PROMPTS = [
    "The capital of France is",
    "Water boils at a temperature of",
    "Once upon a time, in a village by the sea,",
    "The three primary colours are",
    "A list of fruits:\n- apple\n- banana\n-",
    "1, 2, 3, 4, 5,",
    "Monday, Tuesday, Wednesday,",
    "def fibonacci(n):\n",
    "fn main() {\n    println!(",
    "#include <stdio.h>\n\nint main(void) {\n",
    "SELECT name, age FROM people WHERE",
    "import numpy as np\n\nx = np.array(",
    "<html>\n<head>\n<title>",
    '{"name": "Alice", "age": 30, "children": [',
    "La capitale de l'Italie est",
    "Der schnellste Weg nach Hause",
    "El perro corre por",
    "O sol nasce no",
    "Il gatto dorme sul",
    "The theory of relativity says that",
    "In the year 1969, humans first",
    "To bake bread you need flour, water,",
    "Dear Sir or Madam,\n\nI am writing to",
    "Question: What is photosynthesis?\nAnswer:",
]
CHATS = [
    "What is the tallest mountain on Earth?",
    "Write a haiku about autumn.",
    "Explain what a hash table is in two sentences.",
    "List three uses of copper.",
    "Translate 'good morning' to Spanish.",
    "What is 12 times 7?",
]
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
GEMMA_CHAT = "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"

SUBJECTS = "the miller|a tired sailor|our neighbour|the youngest engineer|an old fox|the committee|"
SUBJECTS += "every gardener in the valley|the night train|my grandmother|a committee of crows"
VERBS = "repaired|sold|forgot|described|carried|measured|painted|counted|hid|invented|borrowed"
OBJECTS = (
    "a broken clock|seven bags of flour|the map of the harbour|an honest answer|the last lamp|"
)
OBJECTS += "a letter without a stamp|two wooden wheels|the recipe for plum soup|a box of nails"
PLACES = "behind the mill|at the edge of the forest|in the quiet library|under the stone bridge|"
PLACES += "near the frozen lake|on the way to the market|in the kitchen|beside the railway station"
REASONS = (
    "because winter was near|although nobody had asked|before the rain began|while the bells rang|"
)
REASONS += "so that the children could sleep|after a long argument|since the shop was closed"
CODE = [
    "for item in range({a}, {b}):\n    total = total + item * {c}\nprint(total)\n",
    "let mut count = {a};\nwhile count < {b} {{\n    count += {c};\n}}\n",
    "if (value > {a} && value < {b}) {{\n    return value * {c};\n}}\n",
]


def text(seed: int) -> str:
    """Prose, lists and code of about the wanted length, the same for the same seed."""
    rng = random.Random(seed)

    def pick(words: str) -> str:
        return rng.choice(words.split("|"))

    parts = []
    for _ in range(110):
        kind = rng.random()
        if kind < 0.7:
            sentences = []
            for _ in range(rng.randint(2, 5)):
                sentence = f"{pick(SUBJECTS)} {pick(VERBS)} {pick(OBJECTS)} {pick(PLACES)}"
                if rng.random() < 0.6:
                    sentence += f" {pick(REASONS)}"
                sentences.append(sentence[0].upper() + sentence[1:] + ".")
            parts.append(" ".join(sentences) + "\n\n")
        elif kind < 0.85:
            items = [f"{n + 1}. {pick(OBJECTS)}, {rng.randint(2, 99)}" for n in range(4)]
            parts.append("What was found " + pick(PLACES) + ":\n" + "\n".join(items) + "\n\n")
        else:
            a, c = rng.randint(1, 50), rng.randint(2, 9)
            code = rng.choice(CODE).format(a=a, b=a + rng.randint(10, 90), c=c)
            parts.append(code + "\n")
    return "".join(parts)


def load(path: pathlib.Path, context: int, bits: int = 32) -> llama_cpp.Llama:
    """Loads a model the same way each time: logits of every position kept, a cache of 32 bits."""
    kind = {16: llama_cpp.GGML_TYPE_F16, 32: llama_cpp.GGML_TYPE_F32}[bits]
    return llama_cpp.Llama(
        str(path),
        n_ctx=context,
        n_batch=WINDOW,
        n_threads=2,
        n_threads_batch=2,
        seed=1,
        type_k=kind,
        type_v=kind,
        flash_attn=False,
        logits_all=True,
        verbose=False,
    )


def is_gemma(model: llama_cpp.Llama) -> bool:
    """Whether texts start with a beginning of sequence and chats have gemma's form."""
    return model.metadata["general.architecture"].startswith("gemma")


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def evaluate(model: llama_cpp.Llama, ids: list[int]) -> np.ndarray:
    """The logits after each id of a fresh sequence."""
    model.reset()
    model.eval(ids)
    return np.array(model.scores[: len(ids)])


def greedy(path: pathlib.Path) -> dict:
    model = load(path, 1024)
    records = []
    chat_form = GEMMA_CHAT if is_gemma(model) else CHAT
    for prompt in PROMPTS + [chat_form.format(chat) for chat in CHATS]:
        ids = model.tokenize(prompt.encode(), add_bos=is_gemma(model), special=True)
        model.reset()
        model.eval(ids)
        generated, top = [], []
        for _ in range(GENERATED):
            scores = log_softmax(np.array(model.scores[model.n_tokens - 1]))
            first, second = np.argsort(-scores, kind="stable")[:2]
            generated.append(int(first))
            top.append(
                [round(float(scores[first]), 4), int(second), round(float(scores[second]), 4)]
            )
            model.eval([int(first)])
        records.append({"prompt": prompt, "ids": ids, "generated": generated, "top": top})
        print(repr(prompt[:40]), "->", repr(model.detokenize(generated)[:60]))
    record = {"llama_cpp": llama_cpp.__version__, "model": path.name}
    return record | {"self_agreement": self_agreement(path, records), "prompts": records}


def self_agreement(path: pathlib.Path, records: list[dict]) -> float:
    """How often llama.cpp with a cache of 16 bits chooses what it chose with 32 bits.

    Rounding activations to 8 bits turns the smallest difference into one of about 0.12 in every
    logit after thirty layers (seen on one prompt): the yardstick for another engine's agreement.
    """
    model = load(path, 1024, bits=16)
    agreed = 0
    for record in records:
        scores = evaluate(model, record["ids"] + record["generated"][:-1])
        chosen = scores[len(record["ids"]) - 1 :].argmax(axis=-1)
        agreed += int((chosen == np.array(record["generated"])).sum())
    share = round(agreed / (len(records) * GENERATED), 4)
    print(f"llama.cpp with 16 bits agrees with itself at {share:.2%} of the steps")
    return share


def widen(source: pathlib.Path, target: pathlib.Path) -> None:
    """Writes a model with all its weights as 32-bit floats, of the same values."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        inner = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values.reshape(tensor.shape[::-1]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def perplexity(path: pathlib.Path) -> dict:
    record = perplexity_of(path)
    if "gemma" not in path.name:
        return record
    # llama.cpp rounds the activations of K-quants in groups of 256 and gemma's activation to 16
    # bits. What it computes without either tells who is nearer to the weights as they are.
    with tempfile.TemporaryDirectory() as folder:
        wide = pathlib.Path(folder) / path.name
        widen(path, wide)
        return record | {"unrounded": perplexity_of(wide)["perplexity"]}


def perplexity_of(path: pathlib.Path) -> dict:
    model = load(path, max(WINDOW, GEMMA_WINDOW))
    length = GEMMA_WINDOW if is_gemma(model) else WINDOW
    ids = model.tokenize(text(1).encode(), add_bos=False, special=False)
    if is_gemma(model):
        for start in range(0, len(ids), length):
            ids.insert(start, model.token_bos())
    ids = ids[:TEXT_TOKENS]
    assert len(ids) == TEXT_TOKENS, f"the text has only {len(ids)} tokens"
    windows, total, count = [], 0.0, 0
    for start in range(0, len(ids), length):
        window = ids[start : start + length]
        scores = log_softmax(evaluate(model, window))
        losses = [-float(scores[i, window[i + 1]]) for i in range(len(window) - 1)]
        windows.append(round(sum(losses) / len(losses), 6))
        total, count = total + sum(losses), count + len(losses)
    value = round(float(np.exp(total / count)), 5)
    print(f"perplexity {value} over {count} predictions")
    record = {"llama_cpp": llama_cpp.__version__, "model": path.name, "window": length}
    return record | {"perplexity": value, "mean_loss_by_window": windows, "ids": ids}


def logits(directory: pathlib.Path) -> dict:
    models = {}
    for path in sorted(directory.glob("*.gguf")):
        model = load(path, 64)
        rng = random.Random(path.name)
        ids = [rng.randrange(256) for _ in range(TINY_IDS)]
        rows = evaluate(model, ids)
        models[path.name] = {
            "ids": ids,
            "logits": [[float(f"{value:.6g}") for value in row] for row in rows],
        }
        print(path.name, rows.shape, f"spread {rows.std():.3f}")
    return {"llama_cpp": llama_cpp.__version__, "models": models}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--tiny", type=pathlib.Path, default=TESTDATA / "tiny")
    parser.add_argument("--output", type=pathlib.Path, default=TESTDATA / "references")
    parser.add_argument("--prefix", default="", help="put before the names of the files")
    parser.add_argument("--only", choices=["greedy", "perplexity", "logits"])
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    kinds = {
        "greedy": lambda: greedy(arguments.model),
        "perplexity": lambda: perplexity(arguments.model),
        "logits": lambda: logits(arguments.tiny),
    }
    for kind, record in kinds.items():
        if arguments.only in (None, kind):
            target = arguments.output / f"{arguments.prefix}{kind}.json"
            target.write_text(json.dumps(record(), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
