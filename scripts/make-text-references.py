#!/usr/bin/env python3
# Records how llama.cpp encodes text and how transformers renders chats, for the tests of the
# crate inference.
#
# Usage: make-text-references.py tokenizer --model SmolLM2-135M-Instruct.Q4_1.gguf
#        make-text-references.py scored --model gemma3-270m-q4_k_m.gguf
#        make-text-references.py chat
# Options: --testdata inference/testdata (where it is read and written), --seed 1
#
# tokenizer and scored need llama-cpp-python and gguf, chat needs transformers and jinja2.
# inference/testdata/README.md describes the files.

import argparse
import ctypes
import json
import pathlib
import random
import sys
import tempfile


def write_json(path, header, members):
    """One member a line, and one line per entry of a list: differences stay readable."""
    lines = [f'"about": {json.dumps(header, ensure_ascii=True)}']
    for key, value in members.items():
        if isinstance(value, list):
            rows = (json.dumps(row, ensure_ascii=True, separators=(",", ":")) for row in value)
            lines.append(f'"{key}": [\n' + ",\n".join(rows) + "\n]")
        else:
            lines.append(f'"{key}": {json.dumps(value, ensure_ascii=True)}')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{path}: {path.stat().st_size} bytes")


# --- llama.cpp -----------------------------------------------------------------------------------


class Vocabulary:
    """A model's vocabulary in llama.cpp."""

    def __init__(self, path):
        import llama_cpp

        self.lib = lib = llama_cpp
        self.log = lib.llama_log_callback(lambda level, text, data: None)
        lib.llama_log_set(self.log, ctypes.c_void_p(0))
        params = lib.llama_model_default_params()
        params.vocab_only = True
        self.model = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            sys.exit(f"llama.cpp cannot load {path}")
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.size = lib.llama_vocab_n_tokens(self.vocab)

    def encode(self, text, parse_special, add_special=False):
        data = text.encode()
        room = len(data) + 8
        ids = (self.lib.llama_token * room)()
        count = self.lib.llama_tokenize(
            self.vocab, data, len(data), ids, room, add_special, parse_special
        )
        assert count >= 0
        return list(ids[:count])

    def end_ids(self):
        return [id for id in range(self.size) if self.lib.llama_vocab_is_eog(self.vocab, id)]


def engine_header(seed):
    import llama_cpp

    return {
        "engine": f"llama.cpp of llama-cpp-python {llama_cpp.__version__}",
        "seed": seed,
        "made_by": "scripts/make-text-references.py",
    }


# --- tokenizer -----------------------------------------------------------------------------------

