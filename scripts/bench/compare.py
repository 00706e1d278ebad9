#!/usr/bin/env python3
"""Measures this repository's inference beside llama.cpp: same files, threads and ids, in turns.

Run through scripts/bench-inference.sh, which builds our side first. Both engines load the same
file and are asked for the same work one right after the other, so that a machine that grows slower
for a while does so for both; the figures are medians over rounds. Only the engines' calls are
timed. Beside them stands what plain reading of memory reaches in the same rounds, and what share
of the processor's time the hypervisor took away: a run with much of that says little.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import environment
import perplexity
import report
from engines import Engine, Engines
from environment import INSTRUCTIONS
from models import FORMATS, MODELS, PUBLISHED, Failure, Files, Model, say

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# Far larger than any cache, but it is touched whole.
READ_MEGABYTES = 1024
# Threads of either engine may spin for a while after their work: wait until they sleep.
PAUSE_SECONDS = 0.05

# Above this load average others are at work, and both engines' threads wait for each other.
LOAD_MAX = 0.7

WORKLOADS = {
    "prefill 128": "prefill 128",
    "prefill 512": "prefill 512",
    "decode": "decode 64",
    "8 rows": "rows 8 16",
    "32 rows": "rows 32 8",
}


def speed(engine: Engine, line: str) -> float:
    """Positions per second of one piece of work."""
    found = engine.ask(line)
    time.sleep(PAUSE_SECONDS)
    return found["positions"] / found["ms"] * 1e3


def measure_speed(ours: Engine, llama: Engine, reader: Engine, rounds: int) -> dict:
    """Returns positions per second of each workload and engine, and bytes read per second."""
    pairs = [("ours", ours), ("llama", llama)]
    speeds = {name: {"ours": [], "llama": []} for name in WORKLOADS}
    weights = ours.about["decode_bytes"]
    reads = {"memory": [], "weights": []}
    sizes = {"memory": READ_MEGABYTES << 20, "weights": min(weights, READ_MEGABYTES << 20)}
    # The first round of each warms caches up and does not count.
    for number in range(rounds + 1):
        for name, line in WORKLOADS.items():
            # Who comes first would gain or lose by that, so they take turns.
            for side, engine in pairs if number % 2 else reversed(pairs):
                found = speed(engine, line)
                if number > 0:
                    speeds[name][side].append(found)
        for name, size in sizes.items():
            found = reader.ask(f"read {size}")["bytes_per_second"]
            if number > 0:
                reads[name].append(found)
    decode = statistics.median(speeds["decode"]["ours"])
    memory = statistics.median(reads["memory"])
    return {
        "positions_per_second": speeds,
        "bytes_per_second_read": reads,
        "decode_share_of_bandwidth": decode * weights / memory,
    }


def measure_start(start, model: pathlib.Path, rounds: int) -> dict:
    """Loads, prefills and decodes in fresh processes: time to the first id, and peak memory."""
    seconds, peaks = [], []
    for _ in range(rounds):
        with start(model) as engine:
            first = engine.ask("prefill 16")["ms"]
            process = engine.seconds_since_start()
            # llama.cpp's process is Python, whose own start is not the engine's.
            seconds.append((engine.about["load_ms"] + first) / 1e3)
            engine.ask("prefill 512")
            engine.ask("decode 64")
            peaks.append(engine.ask("memory")["peak_bytes"])
    peak = max(peaks) if None not in peaks else None
    return {
        "seconds_to_first_id": statistics.median(seconds),
        "seconds_from_process_start": process,
        "peak_bytes": peak,
    }


def measure_perplexity(engines: Engines, files: Files, path: pathlib.Path, options) -> dict:
    """Perplexities of one file, the same weights unrounded among them."""
    unrounded = files.unrounded(path)
    try:
        with engines.ours(path) as ours, engines.llama(path) as llama:
            with engines.llama(unrounded) as exact:
                found = perplexity.compare(ours, llama, exact, options)
            return {"file": ours.about, "perplexity": found}
    finally:
        unrounded.unlink()


def measure(engines: Engines, reader: Engine, path: pathlib.Path, options) -> dict:
    """Speed, memory and start of one file."""
    with engines.ours(path) as ours, engines.llama(path) as llama:
        result = {"file": ours.about}
        result.update(measure_speed(ours, llama, reader, options.rounds))
    starts = min(options.rounds, 3)
    result["start"] = {
        "ours": measure_start(engines.ours, path, starts),
        "llama": measure_start(engines.llama, path, starts),
    }
    about = result["file"]
    peak = result["start"]["ours"]["peak_bytes"]
    if peak is not None:
        least = about["file_bytes"] + 512 * about["cache_bytes_per_position"]
        result["peak_over_file_and_cache"] = peak / least
    return result


def processor_times() -> "list[int] | None":
    """Linux's counts: user, nice, system, idle, waiting, two kinds of interrupts, stolen."""
    try:
        line = pathlib.Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return None
    return [int(word) for word in line.split()[1:9]]


