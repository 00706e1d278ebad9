#!/usr/bin/env python3
"""Measures a node with many agents: taking them aboard, telling them apart, finding them again.

Run through scripts/bench-onboarding.sh, which builds the node first. One account owns all agents;
each has three skills, drawn with a fixed seed from words of very different frequency, as real ones
are. What authentication costs is the processor time of the node for the same small answer with and
without a key, in turns, and what its example `auth-cost` finds within the process.
"""

import argparse
import asyncio
import json
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from agent_client import Connection, Refused, spread
from compare import commit, count, machine, processor_times, stolen_share
from load import percentile
from models import Failure, say
from node_process import Node
from report import share, table

TARGETS = {"auth": 20e-6, "find": 0.005, "ready": 3.0, "memory": 400e6}
SEED = 8200
WORDS, SKILLS = 2000, 300
# Keys and tokens that are kept to ask with: enough that no cache knows them all.
KEPT = 2000
TURNS = 5
AUTH_ROUNDS = 20


class Cards:
    """Cards of agents that differ as real ones do."""

    def __init__(self):
        self.rng = random.Random(SEED)
        letters = "abcdefghijklmnopqrstuvwxyz"
        self.words = ["".join(self.rng.choices(letters, k=7)) for _ in range(WORDS)]
        self.ranks = [1 / (rank + 1) for rank in range(WORDS)]

    def some(self, number: int) -> "list[str]":
        return self.rng.choices(self.words, self.ranks, k=number)

    def skill(self, number: int) -> dict:
        return {
            "id": f"skill-{number}",
            "name": " ".join(self.some(2)).title(),
            "description": " ".join(self.some(12)),
            "tags": self.some(3),
        }

    def card(self, number: int) -> dict:
        skills = self.rng.sample(range(SKILLS), 3)
        return {
            "name": f"{self.some(1)[0]}-{number}",
            "version": "1.0.0",
            "description": " ".join(self.some(20)),
            "skills": [self.skill(skill) for skill in skills],
            "endpoints": [{"path": "/chat", "method": "POST"}],
            "capabilities_requested": ["llm_inference", "memory_read", "memory_write"],
            "billing": {"token_cost_per_request": 3, "category": "agent"},
            "health_endpoint": "/health",
        }


async def register(port: int) -> str:
    body = {"email": "bench@example.org", "password": "correct horse battery"}
    async with Connection(port, "") as connection:
        return (await connection.want(201, "POST", "/v1/auth/register", body))["api_key"]


async def take_aboard(node: Node, key: str, cards: Cards, options) -> "tuple[dict, list]":
    """How fast agents come aboard; and keys and tokens of some of them."""
    every, kept = max(1, options.agents // KEPT), []

    async def one(connection: Connection, number: int) -> float:
        body = {"agent_card": cards.card(number), "mode": "remote"}
        begun = time.perf_counter()
        bundle = await connection.want(201, "POST", "/v1/agents/auto-onboard", body)
        took = time.perf_counter() - begun
        if number % every == 0:
            kept.append((bundle["api_key"], bundle["capability_token"]))
        if number % 10_000 == 9_999:
            say(f"{number + 1} agents, {node.memory() / 1e6:.0f} MB")
        return took

    before = node.processor_seconds()
    work = range(options.agents)
    took, seconds = await spread(node.port, key, options.connections, work, one)
    used = node.processor_seconds() - before
    found = {"rate": options.agents / seconds, "processor": used / options.agents}
    return found | {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99)}, kept


async def measure_auth(node: Node, kept: list, options) -> dict:
    """Processor seconds of one small answer, by who asks: nobody, an agent's key, a token."""
    rng, spent = random.Random(SEED), {"none": [], "key": [], "token": []}

    async def one(connection: Connection, secret: str) -> None:
        await connection.want(200, "GET", "/v1/models", key=secret)

    for _ in range(TURNS):
        chosen = rng.choices(kept, k=options.requests)
        for name, secrets in [
            ("none", [""] * options.requests),
            ("key", [key for key, _ in chosen]),
            ("token", [token for _, token in chosen]),
        ]:
            before = node.processor_seconds()
            await spread(node.port, "", 4, secrets, one)
            spent[name].append((node.processor_seconds() - before) / options.requests)
    found = {name: statistics.median(seconds) for name, seconds in spent.items()}
    return found | {f"{name}_over_none": found[name] - found["none"] for name in ("key", "token")}


async def measure_finding(node: Node, key: str, cards: Cards, options) -> dict:
    """Seconds of each way to find agents, one request after another."""
    async with Connection(node.port, key) as connection:
        cursors = [""]
        for _ in range(20):
            page = f"/v1/agents?limit=500{cursors[-1]}"
            cursor = (await connection.want(200, "GET", page))["next_cursor"]
            if cursor is None:
                break
            cursors.append(f"&cursor={cursor}")
        ways = {
            "first page": lambda: "",
            "later pages": lambda: f"limit=50{cards.rng.choice(cursors)}",
            "by skill": lambda: f"skill=skill-{cards.rng.randrange(SKILLS)}",
            "by tag": lambda: f"tag={cards.some(1)[0]}",
            "by word": lambda: f"q={cards.some(1)[0]}",
            "by two words": lambda: "q=" + "+".join(cards.some(2)),
            "by a word's first letters": lambda: f"q={cards.some(1)[0][:2]}",
        }
        found = {}
        for name, query in ways.items():
            took = []
            for _ in range(options.requests // 5):
                path = f"/v1/agents?{query()}"
                begun = time.perf_counter()
                status, body = await connection.ask("GET", path)
                took.append(time.perf_counter() - begun)
                if status != 200:
                    raise Refused(f"GET {path}: {status}: {body.decode()[:500]}")
            found[name] = {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99)}
    return found


