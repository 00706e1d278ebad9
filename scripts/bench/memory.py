#!/usr/bin/env python3
"""Measures agents' memory: writes, reads and searches, beside Chroma on the same data.

Run through scripts/bench-memory.sh, which builds the programs first. Everything is asked over
HTTP by the same light client, whose own work is on the same cores. What a durable write may cost
is held against what one sync of the same disk takes in the same run. How many of the nearest
entries a search finds is held against an exact search over vectors that are not rounded.
"""

import argparse
import json
import os
import pathlib
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

from compare import commit, count, machine, processor_times, stolen_share
from memory_chroma import Chroma
from models import Failure, say
from node_process import Node
from report import share, table

SEED = 8200
CLIENTS, IN_FLIGHT = 64, 64 * 32
SYNCS = 300
# Of what is found for so many queries.
NEAREST = 10
TIER = "spirit"
INDEX_SECONDS = 3600

WHO = ["Ada", "Boris", "Chen", "Dalia", "Edgar", "Fatima", "Goran", "Hana", "Ivan", "Jun"]
WHO += ["Karin", "Luca", "Mira", "Nadia", "Omar", "Pia"]
DID = [
    "asked about",
    "complained about",
    "wants to learn",
    "has finished",
    "ordered",
    "cancelled",
    "recommends",
    "was confused by",
    "prefers",
    "sent notes on",
    "is allergic to",
    "wrote a report on",
]
WHAT = """
the tax form for freelancers;sourdough bread;a flight to Lisbon;the broken washing machine
training for a marathon;the database migration;a birthday present for a niece;jazz piano
growing tomatoes on a balcony;the quarterly sales figures;learning Portuguese;a leaking roof
the login page's contrast;insurance for a rented flat;black holes;peanuts;the new coffee machine
a wedding in the mountains;parsing of log files;electric bicycles;the history of Venice
a sore shoulder;the delivery of a sofa;unit tests for the scheduler;saving for retirement
a vegetarian menu;the noise of the neighbours;solar panels;a lost passport;watercolours
the school's summer party;memory leaks;a second-hand camera;bees and their hives
""".replace("\n", ";").split(";")
WHAT = [what for what in WHAT if what]
HOW = """
before the end of the month;because the last attempt failed;and would like an answer by mail
although the budget is small;with the help of a colleague;for the third time this year
while travelling by train;as the doctor advised;in spite of the rain;after a long discussion
together with the family;without telling anybody;as cheaply as possible;in great detail
""".replace("\n", ";").split(";")
HOW = [how for how in HOW if how]


class Texts:
    """Sentences as an assistant might note them, and questions about them."""

    def __init__(self):
        self.rng = random.Random(SEED)

    def note(self) -> str:
        pick = self.rng.choice
        day, hour = self.rng.randrange(1, 29), self.rng.randrange(7, 22)
        return (
            f"On day {day} at {hour} o'clock {pick(WHO)} {pick(DID)} {pick(WHAT)} {pick(HOW)}, "
            f"and {pick(WHO)} {pick(DID)} {pick(WHAT)}."
        )

    def question(self) -> str:
        pick = self.rng.choice
        return f"Who {pick(DID)} {pick(WHAT)} {pick(HOW)}?"


class Load:
    """The client that asks fast, on files of bodies."""

    def __init__(self, program: pathlib.Path, folder: pathlib.Path):
        self.program, self.folder = program, folder

    def ask(self, port, key, path, bodies, connections=1, status=200) -> dict:
        file = self.folder / "bodies"
        with file.open("w") as lines:
            lines.writelines(json.dumps(body) + "\n" for body in bodies)
        command = [self.program, "--address", f"127.0.0.1:{port}", "--path", path]
        command += ["--bodies", file, "--connections", str(connections), "--status", str(status)]
        environment = os.environ | {"AITHEROS_API_KEY": key}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            raise Failure(f"{path}: {done.stderr.strip()}")
        return json.loads(done.stdout)


def post(port: int, key: str, path: str, body: dict, seconds: float = 60) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=seconds) as answer:
        return json.load(answer)


def sync_seconds(folder: pathlib.Path) -> float:
    """What one sync of a page takes on this disk."""
    took = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            begun = time.perf_counter()
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - begun)
    return statistics.median(took)


def write_body(number: int, text: str) -> dict:
    return {"tier": TIER, "key": f"note-{number}", "value": {"note": text}}


def measure_writes(node: Node, key: str, load: Load, texts: Texts, options) -> dict:
    few = [write_body(number, texts.note()) for number in range(options.requests)]
    found = {"sync": sync_seconds(load.folder)}
    found["one of 64"] = load.ask(node.port, key, "/v1/memory/write", few, CLIENTS)
    many = [write_body(number, texts.note()) for number in range(options.entries)]
    found["in flight"] = load.ask(node.port, key, "/v1/memory/write", many, IN_FLIGHT)
    found["sync after"] = sync_seconds(load.folder)
    return found


