#!/usr/bin/env python3
# Writes tiny models with random weights, for tests: real GGUF files that any engine loads.
#
# Usage: make-tiny-gguf.py --output inference/testdata/tiny [--seed 1] [--only NAME ...]
#        make-tiny-gguf.py --list
#
# Needs the packages gguf and numpy. The text that such a model writes is noise; what it is good
# for is to compare two engines' numbers, and to have something small to serve. The vocabulary is
# real byte-level BPE: 256 bytes, merges learned from the text below, special tokens; for gemma the
# same merges as pieces with scores.

import argparse
import collections
import dataclasses
import math
import pathlib
import zlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

CORPUS = """
the model reads the text and the reader models the words that it reads in the other order
there is no other thing than this one here and then the rest of these things are there too
a node answers when another node asks and it states its price before it answers the question
fn main() { let total = items.iter().sum(); return total; } for (int i = 0; i < n; i++) {}
"""
MERGES = 56
BYTES = 256

# Plain vocabulary entries follow the bytes; these follow the merges.
CONTROL_PIECES = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
]
USER_DEFINED_PIECES = ["<tool>"]

# Gemma's, which stand before the bytes.
GEMMA_CONTROL_PIECES = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
GEMMA_USER_DEFINED_PIECES = ["\n", "\n\n", "  ", "   "]

CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
HEADER_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + message['role'] | replace('assistant', 'model') + '\\n' }}"
    "{{ message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One file: the architecture's differences and the types of its matrices."""

    name: str
    # One type for all matrices, or (part of a tensor's name, type) pairs; the first that fits.
    types: Type | tuple[tuple[str, Type], ...]
    file_type: gguf.LlamaFileType
    architecture: str = "llama"
    pretokenizer: str = "gpt-2"
    tied: bool = False
    hidden: int = 64
    feed_forward: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    rope_base: float = 10_000.0
    context: int = 512
    llama3_scaling: bool = False
    linear_scaling: float | None = None
    biases: bool = False
    # Norms of each head of queries and keys, and of what each part of a block adds.
    more_norms: bool = False
    window: int | None = None


def plain(name: str, **differences: object) -> Variant:
    """A variant whose matrices are F32."""
    return Variant(name, Type.F32, gguf.LlamaFileType.ALL_F32, **differences)


QWEN2 = {"architecture": "qwen2", "pretokenizer": "qwen2", "biases": True, "rope_base": 1e6}
# Seven blocks: the sixth sees all positions, the others a window shorter than the tests' prompts.
GEMMA3 = {
    "architecture": "gemma3",
    "pretokenizer": "default",
    "tied": True,
    "layers": 7,
    "kv_heads": 1,
    "rope_base": 1e6,
    "more_norms": True,
    "window": 8,
}
# K-quants come in blocks of 256, so that is the shortest row.
WIDE = {"hidden": 256, "feed_forward": 256, "kv_heads": 1, "head_dim": 64, "tied": True}

