"""Pads a llama model of width 576 with zeros to 768, which computes the same numbers.

Usage: pad_model.py SOURCE.gguf TARGET.gguf

768 divides into the blocks of 256 that K-quants store. New columns meet zeros, new rows give
zeros, and new heads (12 for 9, 4 for 3 of keys, so that the grouping stays) have values of zero.
A norm divides by the mean over 768 numbers in place of 576: its weights and epsilon make up
for that. Needs the packages gguf and numpy; writes 16-bit floats.
"""

import math
import pathlib
import sys

import gguf
import numpy as np

OLD, NEW = 576, 768
OLD_HEADS, OLD_KV_HEADS, NEW_HEADS, NEW_KV_HEADS = 9, 3, 12, 4
HEAD = 64

# Metadata that the writer sets by itself, or that change.
OWN = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")


def padded(tensor: np.ndarray) -> np.ndarray:
    """Returns a tensor's numbers with zeros after them in each direction that grows."""
    if tensor.ndim == 1:
        tensor = tensor * math.sqrt(OLD / NEW)
    longer = {OLD: NEW, OLD_KV_HEADS * HEAD: NEW_KV_HEADS * HEAD}
    return np.pad(tensor, [(0, longer.get(length, length) - length) for length in tensor.shape])


def copy_metadata(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    changed = {
        "llama.embedding_length": NEW,
        "llama.attention.head_count": NEW_HEADS,
        "llama.attention.head_count_kv": NEW_KV_HEADS,
    }
    epsilon = "llama.attention.layer_norm_rms_epsilon"
    changed[epsilon] = reader.fields[epsilon].contents() * OLD / NEW
    for field in reader.fields.values():
        if field.name.startswith(OWN):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = changed.get(field.name, field.contents())
        writer.add_key_value(field.name, value, kind, sub_type=inner)


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    reader = gguf.GGUFReader(sys.argv[1])
    if reader.fields["llama.embedding_length"].contents() != OLD:
        sys.exit(f"error: {sys.argv[1]} is not of width {OLD}")
    unfinished = pathlib.Path(sys.argv[2] + ".part")
    writer = gguf.GGUFWriter(unfinished, "llama")
    copy_metadata(reader, writer)
    for tensor in reader.tensors:
        numbers = gguf.dequantize(tensor.data, tensor.tensor_type)
        numbers = padded(numbers.astype(np.float32))
        kind = np.float32 if numbers.ndim == 1 else np.float16
        writer.add_tensor(tensor.name, numbers.astype(kind))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.rename(sys.argv[2])


if __name__ == "__main__":
    main()