def measure_reads(node: Node, key: str, load: Load, options) -> dict:
    rng = random.Random(SEED)
    bodies = [
        {"tier": TIER, "key": f"note-{rng.randrange(options.entries)}"}
        for _ in range(options.requests)
    ]
    return {
        name: load.ask(node.port, key, "/v1/memory/read", bodies, connections)
        for name, connections in [("one client", 1), ("64 clients", CLIENTS)]
    }


def wait_for_index(node: Node, key: str) -> float:
    """Seconds until everything that was written is found by meaning."""
    begun = time.perf_counter()
    body = {"query": "anything", "tiers": [TIER], "limit": 1, "mode": "semantic"}
    while time.perf_counter() - begun < INDEX_SECONDS:
        answer = post(node.port, key, "/v1/memory/search", body)
        if answer["unindexed"] == 0:
            return time.perf_counter() - begun
        time.sleep(0.5)
    raise Failure(f"not indexed within {INDEX_SECONDS} seconds")


def measure_searches(node: Node, key: str, load: Load, questions: list) -> dict:
    found = {}
    for mode in ("hybrid", "semantic", "keyword"):
        bodies = [
            {"query": question, "tiers": [TIER], "limit": NEAREST, "mode": mode}
            for question in questions
        ]
        # The first search of a scope loads its index, which is not what is measured.
        post(node.port, key, "/v1/memory/search", bodies[0], INDEX_SECONDS)
        found[mode] = load.ask(node.port, key, "/v1/memory/search", bodies)
    return found


def exactly(options, node: Node, questions: list, dump: pathlib.Path) -> list:
    """The keys of the entries that are nearest to each question, in a stopped node's memory."""
    command = [options.exact, "exact", node.data, options.embedding_model, str(NEAREST)]
    command += ["--dump", dump]
    done = subprocess.run(command, input="\n".join(questions), capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"{options.exact.name}: {done.stderr.strip()}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def fill(options, node: Node, entries: int, dump: pathlib.Path) -> None:
    """Adds entries to a stopped node's memory, near to those that are there."""
    command = [options.exact, "fill", node.data, options.embedding_model, str(entries)]
    command += ["--dump", dump]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"{options.exact.name}: {done.stderr.strip()}")


def recall(node: Node, key: str, questions: list, exact: list) -> float:
    """Which part of the nearest entries a search by meaning finds."""
    parts = []
    for question, wanted in zip(questions, exact):
        body = {"query": question, "tiers": [TIER], "limit": NEAREST, "mode": "semantic"}
        answer = post(node.port, key, "/v1/memory/search", body, INDEX_SECONDS)
        keys = {result["key"] for result in answer["results"]}
        parts.append(len(keys & set(wanted)) / NEAREST)
    return statistics.mean(parts)


def measure_size(node: Node, key: str, load: Load, questions: list, exact: list) -> dict:
    """Searches in a node that has just started, with so many entries as it has."""
    found = {"empty": node.memory()}
    begun = time.perf_counter()
    found["recall"] = recall(node, key, questions[: len(exact)], exact)
    found["seconds"] = time.perf_counter() - begun
    found["search"] = measure_searches(node, key, load, questions)
    return found | {"memory": node.memory(), "anonymous": node.memory("RssAnon")}


def measure(options) -> dict:
    outcome = {"machine": machine(), "commit": commit(), "profile": options.profile}
    outcome |= {"entries": options.entries, "requests": options.requests}
    before = processor_times()
    with tempfile.TemporaryDirectory(prefix="bench-memory-", dir=options.work) as folder:
        folder = pathlib.Path(folder)
        node = Node(options.program, folder, ["--embedding-model", options.embedding_model])
        node.environment = {"AITHER_HTTP__CONNECTIONS_MAX": "4096"}
        load, texts = Load(options.load, folder), Texts()
        questions = [texts.question() for _ in range(options.searches)]
        asked = questions[: options.recall_queries]
        try:
            node.start()
            body = {"email": "bench@example.org", "password": "correct horse battery"}
            key = post(node.port, "", "/v1/auth/register", body)["api_key"]
            say(f"writing {options.entries} entries")
            outcome["write"] = measure_writes(node, key, load, texts, options)
            say("waiting until they are found by meaning")
            outcome["indexed"] = wait_for_index(node, key)
            say("reading")
            outcome["read"] = measure_reads(node, key, load, options)
            node.stop()
            say("searching exactly")
            exact = exactly(options, node, asked, folder / "vectors")
            node.start()
            say("searching")
            outcome["search"] = measure_size(node, key, load, questions, exact)
            node.stop()
            outcome["bytes"] = (node.data / "memory.redb").stat().st_size
            if options.chroma:
                outcome["chroma"] = beside_chroma(options, folder, load, questions)
            outcome["large"], entries = [], options.entries
            for large in options.large:
                say(f"adding entries up to {large}")
                fill(options, node, large - entries, folder / "vectors")
                entries = large
                exact = exactly(options, node, asked, folder / "vectors")
                node.start()
                found = measure_size(node, key, load, questions, exact)
                outcome["large"].append(found | {"entries": large})
                node.stop()
        finally:
            node.stop(signal.SIGKILL)
    outcome["stolen_share"] = stolen_share(before)
    return outcome