VARIANTS = [
    plain("llama"),
    plain(
        "llama-rope-llama3",
        pretokenizer="llama-bpe",
        tied=True,
        rope_base=500_000.0,
        llama3_scaling=True,
        context=32_768,
    ),
    # As Mistral Nemo: the heads together are wider than the residual stream.
    plain("mistral", tied=True, head_dim=24, rope_base=1e6),
    plain("qwen2", tied=True, **QWEN2),
    plain("gemma3", hidden=32, heads=2, head_dim=24, **GEMMA3),
    # As the larger ones of Gemma 3: only the blocks without a window are stretched.
    Variant(
        "gemma3-q8_0",
        Type.Q8_0,
        gguf.LlamaFileType.MOSTLY_Q8_0,
        hidden=64,
        head_dim=32,
        linear_scaling=8.0,
        **GEMMA3,
    ),
    Variant(
        "llama-rope-linear",
        Type.F16,
        gguf.LlamaFileType.MOSTLY_F16,
        pretokenizer="smollm",
        tied=True,
        linear_scaling=4.0,
    ),
    Variant("qwen2-bf16", Type.BF16, gguf.LlamaFileType.MOSTLY_BF16, **QWEN2),
    Variant("llama-q4_0", Type.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0, tied=True),
    Variant(
        "llama-q4_1",
        (("token_embd", Type.Q8_0), ("", Type.Q4_1)),
        gguf.LlamaFileType.MOSTLY_Q4_1,
        pretokenizer="smollm",
        tied=True,
    ),
    Variant("llama-q5_0", Type.Q5_0, gguf.LlamaFileType.MOSTLY_Q5_0),
    Variant("llama-q5_1", Type.Q5_1, gguf.LlamaFileType.MOSTLY_Q5_1, tied=True),
    Variant("llama-q8_0", Type.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0, tied=True),
    Variant("qwen2-q8_0", Type.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0, **QWEN2),
    # The mixture that files called Q4_K_M have.
    Variant(
        "llama-q4_k_m",
        (
            ("token_embd", Type.Q6_K),
            ("attn_v", Type.Q6_K),
            ("ffn_down", Type.Q6_K),
            ("", Type.Q4_K),
        ),
        gguf.LlamaFileType.MOSTLY_Q4_K_M,
        pretokenizer="llama-bpe",
        **WIDE,
    ),
    # The other three K-quants in one file.
    Variant(
        "llama-q2_k",
        (
            ("attn_v", Type.Q5_K),
            ("attn_output", Type.Q5_K),
            ("ffn_down", Type.Q3_K),
            ("ffn_gate", Type.Q3_K),
            ("", Type.Q2_K),
        ),
        gguf.LlamaFileType.MOSTLY_Q2_K,
        pretokenizer="smollm",
        **WIDE,
    ),
]


def byte_symbols() -> list[str]:
    """Returns the visible character that byte-level BPE writes for each byte."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols, moved = [], 0
    for byte in range(BYTES):
        if byte in visible:
            symbols.append(chr(byte))
        else:
            symbols.append(chr(BYTES + moved))
            moved += 1
    return symbols


def learn_merges(symbols: list[str]) -> list[tuple[str, str]]:
    """Learns merges from the corpus: the most frequent pair first, ties by order of text."""
    counts = collections.Counter()
    for line in CORPUS.strip().splitlines():
        for index, word in enumerate(line.split(" ")):
            spaced = word if index == 0 else " " + word
            counts[tuple(symbols[byte] for byte in spaced.encode())] += 1
    merges: list[tuple[str, str]] = []
    while len(merges) < MERGES:
        pairs = collections.Counter()
        for word, count in counts.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        counts = collections.Counter(
            {apply_merge(word, best): count for word, count in counts.items()}
        )
    return merges


def apply_merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged, index = [], 0
    while index < len(word):
        if word[index : index + 2] == pair:
            merged.append(pair[0] + pair[1])
            index += 2
        else:
            merged.append(word[index])
            index += 1
    return tuple(merged)


def add_scored_vocabulary(writer: gguf.GGUFWriter) -> int:
    """Writes a vocabulary as SentencePiece's BPE and gemma have it, and returns its size."""
    symbols = ["▁" if byte == ord(" ") else chr(byte) for byte in range(BYTES)]
    merges = [left + right for left, right in learn_merges(symbols)]
    parts = [
        (GEMMA_CONTROL_PIECES, gguf.TokenType.CONTROL),
        (GEMMA_USER_DEFINED_PIECES, gguf.TokenType.USER_DEFINED),
        ([f"<0x{byte:02X}>" for byte in range(BYTES)], gguf.TokenType.BYTE),
        (merges, gguf.TokenType.NORMAL),
        (sorted(set("".join(merges))), gguf.TokenType.NORMAL),
    ]
    pieces = [piece for part, _ in parts for piece in part]
    first_merge = pieces.index(merges[0])
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_scores([float(first_merge - id) for id in range(len(pieces))])
    writer.add_token_types([kind for part, kind in parts for _ in part])
    writer.add_bos_token_id(pieces.index("<bos>"))
    writer.add_eos_token_id(pieces.index("<eos>"))
    writer.add_unk_token_id(pieces.index("<unk>"))
    writer.add_pad_token_id(pieces.index("<pad>"))
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(GEMMA_TEMPLATE)
    return len(pieces)


