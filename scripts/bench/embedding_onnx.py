"""A sentence encoder (BERT) for ONNX Runtime, made of the weights that the node has too.

The graph is the one that exporters make: batches padded to their longest text, a mask, attention
in the operations that ONNX Runtime's own optimiser knows and fuses, the exact GELU. `int8` is
`onnxruntime.quantization.quantize_dynamic` with its defaults.
"""

import json
import pathlib
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file


class Graph:
    """Nodes and constants by name."""

    def __init__(self, weights):
        self.weights = weights
        self.nodes = []
        self.constants = []
        self.count = 0

    def constant(self, value, name=None):
        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(self, name):
        if not any(constant.name == name for constant in self.constants):
            self.constant(self.weights[name], name)
        return name

    def node(self, operation, *inputs, **attributes):
        self.count += 1
        output = f"{operation}_{self.count}"
        self.nodes.append(helper.make_node(operation, list(inputs), [output], **attributes))
        return output

    def linear(self, rows, name):
        matrix = self.constant(self.weights[f"{name}.weight"].T, f"{name}.weight_transposed")
        return self.node("Add", self.node("MatMul", rows, matrix), self.weight(f"{name}.bias"))

    def normalise(self, rows, name, epsilon):
        gain, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.node("LayerNormalization", rows, gain, bias, axis=-1, epsilon=epsilon)


def attention(graph, rows, mask, name, heads, length):
    """Self-attention of one layer, before its output projection."""
    shape = graph.constant(np.array([0, 0, heads, length], np.int64))
    parts = []
    for part in ("query", "key", "value"):
        flat = graph.linear(rows, f"{name}.self.{part}")
        order = [0, 2, 3, 1] if part == "key" else [0, 2, 1, 3]
        parts.append(graph.node("Transpose", graph.node("Reshape", flat, shape), perm=order))
    query, key, value = parts
    root = graph.constant(np.array(np.sqrt(length), np.float32))
    scores = graph.node("Div", graph.node("MatMul", query, key), root)
    weights = graph.node("Softmax", graph.node("Add", scores, mask), axis=-1)
    seen = graph.node("Transpose", graph.node("MatMul", weights, value), perm=[0, 2, 1, 3])
    width = graph.constant(np.array([0, 0, heads * length], np.int64))
    return graph.node("Reshape", seen, width)


def bend(graph, rows):
    """The exact GELU."""
    one, half = (graph.constant(np.array(value, np.float32)) for value in (1.0, 0.5))
    root = graph.constant(np.array(np.sqrt(2), np.float32))
    erf = graph.node("Erf", graph.node("Div", rows, root))
    return graph.node("Mul", graph.node("Mul", rows, graph.node("Add", erf, one)), half)


def make_model(folder):
    """The encoder's rows for ids and a mask of a padded batch."""
    config = json.loads((folder / "config.json").read_text())
    graph = Graph(load_file(folder / "model.safetensors"))
    heads, epsilon = config["num_attention_heads"], config["layer_norm_eps"]
    length = config["hidden_size"] // heads
    words = graph.node("Gather", graph.weight("embeddings.word_embeddings.weight"), "input_ids")
    positions = graph.node(
        "Gather", graph.weight("embeddings.position_embeddings.weight"), "position_ids"
    )
    segment = graph.constant(graph.weights["embeddings.token_type_embeddings.weight"][0])
    rows = graph.node("Add", graph.node("Add", words, segment), positions)
    rows = graph.normalise(rows, "embeddings.LayerNorm", epsilon)
    axes = graph.constant(np.array([1, 2], np.int64))
    mask = graph.node("Unsqueeze", graph.node("Cast", "attention_mask", to=1), axes)
    one, low = (graph.constant(np.array(value, np.float32)) for value in (1.0, -10000.0))
    mask = graph.node("Mul", graph.node("Sub", one, mask), low)
    for index in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{index}"
        seen = attention(graph, rows, mask, f"{name}.attention", heads, length)
        seen = graph.linear(seen, f"{name}.attention.output.dense")
        rows = graph.normalise(
            graph.node("Add", seen, rows), f"{name}.attention.output.LayerNorm", epsilon
        )
        inner = bend(graph, graph.linear(rows, f"{name}.intermediate.dense"))
        outer = graph.linear(inner, f"{name}.output.dense")
        rows = graph.normalise(graph.node("Add", outer, rows), f"{name}.output.LayerNorm", epsilon)
    graph.nodes.append(helper.make_node("Identity", [rows], ["last_hidden_state"]))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask", "position_ids")
    ]
    output = helper.make_tensor_value_info(
        "last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", config["hidden_size"]]
    )
    graph = helper.make_graph(graph.nodes, "encoder", inputs, [output], graph.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


class OnnxEncoder:
    """Ids of texts in, vectors of length 1 out."""

    def __init__(self, path, threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    @classmethod
    def of_folder(cls, folder, threads, int8=False):
        with tempfile.TemporaryDirectory() as scratch:
            path = pathlib.Path(scratch) / "f32.onnx"
            onnx.save(make_model(pathlib.Path(folder)), path)
            if int8:
                from onnxruntime.quantization import QuantType, quantize_dynamic

                quantized = pathlib.Path(scratch) / "int8.onnx"
                quantize_dynamic(path, quantized, weight_type=QuantType.QInt8)
                path = quantized
            return cls(path, threads)

    def embed(self, batch):
        """Vectors of one batch, padded to its longest text."""
        longest = max(map(len, batch))
        ids = np.zeros((len(batch), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(batch):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        positions = np.broadcast_to(np.arange(longest, dtype=np.int64), ids.shape)
        feed = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        (rows,) = self.session.run(None, feed)
        weights = mask[:, :, None].astype(np.float32)
        vectors = (rows * weights).sum(1) / weights.sum(1)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
