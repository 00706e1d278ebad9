"""llama.cpp's side of the comparison: obeys the lines that the example `bench` obeys.

Usage: llama_worker.py serve MODEL.gguf THREADS
       llama_worker.py quantize SOURCE.gguf TARGET.gguf FORMAT THREADS
       llama_worker.py info

Run by compare.py, with an interpreter that has llama-cpp-python, as a process of its own: its
memory and threads are llama.cpp's alone, and if it dies the comparison can say so. It calls the C
interface, as the Python class around it copies logits; whatever is not said here is llama.cpp's
default: mmap, repacked weights, flash attention where it finds that useful, a cache of 16 bits.
Beside the lines of the example it knows `tokenize FILE`.
"""

import ctypes
import json
import pathlib
import sys
import time

import llama_cpp
import numpy as np

# As in the example.
DECODE_PROMPT = 16
ROWS_PROMPT = 32
PERPLEXITY_CHUNK = 128

CONTEXT = 1024
# Positions of each sequence where several are decoded together.
ROWS_CONTEXT = 128


@llama_cpp.llama_log_callback
def quiet(level, text, _data):
    # Above warnings only: it warns of much that is as wanted.
    if level == 4:
        sys.stderr.write(text.decode(errors="replace"))


def memory(field: str) -> "int | None":
    """Resident bytes as Linux counts them: VmRSS now, VmHWM at most."""
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