def add_vocabulary(writer: gguf.GGUFWriter, variant: Variant) -> int:
    """Writes the vocabulary and returns its size."""
    if variant.architecture == "gemma3":
        return add_scored_vocabulary(writer)
    symbols = byte_symbols()
    merges = learn_merges(symbols)
    pieces = symbols + [left + right for left, right in merges]
    types = [gguf.TokenType.NORMAL] * len(pieces)
    pieces += CONTROL_PIECES + USER_DEFINED_PIECES
    types += [gguf.TokenType.CONTROL] * len(CONTROL_PIECES)
    types += [gguf.TokenType.USER_DEFINED] * len(USER_DEFINED_PIECES)
    headers = variant.pretokenizer == "llama-bpe"
    bos, eos = ("<|begin_of_text|>", "<|eot_id|>") if headers else ("<|im_start|>", "<|im_end|>")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(variant.pretokenizer)
    writer.add_token_list(pieces)
    writer.add_token_types(types)
    writer.add_token_merges([f"{left} {right}" for left, right in merges])
    writer.add_bos_token_id(pieces.index(bos))
    writer.add_eos_token_id(pieces.index(eos))
    writer.add_unk_token_id(pieces.index("<|endoftext|>"))
    writer.add_pad_token_id(pieces.index("<|endoftext|>"))
    writer.add_add_bos_token(headers)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(HEADER_TEMPLATE if headers else CHATML_TEMPLATE)
    return len(pieces)


