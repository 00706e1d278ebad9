#!/usr/bin/env python3
# Writes the blocks and reference values that inference/tests/dequantize.rs compares with.
#
# Usage: make-dequantize-references.py --output inference/testdata/dequantize [--seed 1]
#
# Needs the packages gguf and numpy. For each tensor type two files: `<type>.blocks`, raw blocks,
# and `<type>.f32`, what the gguf package makes of them, little endian. The blocks are random
# bytes with ordinary scales, quantized random numbers, and edge cases: every notable f16 as a
# scale (zeros, subnormals, extremes, infinities, NaN) with codes of all-equal bits.

import argparse
import pathlib

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

# Offsets of the f16 fields within a block; a type without any is a plain number.
SCALE_OFFSETS = {
    "F32": [],
    "F16": [0],
    "BF16": [],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}

# Zero, minus zero, smallest and largest subnormal, smallest normal, extremes, one and minus one,
# infinities, NaN.
EDGE_HALVES = [
    0x0000, 0x8000, 0x0001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x3C00, 0xBC00, 0x7C00, 0xFC00, 0x7E00,
]  # fmt: skip
EDGE_BYTES = [0x00, 0xFF, 0x80, 0x7F, 0xAA, 0x55]

# One block per edge scale, each with the next edge byte; the rest is random or quantized.
RANDOM_BLOCKS = 12
QUANTIZED_BLOCKS = 6


def set_half(blocks: np.ndarray, offset: int, halves: np.ndarray) -> None:
    blocks[:, offset : offset + 2] = halves.astype("<u2").reshape(-1, 1).view(np.uint8)


def random_blocks(name: str, block_bytes: int, rng: np.random.Generator) -> np.ndarray:
    blocks = rng.integers(0, 256, (RANDOM_BLOCKS, block_bytes), dtype=np.uint8)
    for offset in SCALE_OFFSETS[name]:
        scales = rng.normal(0, 0.1, RANDOM_BLOCKS).astype("<f2").view("<u2")
        set_half(blocks, offset, scales)
    return blocks


def edge_blocks(name: str, block_bytes: int) -> np.ndarray:
    blocks = []
    for index, half in enumerate(EDGE_HALVES):
        byte = EDGE_BYTES[index % len(EDGE_BYTES)]
        block = np.full((1, block_bytes), byte, dtype=np.uint8)
        for place, offset in enumerate(SCALE_OFFSETS[name]):
            # The second scale takes another edge, so that products of both kinds occur.
            other = EDGE_HALVES[(index + 5 * place) % len(EDGE_HALVES)]
            set_half(block, offset, np.array([half if place == 0 else other]))
        blocks.append(block)
    # The same codes with a scale that is usual: all codes at their ends, finite results.
    for byte in EDGE_BYTES:
        block = np.full((1, block_bytes), byte, dtype=np.uint8)
        for offset in SCALE_OFFSETS[name]:
            set_half(block, offset, np.array([0xB012]))
        blocks.append(block)
    return np.concatenate(blocks)


def quantized_blocks(
    qtype: GGMLQuantizationType, block_len: int, rng: np.random.Generator
) -> list[np.ndarray]:
    numbers = rng.normal(0, 0.7, (QUANTIZED_BLOCKS, block_len)).astype(np.float32)
    try:
        return [quants.quantize(numbers, qtype).view(np.uint8)]
    except NotImplementedError:
        return []  # The package decodes K-quants but does not make them.


def plain_edges(name: str) -> list[np.ndarray]:
    if name == "F32":
        words = [0, 1 << 31, 1, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x7F800000, 0xFF800000]
        return [np.array(words + [0x7FC00000], dtype="<u4").view(np.uint8).reshape(-1, 4)]
    if name == "BF16":
        words = [0, 1 << 15, 1, 0x007F, 0x0080, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0]
        return [np.array(words, dtype="<u2").view(np.uint8).reshape(-1, 2)]
    return []


def write_type(name: str, output: pathlib.Path, rng: np.random.Generator) -> None:
    qtype = GGMLQuantizationType[name]
    block_len, block_bytes = GGML_QUANT_SIZES[qtype]
    parts = [
        random_blocks(name, block_bytes, rng),
        edge_blocks(name, block_bytes),
        *quantized_blocks(qtype, block_len, rng),
        *plain_edges(name),
    ]
    blocks = np.ascontiguousarray(np.concatenate(parts))
    typed = blocks.view("<f4") if name == "F32" else blocks
    typed = blocks.view("<f2") if name == "F16" else typed
    with np.errstate(all="ignore"):
        values = quants.dequantize(typed.reshape(1, -1), qtype).astype("<f4")
    assert values.size == blocks.shape[0] * block_len
    (output / f"{name.lower()}.blocks").write_bytes(blocks.tobytes())
    (output / f"{name.lower()}.f32").write_bytes(values.tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description="write reference values of dequantization")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(arguments.seed)
    for name in SCALE_OFFSETS:
        write_type(name, arguments.output, rng)


if __name__ == "__main__":
    main()
