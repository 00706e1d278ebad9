#!/usr/bin/env python3
"""Measures calls of agents through a node, and how fast events reach many.

Run through scripts/bench-calls.sh, which builds the programs first. The agent does nothing, so what
a call takes is the way there. Direct calls and calls through the node take turns on the same
machine; so do syncs of a page, since each paid call waits for one.
"""

import argparse
import asyncio
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from agent_client import Connection, Refused
from compare import commit, machine
from models import Failure, say
from node_process import Node

SYNCS = 200
CLIENTS = 64
SUBSCRIBERS = 100
# What is wanted: beyond a direct call and one sync; calls and deliveries a second.
BEYOND, CALLS, DELIVERIES = 0.5e-3, 2000, 50_000
CARD = {
    "name": "nothing",
    "version": "1.0.0",
    "description": "Does nothing",
    "skills": [{"id": "nothing", "name": "Nothing", "description": "Does nothing"}],
    "endpoints": [{"path": "/chat", "method": "POST"}],
    "capabilities_requested": [],
    "resources": {"max_concurrent": 1024},
    "billing": {"token_cost_per_request": 1, "category": "agent"},
    "health_endpoint": "/health",
}
# By agent, by skill, and as a chat.
KINDS = {
    "task": ("/v1/a2a/tasks", {"agent": "nothing", "input": "hello"}),
    "skill": ("/v1/a2a/tasks", {"skill": "nothing", "input": "hello"}),
    "chat": ("/v1/agents/nothing/chat", {"message": "hello"}),
}


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


class Programs:
    """The load generators."""

    def __init__(self, folder: pathlib.Path, work: pathlib.Path):
        self.folder, self.work = folder, work

    def load(self, port: int, key: str, path: str, body: dict, requests: int, clients: int) -> dict:
        bodies = self.work / "bodies"
        bodies.write_text((json.dumps(body) + "\n") * requests)
        command = [self.folder / "examples/http-load", "--address", f"127.0.0.1:{port}"]
        command += ["--path", path, "--bodies", bodies, "--connections", str(clients)]
        return self.run(command, key)

    def fan_out(self, port: int, key: str, events: int) -> dict:
        command = [self.folder / "examples/event-fanout", "--address", f"127.0.0.1:{port}"]
        command += ["--followers", str(SUBSCRIBERS), "--events", str(events)]
        command += ["--emitters", "32"]
        return self.run(command, key)

    def run(self, command: list, key: str) -> dict:
        environment = os.environ | {"AITHEROS_API_KEY": key}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failure(f"{pathlib.Path(command[0]).name}: {done.stderr.strip()}")
        return json.loads(done.stdout)


async def prepare(node: Node, agent_url: str) -> str:
    """An account with tokens, and the agent of another; returns the account's key."""
    admin = (node.data / "admin.key").read_text().strip()
    async with Connection(node.port, admin) as http:
        owner = await register(http, "owner@example.org")
        payer = await register(http, "payer@example.org")
        topup = {"account": payer["account_id"], "tokens": 1_000_000_000, "reference": "bench"}
        await http.want(200, "POST", "/v1/billing/topup", topup)
        body = {"agent_card": CARD | {"agent_url": agent_url}, "mode": "remote"}
        key = owner["api_key"]
        bundle = await http.want(201, "POST", "/v1/agents/auto-onboard", body, key)
        if bundle["state"] != "LIVE":
            raise Failure(f"the agent is {bundle['state']}")
    return payer["api_key"]


async def register(http: Connection, email: str) -> dict:
    body = {"email": email, "password": "correct horse battery"}
    return await http.want(201, "POST", "/v1/auth/register", body)


def measure(node: Node, agent_url: str, key: str, programs: Programs, options) -> dict:
    agent_port = int(agent_url.rsplit(":", 1)[1])
    direct_body = {"message": "hello"}
    found = {"rounds": [], "many": {}, "events": []}
    for number in range(options.rounds):
        say(f"round {number + 1} of {options.rounds}")
        one = {"sync": sync_seconds(programs.work)}
        direct = programs.load(agent_port, key, "/chat", direct_body, options.requests, 1)
        one["direct"] = direct["p50"]
        for kind, (path, body) in KINDS.items():
            one[kind] = programs.load(node.port, key, path, body, options.requests, 1)["p50"]
        found["rounds"].append(one)
        found["events"].append(programs.fan_out(node.port, key, options.events))
    say(f"{CLIENTS} at once")
    before = node.processor_seconds()
    path, body = KINDS["task"]
    found["many"] = programs.load(node.port, key, path, body, options.many, CLIENTS)
    found["many"]["processor"] = (node.processor_seconds() - before) / options.many
    found["many direct"] = programs.load(
        agent_port, key, "/chat", direct_body, options.many, CLIENTS
    )
    return found


def report(found: dict) -> None:
    rounds = found["rounds"]
    median = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    print(f"one after another, p50 of each round, median of {len(rounds)} rounds")
    print(f"  a sync of a page        {median['sync'] * 1e3:8.3f} ms")
    print(f"  the agent, directly     {median['direct'] * 1e3:8.3f} ms")
    for kind in KINDS:
        beyond = [one[kind] - one["direct"] - one["sync"] for one in rounds]
        beyond = statistics.median(beyond)
        print(
            f"  {kind:10} by the node  {median[kind] * 1e3:8.3f} ms: {beyond * 1e3:+.3f} ms beyond "
            f"a direct call and one sync (wanted: {BEYOND * 1e3} ms at the most)"
        )
    many, direct = found["many"], found["many direct"]
    print(
        f"{CLIENTS} at once: {many['per_second']:.0f} calls/s (wanted: {CALLS}), p50 "
        f"{many['p50'] * 1e3:.1f} ms, p99 {many['p99'] * 1e3:.1f} ms, "
        f"{many['processor'] * 1e6:.0f} us of the node's processor time each; "
        f"the agent directly: {direct['per_second']:.0f}/s"
    )
    fan_out = statistics.median(one["delivered_per_second"] for one in found["events"])
    print(f"events to {SUBSCRIBERS} subscribers: {fan_out:.0f} deliveries/s (wanted: {DELIVERIES})")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--programs", type=pathlib.Path, required=True)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--many", type=int, default=40_000)
    parser.add_argument("--events", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/var/tmp"))
    options = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="aither-bench-", dir=options.work))
    agent = subprocess.Popen(
        [options.programs / "examples/calls-agent"], stdout=subprocess.PIPE, text=True
    )
    node = Node(options.programs / "aither-node", work)
    try:
        node.start()
        agent_url = agent.stdout.readline().strip()
        key = asyncio.run(prepare(node, agent_url))
        programs = Programs(options.programs, work)
        found = measure(node, agent_url, key, programs, options)
        found |= {"machine": machine(), "commit": commit(), "profile": options.profile}
        report(found)
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n")
    finally:
        node.stop()
        agent.kill()
        agent.wait()
        shutil.rmtree(work)


if __name__ == "__main__":
    try:
        main()
    except (Failure, Refused) as failure:
        sys.exit(f"error: {failure}")
