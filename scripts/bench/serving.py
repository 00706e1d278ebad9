#!/usr/bin/env python3
"""Measures serving beside llama.cpp: same file, threads and requests, in turns.

Run through scripts/bench-serving.sh, which builds our node first. Every server is started once and
left idle while another is measured. What is compared: tokens a second of all clients together, the
time between two tokens of one answer, the time to the first token with and without a shared
beginning, and what HTTP and scheduling cost beside the bare engine.
"""

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import environment
import load
from compare import commit, count, machine, processor_times, stolen_share
from models import MODELS, PUBLISHED, Failure, Files, run, say
from report import table

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# Words that tokenizers make about one token each of.
WORDS = [
    *("the", "of", "and", "to", "in", "is", "was", "for", "on", "that", "by", "with", "from", "at"),
    *("as", "it", "his", "are", "which", "this", "be", "or", "had", "not", "were", "one", "all"),
    *("two", "has", "their", "first", "also", "after", "new", "who", "time", "been", "other"),
]

PROMPT_TOKENS = 256
ANSWER_TOKENS = 64
PREFIX_TOKENS = 1000
START_SECONDS = 120

# What the engine is called among the servers.
ENGINE = "engine"


def words(count: int, salt: int) -> str:
    """A text of about so many tokens; another salt makes another text from its first word on."""
    return " ".join(
        WORDS[(salt * 7 + index * (salt % 11 + 1)) % len(WORDS)] for index in range(count)
    )


class Server:
    """A server process, and how it is asked."""

    def __init__(self, name: str, command: list, port: int, env: "dict | None" = None):
        self.name, self.port, self.key = name, port, ""
        self.log = tempfile.TemporaryFile()  # noqa: SIM115, closed with the server
        self.process = subprocess.Popen(
            [str(part) for part in command], stdout=self.log, stderr=self.log, env=env
        )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise Failure(f"{self.name} ended: {self.tail()}")
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/models").close()
                return
            time.sleep(0.1)
        raise Failure(f"{self.name} is not ready after {START_SECONDS} s: {self.tail()}")

    def pass_seconds(self) -> float:
        """Time in passes over the model so far, where the server tells."""
        if not self.key:
            return 0.0
        headers = {"Authorization": f"Bearer {self.key}"}
        url = f"http://127.0.0.1:{self.port}/metrics"
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            lines = answer.read().decode().splitlines()
        name = "aither_inference_pass_seconds_total "
        return next(float(line.split()[1]) for line in lines if line.startswith(name))

    def tail(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-2000:]

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_unused) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


def body(prompt: str, max_tokens: int) -> dict:
    return {
        "model": "bench",
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0.8,
        "seed": 1,
        "stream_options": {"include_usage": True},
    }


class Salts:
    """Numbers that are not used twice, so that no server has seen a prompt before."""

    def __init__(self):
        self.last = 0

    def next(self) -> int:
        self.last += 1
        return self.last


def one_round(server: Server, clients: int, salts: Salts) -> dict:
    """All clients at once, each with a prompt of its own."""
    bodies = [[body(words(PROMPT_TOKENS, salts.next()), ANSWER_TOKENS)] for _ in range(clients)]
    before = server.pass_seconds()
    answers, took = asyncio.run(load.together(server.port, bodies))
    return {
        "rate": sum(answer.completion_tokens for answer in answers) / took,
        "outside": 1 - (server.pass_seconds() - before) / took,
        "gaps": [gap for answer in answers for gap in answer.gaps()],
        "firsts": [answer.first for answer in answers],
    }


def measure_clients(servers: "list[Server]", clients: int, rounds: int, salts: Salts) -> dict:
    """Figures of each server; they take turns, so that a noisy minute is nobody's alone."""
    found = {server.name: [] for server in servers}
    for _ in range(rounds):
        for server in servers:
            found[server.name].append(one_round(server, clients, salts))
    return {name: summary(rounds) for name, rounds in found.items()}