# First and last code point of alphabets; unassigned ones in between are wanted.
SCRIPTS = [
    (0x20, 0x7E),
    (0xA0, 0x17F),
    (0x180, 0x24F),
    (0x250, 0x2AF),
    (0x300, 0x36F),
    (0x370, 0x3FF),
    (0x400, 0x52F),
    (0x530, 0x58F),
    (0x590, 0x5FF),
    (0x600, 0x6FF),
    (0x700, 0x74F),
    (0x780, 0x7BF),
    (0x7C0, 0x7FF),
    (0x900, 0x97F),
    (0x980, 0x9FF),
    (0xA00, 0xA7F),
    (0xA80, 0xAFF),
    (0xB00, 0xB7F),
    (0xB80, 0xBFF),
    (0xC00, 0xC7F),
    (0xC80, 0xCFF),
    (0xD00, 0xD7F),
    (0xD80, 0xDFF),
    (0xE00, 0xE7F),
    (0xE80, 0xEFF),
    (0xF00, 0xFFF),
    (0x1000, 0x109F),
    (0x10A0, 0x10FF),
    (0x1100, 0x11FF),
    (0x1200, 0x137F),
    (0x13A0, 0x13FF),
    (0x1400, 0x167F),
    (0x1680, 0x169F),
    (0x16A0, 0x16FF),
    (0x1700, 0x177F),
    (0x1780, 0x17FF),
    (0x1800, 0x18AF),
    (0x1E00, 0x1FFF),
    (0x2000, 0x206F),
    (0x2070, 0x20CF),
    (0x2100, 0x218F),
    (0x2190, 0x23FF),
    (0x2460, 0x24FF),
    (0x2500, 0x27BF),
    (0x2C00, 0x2DFF),
    (0x3000, 0x303F),
    (0x3040, 0x30FF),
    (0x3100, 0x312F),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xA000, 0xA4CF),
    (0xA960, 0xA97F),
    (0xAC00, 0xD7A3),
    (0xF900, 0xFAFF),
    (0xFB00, 0xFDFF),
    (0xFE00, 0xFE0F),
    (0xFE20, 0xFE6F),
    (0xFF00, 0xFFEF),
    (0x10000, 0x100FF),
    (0x10330, 0x1034F),
    (0x10900, 0x1091F),
    (0x12000, 0x123FF),
    (0x13000, 0x1342F),
    (0x1D400, 0x1D7FF),
    (0x1E900, 0x1E95F),
    (0x1F000, 0x1F2FF),
    (0x1F300, 0x1F9FF),
    (0x20000, 0x2A6DF),
    (0xE0020, 0xE007F),
]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n", "\u00a0", "\u2003", "\u3000", "\r"]
EMOJI = ["👩‍💻", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "👍🏽", "❤️", "1️⃣", "😀", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🤷🏿‍♀️"]
WORD_TEXT = """the a node answers when its peers ask don't I'll we've she'd it's they're I'm can't
HE'LL WE'RE Straße naïve façade Ångström привет мир 你好世界 日本語のテキスト 한국어 العربية עברית
ภาษาไทย हिन्दी বাংলা Ελληνικά Tiếng Việt e\u0301 n\u0303 ﬁne ½ ² Ⅳ ١٢٣ ४५ 3.14159 1,000,000 0x1F
snake_case camelCase kebab-case user@example.org https://example.org/a?b=c#d C:\\temp \\n $5 50%
#hash @name **bold** `code` <b>bold</b> &amp; :-) ... --- === != -> => :: // /* */"""
WORDS = WORD_TEXT.split()
CODE = [
    'fn main() {\n    println!("{}", 1 + 2);\n}\n',
    "def f(x):\n\treturn [i ** 2 for i in range(x) if i % 2 == 0]\n",
    "for (int i = 0; i < 10; ++i) { sum += a[i]; }",
    "SELECT name, COUNT(*) FROM users WHERE age >= 18 GROUP BY name;",
    '{"key": [1, 2.5e-3, null, true], "text": "a\\u00e9\\n"}',
    '<div class="x">\r\n  <p>&nbsp;</p>\r\n</div>',
    "x=$((1+2)); echo \"${x:-none}\" | grep -E '^[0-9]+$' > /dev/null 2>&1",
]
SYMBOLS = "!#$%&*+-/=?^_`{|}~<>.,;:'\"()[]"
SPECIAL_PARTS = ["<|", "|>", "<|im_", "end|>", "<s>", "</s>", "<|unknown|>", "<tool>", "im_start"]


def random_script(rng):
    first, last = rng.choice(SCRIPTS)
    return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 12)))


def random_part(rng, specials):
    kind = rng.randrange(12)
    if kind == 0:
        return rng.choice(EMOJI) * rng.randint(1, 2)
    if kind == 1:
        return "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 5)))
    if kind == 2:
        return "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 9)))
    if kind == 3:
        return chr(rng.choice([*range(32), *range(0x7F, 0xA0)]))
    if kind == 4:
        return rng.choice(CODE)
    if kind in (5, 6):
        return rng.choice(specials) if rng.random() < 0.7 else rng.choice(SPECIAL_PARTS)
    if kind == 7:
        return "".join(rng.choice(SYMBOLS) for _ in range(rng.randint(1, 6)))
    if kind in (8, 9):
        return random_script(rng)
    return rng.choice(["", " "]).join(rng.choice(WORDS) for _ in range(rng.randint(1, 5)))