def auth_within(program: pathlib.Path, node: Node, kept: list) -> dict:
    lines = "\n".join(secret for pair in kept for secret in pair) + "\n"
    command = [program, node.data, str(AUTH_ROUNDS)]
    done = subprocess.run(command, input=lines, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"{program.name}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def measure(options) -> dict:
    outcome = {"machine": machine(), "commit": commit(), "profile": options.profile}
    outcome |= {name: getattr(options, name) for name in ("agents", "connections", "requests")}
    before = processor_times()
    with tempfile.TemporaryDirectory(prefix="bench-onboarding-", dir=options.work) as folder:
        node, cards = Node(options.program, pathlib.Path(folder)), Cards()
        try:
            outcome["empty"] = {"ready": node.start(), "memory": node.memory()}
            key = asyncio.run(register(node.port))
            say(f"onboarding {options.agents} agents")
            outcome["onboard"], kept = asyncio.run(take_aboard(node, key, cards, options))
            outcome["memory"] = {"aboard": node.memory(), "aboard_peak": node.memory("VmHWM")}
            say("asking with and without keys")
            outcome["auth"] = asyncio.run(measure_auth(node, kept, options))
            say("finding agents")
            outcome["find"] = asyncio.run(measure_finding(node, key, cards, options))
            outcome["memory"]["asked"] = node.memory()
            node.stop()
            outcome["ready"] = {"stopped": node.start()}
            outcome["memory"]["restarted"] = node.memory()
            node.stop(signal.SIGKILL)
            outcome["ready"]["killed"] = node.start()
            node.stop()
            if options.auth_cost:
                outcome["within"] = auth_within(options.auth_cost, node, kept)
            outcome["bytes"] = (node.data / "registry.redb").stat().st_size
        finally:
            node.stop(signal.SIGKILL)
    outcome["stolen_share"] = stolen_share(before)
    return outcome


def micros(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs"


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def rows(outcome: dict) -> "list[tuple[str, str, str, bool | None]]":
    """What was measured, the figure, what it should be, and whether it is."""

    def of(what: str, value: float, show, target: "float | None") -> tuple:
        wanted, is_met = ("", None) if target is None else (f"< {show(target)}", value < target)
        return what, show(value), wanted, is_met

    onboard, auth, found = outcome["onboard"], outcome["auth"], []
    found.append(("onboarding", f"{onboard['rate']:.0f} agents/s", "", None))
    for at in ("p50", "p99"):
        found.append(of(f"onboarding, {at}", onboard[at], ms, None))
    found.append(of("onboarding, processor time each", onboard["processor"], micros, None))
    found.append(of("request without a key, processor time", auth["none"], micros, None))
    for name, what in [("key", "an agent's key"), ("token", "a capability token")]:
        found.append(of(f"more with {what}", auth[f"{name}_over_none"], micros, None))
    for name, what in [("key", "an agent's key"), ("token", "a capability token")]:
        if within := outcome.get("within"):
            cost = within[name] + within["admit"]
            found.append(of(f"within the process: {what}", cost, micros, TARGETS["auth"]))
    for name, times in outcome["find"].items():
        found.append(of(f"list {name}, p50", times["p50"], ms, TARGETS["find"]))
        found.append(of(f"list {name}, p99", times["p99"], ms, None))
    for name, seconds in outcome["ready"].items():
        found.append(of(f"ready after it was {name}", seconds, "{:.2f} s".format, TARGETS["ready"]))

    def mb(size: float) -> str:
        return f"{size / 1e6:.0f} MB"

    for name, size in outcome["memory"].items():
        target = None if name.endswith("peak") else TARGETS["memory"]
        found.append(of(f"memory, {name.replace('_', ', ')}", size, mb, target))
    found.append(of("memory, empty", outcome["empty"]["memory"], mb, None))
    found.append(of("registry on the disk", outcome["bytes"], mb, None))
    return found


def markdown(outcome: dict) -> str:
    words = {True: "met", False: "MISSED", None: ""}
    body = [[what, figure, wanted, words[met]] for what, figure, wanted, met in rows(outcome)]
    where = outcome["machine"]
    conditions = (
        f"{where['processor']}, {where['cores']} cores, {where['system']}; profile "
        f"{outcome['profile']}; {outcome['agents']} agents over {outcome['connections']} "
        f"connections; commit {outcome['commit']}; stolen by the hypervisor: "
        f"{share(outcome['stolen_share'], 1)}."
    )
    return f"{conditions}\n\n" + table([["", "measured", "wanted", ""], *body])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench-onboarding.sh", description=__doc__.split("\n\n")[0]
    )
    add = parser.add_argument
    add("--agents", type=count, default=100_000, help="so many come aboard (default 100 000)")
    add("--connections", type=count, default=16, help="connections that onboard (default 16)")
    add("--requests", type=count, default=5000, help="of each later measurement (default 5000)")
    add("--program", type=pathlib.Path, required=True, help="the node to measure")
    add("--auth-cost", type=pathlib.Path, metavar="PATH", help="the example of that name")
    add("--json", type=pathlib.Path, metavar="FILE", help="write the figures there")
    add("--work", type=pathlib.Path, default=pathlib.Path("/var/tmp"), help="a folder on a disk")
    add("--profile", default="unnamed", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = parse()
    try:
        outcome = measure(options)
    except (Failure, Refused, OSError, subprocess.TimeoutExpired) as error:
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
