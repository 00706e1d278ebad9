#!/usr/bin/env python3
# Measures this repository's inference beside llama.cpp: same file, same threads, in turns.
#
# Usage: bench-vs-llama-cpp.py --model FILE.gguf [--bench target/release/examples/bench]
#                              [--threads 2] [--rounds 5] [--prefill 128,512] [--decode 64]
#
# Needs the package llama-cpp-python; build the other side first with
#   cargo build --release --package aither-inference --example bench
# Prints tokens per second, medians over the rounds, and the ratio of the two.

import argparse
import json
import pathlib
import statistics
import subprocess
import time

import llama_cpp


class Ours:
    """The example program: a line in starts a round, JSON lines come out."""

    def __init__(self, arguments: argparse.Namespace):
        command = [
            str(arguments.bench),
            str(arguments.model),
            "--threads",
            str(arguments.threads),
            "--rounds",
            str(arguments.rounds + 1),
            "--prefill",
            ",".join(map(str, arguments.prefill)),
            "--decode",
            str(arguments.decode),
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        print("ours:     ", self.process.stdout.readline().strip())

    def round(self) -> dict[str, float]:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        speeds = {}
        while True:
            line = json.loads(self.process.stdout.readline())
            for kind in ("prefill", "decode"):
                if f"{kind}_ms" in line:
                    count = line[f"{kind}_tokens"]
                    speeds[f"{kind} {count}"] = count / line[f"{kind}_ms"] * 1e3
            if line.get("end"):
                return speeds


class LlamaCpp:
    """llama.cpp through its Python binding; only the engine's calls are timed."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.model = llama_cpp.Llama(
            str(arguments.model),
            n_ctx=1024,
            n_batch=512,
            verbose=False,
            n_threads=arguments.threads,
            n_threads_batch=arguments.threads,
        )
        print("llama.cpp:", llama_cpp.__version__, llama_cpp.llama_print_system_info().decode())

    def ids(self, count: int) -> list[int]:
        return [(1000 + index * 37) % self.model.n_vocab() for index in range(count)]

    def round(self) -> dict[str, float]:
        speeds = {}
        for count in self.arguments.prefill:
            self.model.reset()
            started = time.perf_counter()
            self.model.eval(self.ids(count))
            speeds[f"prefill {count}"] = count / (time.perf_counter() - started)
        self.model.reset()
        self.model.eval(self.ids(16))
        count = self.arguments.decode
        elapsed = 0.0
        for _ in range(count):
            chosen = self.model.sample(temp=0.0)
            started = time.perf_counter()
            self.model.eval([chosen])
            elapsed += time.perf_counter() - started
        speeds[f"decode {count}"] = count / elapsed
        return speeds


def lengths(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser()
    bench = pathlib.Path(__file__).parent.parent / "target/release/examples/bench"
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--bench", type=pathlib.Path, default=bench)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prefill", type=lengths, default=[128, 512])
    parser.add_argument("--decode", type=int, default=64)
    arguments = parser.parse_args()
    engines = {"ours": Ours(arguments), "llama.cpp": LlamaCpp(arguments)}
    speeds = {name: {} for name in engines}
    # The first round of each warms caches up and does not count.
    for number in range(arguments.rounds + 1):
        for name, engine in engines.items():
            for kind, speed in engine.round().items():
                if number > 0:
                    speeds[name].setdefault(kind, []).append(speed)
    print(f"{'tokens/s':14} {'ours':>9} {'llama.cpp':>10} {'ratio':>7}")
    for kind, ours in speeds["ours"].items():
        ours, theirs = statistics.median(ours), statistics.median(speeds["llama.cpp"][kind])
        print(f"{kind:14} {ours:9.1f} {theirs:10.1f} {ours / theirs:7.2f}")


if __name__ == "__main__":
    main()