def stolen_share(before: "list[int] | None") -> "float | None":
    """The share of processor time since then that the hypervisor gave to others."""
    after = processor_times()
    if before is None or after is None:
        return None
    passed = [b - a for a, b in zip(before, after)]
    # Time in which nothing was to be done cannot be stolen.
    wanted = sum(passed) - passed[3] - passed[4]
    return passed[7] / wanted if wanted else 0.0


def machine() -> dict:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": name or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
    }


def commit() -> str:
    command = ["git", "-C", ROOT, "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def chosen(options) -> "list[tuple[Model, str]]":
    """Which formats of which models to measure."""
    pairs = []
    for name in options.models:
        model = MODELS[name]
        formats = options.formats or (model.formats[:1] if options.quick else model.formats)
        pairs += [(model, known) for known in model.formats if known in formats]
    if not pairs:
        raise Failure("no model is measured in any of these formats")
    return pairs


def names(known):
    def split(text: str) -> "list[str]":
        found = text.split(",")
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(known)}")
        return found

    return split


def count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench-inference.sh", description=__doc__.split("\n\n")[0]
    )
    add = parser.add_argument
    listed = ", ".join(MODELS)
    add("--models", type=names(MODELS), default=list(MODELS), help=f"some of {listed}")
    known = [PUBLISHED, *FORMATS]
    add("--formats", type=names(known), help=f"some of {', '.join(known)}; default: all")
    add("--rounds", type=count, help="rounds of each workload (default 5; with --quick 2)")
    add("--threads", type=count, default=len(os.sched_getaffinity(0)), help="default: all cores")
    add("--quick", action="store_true", help="few rounds of one format of each model")
    add("--perplexity", action="store_true", help="compare perplexities in place of speed")
    add("--windows", type=count, default=16, help="of 512 ids each, for --perplexity (default 16)")
    add("--json", type=pathlib.Path, metavar="FILE", help="write every figure there")
    add("--markdown", action="store_true", help="print one Markdown table")
    add("--work", type=pathlib.Path, help="where llama.cpp and the models are kept")
    add("--python", type=pathlib.Path, help="an interpreter that has llama-cpp-python and gguf")
    add("--instructions", choices=INSTRUCTIONS, default="native", help="what both may use at most")
    add("--llama-flags", default="", help="more CMake arguments for llama.cpp")
    add("--smollm2", type=pathlib.Path, metavar="FILE", help="SmolLM2, not to be fetched")
    add("--gemma3", type=pathlib.Path, metavar="FILE", help="Gemma 3, not to be fetched")
    add("--bench", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.work = (options.work or ROOT / "target/bench").resolve()
    return options


def compare(options) -> dict:
    options.work.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    if load > LOAD_MAX and not options.perplexity:
        say(f"warning: this machine is busy (load {load:.1f}): the figures will say little")
    python = options.python or environment.set_up(
        options.work, options.instructions, options.llama_flags
    )
    worker = HERE / "llama_worker.py"
    outcome = {
        "machine": machine(),
        "commit": commit(),
        "llama": json.loads(environment.worker_info(python, worker)),
        "threads": options.threads,
        "rounds": options.rounds,
        "results": [],
    }
    given = {"smollm2": options.smollm2, "gemma3": options.gemma3}
    files = Files(options.work / "models", python, options.threads, given)
    paths = [(model, name, files.get(model, name)) for model, name in chosen(options)]
    engines = Engines(options.bench, python, worker, options)
    before = processor_times()
    with contextlib.ExitStack() as stack:
        if not options.perplexity:
            reader = stack.enter_context(engines.reader(READ_MEGABYTES))
        for model, name, path in paths:
            result = {"model": model.title, "format": name}
            if options.perplexity:
                result.update(measure_perplexity(engines, files, path, options))
            else:
                result.update(measure(engines, reader, path, options))
            outcome["results"].append(result)
            outcome["stolen_share"] = stolen_share(before)
            if not options.markdown:
                print(report.plain(result), flush=True)
            else:
                say(f"measured {model.title} {name}")
            if options.json:
                options.json.write_text(json.dumps(outcome, indent=1) + "\n")
    return outcome


def main() -> int:
    options = parse()
    try:
        outcome = compare(options)
    except Failure as failure:
        say(f"error: {failure}")
        return 1
    except OSError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    print(report.markdown(outcome) if options.markdown else report.conditions(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