def summary(rounds: "list[dict]") -> dict:
    gaps = [gap for one in rounds for gap in one["gaps"]]
    firsts = [first for one in rounds for first in one["firsts"]]
    return {
        "tokens_per_second": statistics.median(one["rate"] for one in rounds),
        "outside_passes": statistics.median(one["outside"] for one in rounds),
        "gap_p50": load.percentile(gaps, 0.5),
        "gap_p99": load.percentile(gaps, 0.99),
        "first_p50": load.percentile(firsts, 0.5),
        "first_p99": load.percentile(firsts, 0.99),
    }


def measure_prefix(server: Server, rounds: int, salts: Salts) -> dict:
    """Time to the first token of a long prompt, cold, and once its beginning was seen."""
    cold, warm = [], []
    for _ in range(rounds):
        prefix = words(PREFIX_TOKENS, salts.next())
        for times, end in [(cold, " What is this?"), (warm, " Who wrote that?")]:
            answer = asyncio.run(load.ask(server.port, body(prefix + end, 4)))
            times.append(answer.first)
    return {"cold": statistics.median(cold), "warm": statistics.median(warm)}


def measure_alone(servers: "list[Server]", engine: "Engine", rounds: int, salts: Salts) -> dict:
    """One client after another: tokens a second after the first. Servers and engine take turns."""
    rates = {name: [] for name in [*(server.name for server in servers), ENGINE]}
    for _ in range(rounds * 3):
        for server in servers:
            answer = asyncio.run(load.ask(server.port, body(words(32, salts.next()), 128)))
            if gaps := answer.gaps():
                rates[server.name].append((answer.completion_tokens - 1) / sum(gaps))
        rates[ENGINE].append(engine.ask("decode 128"))
    return {name: statistics.median(found) for name, found in rates.items()}