def sample_texts(count, seed, specials):
    rng = random.Random(seed)
    texts = ["", " ", "\n", "a", "\u0000", "\ufeffa", "\U0010ffff", *EMOJI, *CODE, *specials]
    texts += [random_script(rng) for _ in range(300)]
    # A dictionary keeps the order and drops what came before.
    texts = dict.fromkeys(texts)
    while len(texts) < count:
        text = "".join(random_part(rng, specials) for _ in range(rng.randint(1, 4)))
        texts[text] = None
    return list(texts)[:count]


def write_vocabulary(source, path, changes=None, keep=None):
    """Copies the vocabulary of a model, without weights; some metadata changed, or only the ids
    that are kept of the lists."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        name = field.name
        if not name.startswith("tokenizer."):
            continue
        value = field.contents()
        value = (changes or {}).get(name, value)
        if keep and name.split(".")[-1] in ("tokens", "scores", "token_type"):
            value = [value[id] for id in keep]
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, value)
        elif field.types[0] == gguf.GGUFValueType.BOOL:
            writer.add_bool(name, value)
        elif field.types[0] == gguf.GGUFValueType.STRING:
            writer.add_string(name, value)
        else:
            writer.add_uint32(name, int(value))
    # llama.cpp wants these even where it loads the vocabulary only.
    for name in ["context_length", "embedding_length", "block_count", "feed_forward_length"]:
        writer.add_uint32(f"llama.{name}", 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_tokenizer(args):
    fixture = args.testdata / "tokenizer" / "smollm2.gguf"
    fixture.parent.mkdir(parents=True, exist_ok=True)
    write_vocabulary(args.model, fixture)
    print(f"{fixture}: {fixture.stat().st_size} bytes")
    specials = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<file_sep>"]
    texts = sample_texts(2000, args.seed, specials)
    references, ends = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for pre in ["smollm", "llama-bpe", "qwen2", "gpt-2", "default"]:
            path = pathlib.Path(folder) / f"{pre}.gguf"
            write_vocabulary(args.model, path, {"tokenizer.ggml.pre": pre})
            engine = Vocabulary(path)
            ends[pre] = engine.end_ids()
            plain = [engine.encode(text, False) for text in texts]
            special = [engine.encode(text, True) for text in texts]
            references[pre] = plain, special
    base_plain, base_special = references["smollm"]
    members = {"texts": texts, "end_of_generation": ends["smollm"]}
    for pre, (plain, special) in references.items():
        if pre == "smollm":
            members[f"{pre} plain"] = plain
        else:
            # Most texts come out as under smollm; only the others are written.
            members[f"{pre} plain"] = differences(plain, base_plain)
        members[f"{pre} special"] = differences(special, plain)
    write_json(args.testdata / "tokenizer" / "references.json", engine_header(args.seed), members)


# Of Gemma's 262 144 pieces: special ones, bytes and the first merges; and the first of those that
# are single characters, which come last but for unused ones.
KEPT_FIRST = range(0, 12_000)
KEPT_CHARACTERS = range(236_743, 240_000)
GEMMA_SPECIALS = ["<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<unused7>", "</s>"]
GEMMA_SPECIALS += ["\n\n\n", "\n" * 40, "  ", " " * 33, "\t\t", "<0x41>", "▁", "▁▁", "[multimodal]"]


def make_scored(args):
    """SentencePiece's BPE: ids under a part of a vocabulary; for the same with a space put in
    front of text, and for the whole vocabulary, only digests of the ids."""
    folder = args.testdata / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "gemma3.gguf"
    write_vocabulary(args.model, part, keep=[*KEPT_FIRST, *KEPT_CHARACTERS])
    print(f"{part}: {part.stat().st_size} bytes")
    texts = sample_texts(2000, args.seed, GEMMA_SPECIALS)
    engine = Vocabulary(part)
    plain = [engine.encode(text, False) for text in texts]
    special = [engine.encode(text, True) for text in texts]
    members = {"texts": texts, "end_of_generation": engine.end_ids(), "plain": plain}
    members["special"] = differences(special, plain)
    with tempfile.TemporaryDirectory() as temporary:
        path = pathlib.Path(temporary) / "prefix.gguf"
        write_vocabulary(part, path, {"tokenizer.ggml.add_space_prefix": True})
        for name, engine in {"prefix": Vocabulary(path), "whole": Vocabulary(args.model)}.items():
            for kind, parse in {"plain": False, "special": True}.items():
                digests = [digest(engine.encode(text, parse, True)) for text in texts]
                members[f"{name} {kind} digests"] = digests
    write_json(folder / "gemma3.json", engine_header(args.seed), members)


def digest(ids):
    """32-bit FNV-1a, an id at a time."""
    hash = 0x811C9DC5
    for id in ids:
        hash = ((hash ^ id) * 0x01000193) % 2**32
    return hash


def differences(rows, base):
    return [[index, row] for index, row in enumerate(rows) if row != base[index]]


# --- chat templates ------------------------------------------------------------------------------


def chat_templates(args):
    folder = args.testdata / "chat_template"
    return {path.stem: path.read_text() for path in sorted(folder.glob("*.jinja"))}


CONVERSATIONS = {
    "one": [("user", "Hello")],
    "system": [("system", "Be brief."), ("user", "What is a node?")],
    "turns": [("user", "Hi"), ("assistant", "Hello!"), ("user", "Bye"), ("assistant", "Bye.")],
    "empty": [("user", "")],
    "empty system": [("system", ""), ("user", "x")],
    "unicode": [
        ("user", "日本語 👩‍💻 naïve \u00a0end"),
        ("assistant", "é\u0301"),
        ("user", "العربية"),
    ],
    "spaces": [
        ("system", "  s  \n"),
        ("user", "  two  \n\n"),
        ("assistant", "\tyes \n"),
        ("user", " "),
    ],
    "tool": [
        ("user", "Weather?"),
        ("assistant", "call"),
        ("tool", '{"sky": "blue"}'),
        ("user", "Thanks"),
    ],
    "markup": [("user", "{{ bos_token }} {% raw %} <|im_end|> <b>&amp;</b> \"q\" 'r' \\n")],
    "wrong order": [("user", "a"), ("user", "b")],
    "assistant first": [("assistant", "a"), ("user", "b")],
    "system late": [("user", "a"), ("assistant", "b"), ("system", "c"), ("user", "d")],
    "none": [],
}


def make_chat(args):
    import jinja2
    import transformers
    from transformers.utils.chat_template_utils import _compile_jinja_template

    header = {
        "engine": f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}",
        "made_by": "scripts/make-text-references.py",
    }
    for name, source in chat_templates(args).items():
        bos, eos = ("<s>", "</s>")
        template = _compile_jinja_template(source)
        rows = []
        for conversation, turns in CONVERSATIONS.items():
            messages = [{"role": role, "content": content} for role, content in turns]
            for prompt in (False, True):
                row = {"name": conversation, "messages": messages, "add_generation_prompt": prompt}
                values = {"messages": messages, "tools": None, "documents": None}
                values |= {"add_generation_prompt": prompt, "bos_token": bos, "eos_token": eos}
                try:
                    row["text"] = template.render(**values)
                except jinja2.exceptions.UndefinedError:
                    # The words are the engine's, not the template's.
                    row["error"] = None
                except jinja2.exceptions.TemplateError as error:
                    row["error"] = str(error)
                rows.append(row)
        members = {"template": f"{name}.jinja", "bos": bos, "eos": eos, "conversations": rows}
        write_json(args.testdata / "chat_template" / f"{name}.json", header, members)


def main():
    parser = argparse.ArgumentParser(description="records references for tests")
    kinds = {
        "tokenizer": make_tokenizer,
        "scored": make_scored,
        "chat": make_chat,
    }
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--testdata", type=pathlib.Path, default=pathlib.Path("inference/testdata"))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.kind != "chat" and not args.model:
        parser.error(f"{args.kind} needs --model")
    kinds[args.kind](args)


if __name__ == "__main__":
    main()