def beside_chroma(options, folder: pathlib.Path, load: Load, questions: list) -> dict:
    """The same texts and vectors in Chroma's server."""
    say("the same in Chroma")
    with Chroma(options.work_kept, folder) as chroma:
        return chroma.measure(load, folder / "vectors", options, len(questions))


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def rate(per_second: float) -> str:
    return f"{per_second:,.0f}/s".replace(",", " ")


def search_rows(found: dict, entries: int, target: float) -> list:
    rows = [
        (f"{entries} entries, {mode}, p50", times["p50"], ms, "<", target)
        for mode, times in found["search"].items()
    ]
    rows.append((f"{entries} entries, {NEAREST} nearest found", found["recall"], share, ">=", 0.95))
    mb = "{:.0f} MB".format
    rows.append((f"{entries} entries, memory held", found["memory"] / 1e6, mb, "", None))
    rows.append((f"{entries} entries, of it not the file", found["anonymous"] / 1e6, mb, "", None))
    return rows


def rows(outcome: dict) -> list:
    """What was measured, the figure, how it is shown, and what it should be."""
    write, read = outcome["write"], outcome["read"]
    sync = min(write["sync"], write["sync after"])
    found = [
        ("one sync of this disk", sync, ms, "", None),
        ("durable write, 64 clients, p50", write["one of 64"]["p50"], ms, "<", sync + 0.002),
        ("durable writes, 2048 in flight", write["in flight"]["per_second"], rate, ">=", 10_000),
        ("read, one client, p50", read["one client"]["p50"], ms, "<", 0.0003),
        ("reads, 64 clients", read["64 clients"]["per_second"], rate, "", None),
        ("until all was found by meaning", outcome["indexed"], "{:.0f} s".format, "", None),
    ]
    found += search_rows(outcome["search"], outcome["entries"], 0.010)
    for large in outcome["large"]:
        found += search_rows(large, large["entries"], 0.010 if large["entries"] <= 1e5 else 0.025)
    if chroma := outcome.get("chroma"):
        ours = write["one of 64"]
        found += [
            ("Chroma: write, 64 clients, p50", chroma["write"]["p50"], ms, ">", ours["p50"]),
            ("Chroma: writes", chroma["write"]["per_second"], rate, "<", ours["per_second"]),
            ("Chroma: read, p50", chroma["read"]["p50"], ms, ">", read["one client"]["p50"]),
            (
                "Chroma: search by a given vector, p50",
                chroma["search"]["p50"],
                ms,
                ">",
                outcome["search"]["search"]["semantic"]["p50"],
            ),
        ]
    return found


def is_met(value: float, how: str, target: float) -> bool:
    tests = {"<": value < target, ">": value > target, ">=": value >= target}
    return tests[how]


def markdown(outcome: dict) -> str:
    body = []
    for what, value, show, how, target in rows(outcome):
        wanted = f"{how} {show(target)}" if how else ""
        met = ("met" if is_met(value, how, target) else "MISSED") if how else ""
        body.append([what, show(value), wanted, met])
    where = outcome["machine"]
    conditions = (
        f"{where['processor']}, {where['cores']} cores, {where['system']}; profile "
        f"{outcome['profile']}; commit {outcome['commit']}; stolen by the hypervisor: "
        f"{share(outcome['stolen_share'], 1)}."
    )
    return f"{conditions}\n\n" + table([["", "measured", "wanted", ""], *body])


def sizes(text: str) -> "list[int]":
    return sorted(count(size) for size in text.split(","))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-memory.sh", description=__doc__.split("\n\n")[0])
    add, path = parser.add_argument, pathlib.Path
    add("--entries", type=count, default=100_000, help="entries (default 100 000)")
    add("--large", type=sizes, default=[], metavar="N,M", help="fill up to N and search, then M")
    add("--requests", type=count, default=20_000, help="of each measurement (default 20 000)")
    add("--searches", type=count, default=1000, help="searches of each kind (default 1000)")
    add("--recall-queries", type=count, default=200, help="searched exactly too (default 200)")
    add("--no-chroma", dest="chroma", action="store_false", help="without Chroma beside it")
    add("--program", type=path, required=True, help="the node to measure")
    add("--load", type=path, required=True, help="the example http-load")
    add("--exact", type=path, required=True, help="the example memory-exact")
    add("--embedding-model", type=path, required=True, metavar="FILE", help="its GGUF file")
    add("--json", type=path, metavar="FILE", help="write the figures there")
    add("--work", type=path, default=path("/var/tmp"), help="a folder on a disk")
    add("--work-kept", type=path, default=path("target/bench"), help="where Chroma is kept")
    add("--profile", default="unnamed", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = parse()
    # The node and the client have a socket each for everything in flight.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        outcome = measure(options)
    except (Failure, OSError, subprocess.SubprocessError) as error:
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