def add_hyperparameters(writer: gguf.GGUFWriter, variant: Variant, vocabulary: int) -> None:
    writer.add_name(f"Tiny {variant.name}")
    writer.add_file_type(variant.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(vocabulary)
    writer.add_context_length(variant.context)
    writer.add_embedding_length(variant.hidden)
    writer.add_block_count(variant.layers)
    writer.add_feed_forward_length(variant.feed_forward)
    writer.add_head_count(variant.heads)
    writer.add_head_count_kv(variant.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(variant.rope_base)
    writer.add_rope_dimension_count(variant.head_dim)
    if variant.head_dim * variant.heads != variant.hidden:
        writer.add_key_length(variant.head_dim)
        writer.add_value_length(variant.head_dim)
    if variant.window is not None:
        writer.add_sliding_window(variant.window)
    if variant.linear_scaling is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(variant.linear_scaling)


def rope_divisors(variant: Variant) -> np.ndarray:
    """Returns what each rotary frequency is divided by: Llama 3.1's scheme, factors 8, 1, 4."""
    factor, low, high, original = 8.0, 1.0, 4.0, 8192.0
    divisors = []
    for exponent in np.arange(0, variant.head_dim, 2) / variant.head_dim:
        # How often this frequency turns within the context of the first training.
        turns = original / (2 * math.pi * variant.rope_base**exponent)
        if turns > high:
            divisors.append(1.0)
        elif turns < low:
            divisors.append(factor)
        else:
            smooth = (turns - low) / (high - low)
            divisors.append(1.0 / ((1.0 - smooth) / factor + smooth))
    return np.array(divisors, dtype=np.float32)


def random_k_blocks(qtype: Type, rows: int, row_len: int, rng: np.random.Generator) -> np.ndarray:
    """Returns random blocks whose values have a mean near 0 and the usual deviation.

    The package does not quantize to these types. The ratio of the two scales of a block balances
    codes against minima; then both are scaled together.
    """
    block_len, block_bytes = gguf.GGML_QUANT_SIZES[qtype]
    scales_at = {Type.Q2_K: 80, Type.Q3_K: 108, Type.Q4_K: 0, Type.Q5_K: 0, Type.Q6_K: 208}
    # Mean code over mean minimum code, where the type has minima.
    balance = {Type.Q2_K: 1.5, Type.Q4_K: 7.5, Type.Q5_K: 15.5}.get(qtype)
    blocks = rng.integers(0, 256, (rows * row_len // block_len, block_bytes), dtype=np.uint8)
    spread = rng.uniform(0.5, 1.5, len(blocks)) * rng.choice([-1.0, 1.0], len(blocks))

    def set_scales(size: float) -> None:
        values = [spread * size] if balance is None else [spread * size, spread * size * balance]
        halves = np.stack(values, axis=1).astype("<f2").view(np.uint8)
        blocks[:, scales_at[qtype] : scales_at[qtype] + halves.shape[1]] = halves

    set_scales(2.0**-6)
    deviation = gguf.quants.dequantize(blocks, qtype).std()
    set_scales(2.0**-6 / deviation / math.sqrt(row_len))
    return blocks.reshape(rows, -1)


class TensorWriter:
    """Writes random tensors of a variant."""

    def __init__(self, writer: gguf.GGUFWriter, variant: Variant, rng: np.random.Generator):
        self.writer = writer
        self.variant = variant
        self.rng = rng

    def vector(self, name: str, length: int, mean: float) -> None:
        values = self.rng.normal(mean, 0.1, length).astype(np.float32)
        self.writer.add_tensor(name, values)

    def matrix(self, name: str, rows: int, row_len: int) -> None:
        qtype = self.type_of(name)
        if qtype in (Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K):
            data = random_k_blocks(qtype, rows, row_len, self.rng)
        else:
            deviation = 1.0 / math.sqrt(row_len)
            values = self.rng.normal(0.0, deviation, (rows, row_len)).astype(np.float32)
            data = gguf.quants.quantize(values, qtype)
        self.writer.add_tensor(name, data, raw_dtype=qtype)

    def type_of(self, name: str) -> Type:
        if isinstance(self.variant.types, Type):
            return self.variant.types
        return next(qtype for part, qtype in self.variant.types if part in name)


def add_tensors(tensors: TensorWriter, variant: Variant, vocabulary: int) -> None:
    hidden, wide = variant.hidden, variant.heads * variant.head_dim
    narrow = variant.kv_heads * variant.head_dim
    tensors.matrix("token_embd.weight", vocabulary, hidden)
    tensors.vector("output_norm.weight", hidden, 3.0)
    if not variant.tied:
        tensors.matrix("output.weight", vocabulary, hidden)
    if variant.llama3_scaling:
        tensors.writer.add_tensor("rope_freqs.weight", rope_divisors(variant))
    for layer in range(variant.layers):
        block = f"blk.{layer}."
        # Queries and keys are large enough for attention to be far from even.
        tensors.vector(block + "attn_norm.weight", hidden, 2.0)
        for part, rows in (("q", wide), ("k", narrow), ("v", narrow)):
            tensors.matrix(f"{block}attn_{part}.weight", rows, hidden)
            if variant.biases:
                tensors.vector(f"{block}attn_{part}.bias", rows, 0.0)
        if variant.more_norms:
            tensors.vector(block + "attn_q_norm.weight", variant.head_dim, 1.5)
            tensors.vector(block + "attn_k_norm.weight", variant.head_dim, 1.5)
            tensors.vector(block + "post_attention_norm.weight", hidden, 1.0)
            tensors.vector(block + "post_ffw_norm.weight", hidden, 1.0)
        tensors.matrix(block + "attn_output.weight", hidden, wide)
        tensors.vector(block + "ffn_norm.weight", hidden, 1.0)
        tensors.matrix(block + "ffn_gate.weight", variant.feed_forward, hidden)
        tensors.matrix(block + "ffn_up.weight", variant.feed_forward, hidden)
        tensors.matrix(block + "ffn_down.weight", hidden, variant.feed_forward)


def write_variant(variant: Variant, output: pathlib.Path, seed: int) -> int:
    """Writes one file and returns its size."""
    path = output / f"{variant.name}.gguf"
    rng = np.random.default_rng([seed, zlib.crc32(variant.name.encode())])
    writer = gguf.GGUFWriter(path, variant.architecture)
    vocabulary = add_vocabulary(writer, variant)
    add_hyperparameters(writer, variant, vocabulary)
    add_tensors(TensorWriter(writer, variant, rng), variant, vocabulary)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description="write tiny random GGUF models")
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[])
    parser.add_argument("--list", action="store_true", help="name the variants and stop")
    arguments = parser.parse_args()
    names = [variant.name for variant in VARIANTS]
    if arguments.list:
        print("\n".join(names))
        return
    if arguments.output is None:
        parser.error("--output is required")
    unknown = set(arguments.only) - set(names)
    if unknown:
        parser.error(f"no variant {', '.join(sorted(unknown))}; --list names them")
    arguments.output.mkdir(parents=True, exist_ok=True)
    for variant in VARIANTS:
        if not arguments.only or variant.name in arguments.only:
            size = write_variant(variant, arguments.output, arguments.seed)
            print(f"{variant.name}.gguf: {size} bytes")


if __name__ == "__main__":
    main()