class Engine:
    """Our engine without HTTP and scheduling."""

    def __init__(self, bench: pathlib.Path, model: pathlib.Path, threads: int):
        command = [str(bench), str(model), "--threads", str(threads)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, **pipes)
        self.process.stdout.readline()
        self.ask("decode 16")

    def ask(self, line: str) -> float:
        """Positions a second."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        return found["positions"] / found["ms"] * 1e3

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_unused) -> None:
        self.process.stdin.close()
        self.process.wait()


def start_servers(options, python: pathlib.Path, model: pathlib.Path, stack) -> "list[Server]":
    data = stack.enter_context(tempfile.TemporaryDirectory())
    command = [options.node, "run", "--data-dir", data, "--http", f"127.0.0.1:{options.port}"]
    command += ["--model", f"bench={model}", "--threads", options.threads]
    servers = [stack.enter_context(Server("aither-node", command, options.port))]
    servers[0].key = (pathlib.Path(data) / "admin.key").read_text().strip()
    port = options.port + 1
    command = [python, "-m", "llama_cpp.server", "--model", model, "--port", port]
    command += ["--n_threads", options.threads, "--n_threads_batch", options.threads]
    # Unless told otherwise it breaks an answer off when somebody else asks.
    command += ["--n_ctx", "2048", "--verbose", "False", "--interrupt_requests", "False"]
    servers.append(stack.enter_context(Server("llama_cpp.server", command, port)))
    if options.llama_server:
        port = options.port + 2
        command = [options.llama_server, "-m", model, "--port", port, "-t", options.threads]
        command += ["-tb", options.threads, "-np", "32", "-c", 32 * 1024, "--no-webui"]
        servers.append(stack.enter_context(Server("llama-server", command, port)))
    return servers


def compare(options) -> dict:
    options.work.mkdir(parents=True, exist_ok=True)
    python = options.python or environment.set_up(options.work, options.instructions, "")
    if not options.python:
        package = f"llama-cpp-python[server]=={environment.LLAMA_VERSION}"
        run([python, "-m", "pip", "install", "-q", package], "installing llama_cpp.server")
        if not options.llama_server:
            options.llama_server = environment.set_up_server(
                options.work, options.instructions, python
            )
    given = {"smollm2": options.smollm2, "gemma3": None}
    files = Files(options.work / "models", python, options.threads, given)
    model = files.get(MODELS["smollm2"], PUBLISHED)
    before = processor_times()
    salts = Salts()
    outcome = {"machine": machine(), "commit": commit(), "threads": options.threads}
    with contextlib.ExitStack() as stack:
        servers = start_servers(options, python, model, stack)
        engine = stack.enter_context(Engine(options.bench, model, options.threads))
        results = {server.name: {} for server in servers}
        alone = measure_alone(servers, engine, options.rounds, salts)
        say(f"one client: {alone}")
        for server in servers:
            found = measure_prefix(server, options.rounds, salts)
            results[server.name] |= {"alone": alone[server.name], "prefix": found}
            say(f"{server.name}: first token {found}")
        for clients in (8, 32):
            found = measure_clients(servers, clients, options.rounds, salts)
            for name, figures in found.items():
                results[name][str(clients)] = figures
                say(f"{name}: {clients} clients {figures}")
    outcome["servers"] = results
    outcome["engine_alone"] = alone[ENGINE]
    outcome["stolen_share"] = stolen_share(before)
    return outcome


def markdown(outcome: dict) -> str:
    """A table of the figures, and what they come to."""
    titles = ["server", "1 client", "8 clients", "gap p50, p99", "32 clients", "gap p50, p99"]
    titles += ["first token, cold", "prefix known"]

    def ms(seconds: float) -> str:
        return f"{seconds * 1e3:.0f}"

    rows = [titles]
    for name, found in outcome["servers"].items():
        row = [name, f"{found['alone']:.0f}"]
        for clients in ("8", "32"):
            many = found[clients]
            row.append(f"{many['tokens_per_second']:.1f}")
            row.append(f"{ms(many['gap_p50'])}, {ms(many['gap_p99'])} ms")
        prefix = found["prefix"]
        row += [f"{ms(prefix['cold'])} ms", f"{ms(prefix['warm'])} ms"]
        rows.append(row)
    own, *others = outcome["servers"].items()
    lines = [table(rows), "Tokens a second of all clients together."]
    for name, found in others:
        for clients in ("8", "32"):
            ratio = own[1][clients]["tokens_per_second"] / found[clients]["tokens_per_second"]
            gap = own[1][clients]["gap_p99"] / found[clients]["gap_p99"]
            lines.append(
                f"Beside {name}, {clients} clients: {ratio:.2f} x the tokens, {gap:.2f} x the gap."
            )
    outside = [f"{own[1][clients]['outside_passes']:.1%}" for clients in ("8", "32")]
    prefix = own[1]["prefix"]
    lines.append(f"Time outside of passes: {outside[0]} with 8 clients, {outside[1]} with 32.")
    lines.append(f"A known prefix: {prefix['warm'] / prefix['cold']:.1%} of the cold time.")
    lines.append(
        f"One client: {own[1]['alone'] / outcome['engine_alone']:.3f} of the engine without a "
        f"server ({outcome['engine_alone']:.0f} tokens/s)."
    )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-serving.sh", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--rounds", type=count, default=3, help="rounds of each workload (default 3)")
    add("--threads", type=count, default=len(os.sched_getaffinity(0)), help="default: all cores")
    add("--port", type=int, default=18200, help="the first of three ports (default 18200)")
    add("--json", type=pathlib.Path, metavar="FILE", help="write the figures there")
    add("--work", type=pathlib.Path, help="where llama.cpp and the model are kept")
    add(
        "--instructions", choices=("native", "avx512"), default="native", help="what llama.cpp uses"
    )
    add("--python", type=pathlib.Path, help="an interpreter that has llama-cpp-python[server]")
    add("--llama-server", type=pathlib.Path, help="llama.cpp's own server, to be measured too")
    add("--smollm2", type=pathlib.Path, metavar="FILE", help="the model, not to be fetched")
    add("--node", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    add("--bench", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work = (options.work or ROOT / "target/bench").resolve()
    return options


def main() -> int:
    options = parse()
    try:
        outcome = compare(options)
    except (Failure, load.Failed, OSError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    if options.json:
        options.json.write_text(json.dumps(outcome, indent=1) + "\n")
    print(markdown(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
