"""Perplexity of both engines on one text, which every machine with the same Python has.

The text is what Python's own `help()` prints on its topics: some 700 KB of English prose and code.
llama.cpp turns it into ids once, for both. Windows spread over it are given to both engines, each
by itself, and every id but a window's first counts.
"""

import hashlib
import json
import math
import pathlib
import pydoc_data.topics

from engines import Engine

WINDOW = 512


def windows(llama: Engine, folder: pathlib.Path, count: int) -> "tuple[pathlib.Path, str]":
    """Writes the windows' ids to a file and returns it, with what the text hashes to."""
    topics = pydoc_data.topics.topics
    text = "\n".join(topics[name] for name in sorted(topics)).encode()
    path = folder / "text.txt"
    path.write_bytes(text)
    found = llama.ask(f"tokenize {path}")
    ids, begin = found["ids"], found["begin"]
    step = len(ids) // count
    chosen = [ids[start : start + WINDOW] for start in range(0, step * count, step)]
    if begin is not None:
        chosen = [[begin, *window[:-1]] for window in chosen]
    path = folder / "windows.json"
    path.write_text(json.dumps(chosen))
    return path, hashlib.sha256(text).hexdigest()[:16]


def compare(ours: Engine, llama: Engine, options) -> dict:
    """Returns both perplexities, how far apart they are, and how often the engines agree."""
    path, text = windows(llama, options.work, options.windows)
    found = {"ours": ours.ask(f"perplexity {path}"), "llama": llama.ask(f"perplexity {path}")}
    choices = {name: sum(engine["choices"], []) for name, engine in found.items()}
    count = len(choices["ours"])
    perplexity = {name: math.exp(sum(engine["losses"]) / count) for name, engine in found.items()}
    equal = sum(a == b for a, b in zip(choices["ours"], choices["llama"]))
    # The noise of the difference: windows differ from each other in it by chance.
    pairs = zip(found["ours"]["losses"], found["llama"]["losses"])
    differences = [(a - b) / (WINDOW - 1) for a, b in pairs]
    mean = sum(differences) / len(differences)
    squares = sum((difference - mean) ** 2 for difference in differences)
    error = math.sqrt(squares / max(len(differences) - 1, 1) / len(differences))
    return {
        **perplexity,
        "difference": perplexity["ours"] / perplexity["llama"] - 1,
        "standard_error": error,
        "same_choice": equal / count,
        "ids": count,
        "text": text,
    }