class Context:
    """One context of llama.cpp, for so many sequences, and the batch that feeds it."""

    def __init__(self, model, threads: int, sequences: int, positions: int):
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = positions * sequences
        settings.n_seq_max = sequences
        settings.n_threads = settings.n_threads_batch = threads
        self.raw = llama_cpp.llama_init_from_model(model, settings)
        if not self.raw:
            raise RuntimeError("llama.cpp cannot make a context")
        self.memory = llama_cpp.llama_get_memory(self.raw)
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)

    def fill(self, rows: "list[tuple[int, int, int]]", wanted: range) -> None:
        """Takes (id, position, sequence) of each row; logits are wanted after some rows."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for index, (identifier, position, sequence) in enumerate(rows):
            batch.token[index] = identifier
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = sequence
            batch.logits[index] = index in wanted

    def run(self) -> float:
        """Runs what was filled in and returns the seconds it took, logits ready to be read."""
        started = time.perf_counter()
        status = llama_cpp.llama_decode(self.raw, self.batch)
        llama_cpp.llama_get_logits(self.raw)
        elapsed = time.perf_counter() - started
        if status != 0:
            raise RuntimeError(f"llama_decode failed: {status}")
        return elapsed

    def append(self, ids: "list[int]", start: int, sequence: int = 0) -> float:
        rows = [(identifier, start + index, sequence) for index, identifier in enumerate(ids)]
        self.fill(rows, range(len(ids) - 1, len(ids)))
        return self.run()

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self.memory, False)


class Worker:
    def __init__(self, path: str, threads: int):
        self.threads = threads
        self.before = memory("VmRSS") or 0
        started = time.perf_counter()
        settings = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), settings)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocabulary)
        self.one = Context(self.model, threads, 1, CONTEXT)
        self.several = {}
        elapsed = time.perf_counter() - started
        reply({"engine": f"llama-cpp-python {llama_cpp.__version__}", "load_ms": elapsed * 1e3})

    def ids(self, row: int, count: int) -> "list[int]":
        return [(1000 + row * 101 + index * 37) % self.size for index in range(count)]

    def prefill(self, count: str) -> dict:
        self.one.clear()
        elapsed = 0.0
        ids = self.ids(0, int(count))
        for start in range(0, len(ids), 512):
            elapsed += self.one.append(ids[start : start + 512], start)
        return timed(len(ids), elapsed)

    def decode(self, count: str) -> dict:
        self.one.clear()
        ids = self.ids(0, DECODE_PROMPT + int(count))
        self.one.append(ids[:DECODE_PROMPT], 0)
        indices = range(DECODE_PROMPT, len(ids))
        return timed(int(count), sum(self.one.append([ids[index]], index) for index in indices))

    def rows(self, rows: str, steps: str) -> dict:
        rows, steps = int(rows), int(steps)
        context = self.several.get(rows)
        if context is None:
            context = Context(self.model, self.threads, rows, ROWS_CONTEXT)
            self.several[rows] = context
            for row in range(rows):
                context.append(self.ids(row, ROWS_PROMPT), 0, row)
        for row in range(rows):
            if not llama_cpp.llama_memory_seq_rm(context.memory, row, ROWS_PROMPT, -1):
                raise RuntimeError("llama.cpp cannot shorten a sequence")
        ids = [self.ids(row + 1000, steps) for row in range(rows)]
        elapsed = 0.0
        for step in range(steps):
            batch = [(ids[row][step], ROWS_PROMPT + step, row) for row in range(rows)]
            context.fill(batch, range(rows))
            elapsed += context.run()
        return timed(rows * steps, elapsed)

    def perplexity(self, path: str) -> dict:
        losses, choices = [], []
        for window in json.loads(pathlib.Path(path).read_text()):
            self.one.clear()
            loss, chosen = 0.0, []
            for start in range(0, len(window), PERPLEXITY_CHUNK):
                chunk = window[start : start + PERPLEXITY_CHUNK]
                rows = [(identifier, start + index, 0) for index, identifier in enumerate(chunk)]
                self.one.fill(rows, range(len(rows)))
                self.one.run()
                pointer = llama_cpp.llama_get_logits(self.one.raw)
                logits = np.ctypeslib.as_array(pointer, shape=(len(chunk), self.size))
                following = window[start + 1 : start + 1 + len(chunk)]
                for row, identifier in zip(logits, following):
                    highest = row.max()
                    total = np.exp(row - highest).sum(dtype=np.float64)
                    loss += float(np.log(total)) + float(highest) - float(row[identifier])
                    chosen.append(int(row.argmax()))
            losses.append(loss)
            choices.append(chosen)
        return {"losses": losses, "choices": choices}

    def tokenize(self, path: str) -> dict:
        """The ids of a text, and what a sequence begins with, if anything."""
        text = pathlib.Path(path).read_bytes()
        ids = (ctypes.c_int32 * (len(text) + 16))()
        count = llama_cpp.llama_tokenize(
            self.vocabulary, text, len(text), ids, len(ids), False, False
        )
        if count < 0:
            raise RuntimeError("the text has more ids than bytes")
        begin = None
        if llama_cpp.llama_vocab_get_add_bos(self.vocabulary):
            begin = llama_cpp.llama_vocab_bos(self.vocabulary)
        return {"ids": ids[:count], "begin": begin}

    def memory(self) -> dict:
        """The most that was resident, less what Python took before the model was loaded."""
        peak = memory("VmHWM")
        return {"peak_bytes": peak - self.before if peak else None}

    def serve(self) -> None:
        lines = {
            name: getattr(self, name)
            for name in ("prefill", "decode", "rows", "perplexity", "tokenize", "memory")
        }
        for line in sys.stdin:
            name, *values = line.split()
            try:
                reply(lines[name](*values))
            except (RuntimeError, KeyError, TypeError, OSError, ValueError) as error:
                reply({"error": f"{type(error).__name__}: {error}"})


def timed(positions: int, seconds: float) -> dict:
    return {"positions": positions, "ms": seconds * 1e3}


def reply(line: dict) -> None:
    print(json.dumps(line), flush=True)


def quantize(source: str, target: str, name: str, threads: int) -> None:
    """Stores every matrix in one format, but where its rows do not divide into its blocks."""
    names = {"Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S"}
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + names.get(name, name))
    settings.allow_requantize = True
    settings.pure = True
    settings.nthread = threads
    unfinished = target + ".part"
    status = llama_cpp.llama_model_quantize(
        source.encode(), unfinished.encode(), ctypes.byref(settings)
    )
    if status != 0:
        sys.exit(f"error: llama.cpp could not make {target} from {source} (status {status})")
    pathlib.Path(unfinished).rename(target)


def main() -> None:
    llama_cpp.llama_log_set(quiet, None)
    llama_cpp.llama_backend_init()
    match_word, *values = sys.argv[1:] or [""]
    if match_word == "serve" and len(values) == 2:
        Worker(values[0], int(values[1])).serve()
    elif match_word == "quantize" and len(values) == 4:
        quantize(*values[:3], int(values[3]))
    elif match_word == "info" and not values:
        system = llama_cpp.llama_print_system_info().decode()
        reply({"version": llama_cpp.__version__, "system": system.strip()})
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
