"""Perplexity of both engines on one text, which every machine with the same Python has.

The text is what Python's own `help()` prints on its topics: some 700 KB of English prose and code.
llama.cpp turns it into ids once, for both. Windows spread over it are given to both engines, each
by itself, and every id but a window's first counts.

Engines round activations to 8 bits where weights are quantized, and not in the same groups: both
are also compared with llama.cpp on the same weights as 16-bit floats, where nothing much is
rounded. An engine that is nearer to that is the better one, whichever of the two it is.
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


def compare(ours: Engine, llama: Engine, unrounded: Engine, options) -> dict:
    """Returns all perplexities, how far apart the engines are, and how often they agree."""
    path, text = windows(llama, options.work, options.windows)
    engines = {"ours": ours, "llama": llama, "unrounded": unrounded}
    found = {name: engine.ask(f"perplexity {path}") for name, engine in engines.items()}
    choices = {name: sum(answer["choices"], []) for name, answer in found.items()}
    count = len(choices["ours"])
    mean_loss = {name: sum(answer["losses"]) / count for name, answer in found.items()}
    equal = sum(a == b for a, b in zip(choices["ours"], choices["llama"]))
    return {
        **{name: math.exp(loss) for name, loss in mean_loss.items()},
        "difference": math.expm1(mean_loss["ours"] - mean_loss["llama"]),
        "standard_error": standard_error(found["ours"]["losses"], found["llama"]["losses"]),
        "ours_over_unrounded": math.expm1(mean_loss["ours"] - mean_loss["unrounded"]),
        "llama_over_unrounded": math.expm1(mean_loss["llama"] - mean_loss["unrounded"]),
        "same_choice": equal / count,
        "ids": count,
        "text": text,
    }


def standard_error(ours: "list[float]", llama: "list[float]") -> float:
    """How far the difference would be off by chance: windows differ from each other in it."""
    differences = [(a - b) / (WINDOW - 1) for a, b in zip(ours, llama)]
    mean = sum(differences) / len(differences)
    squares = sum((difference - mean) ** 2 for difference in differences)
    return math.sqrt(squares / max(len(differences) - 1, 1) / len(differences))
