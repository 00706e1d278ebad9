"""Memory on the real binary: what is written is there, for those who may see it and no others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import random
import resource
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import DEADLINE_SECONDS, Node, required, wait_until
from onboarding import aboard, assert_problem, card, of_tier, spawn, with_key, works
from test_agents import set_plan
from test_billing import Account, operator

MEMORY = ["memory_read", "memory_write"]
TIERS = ["working", "active", "spirit", "codegraph", "knowledge"]
ENTRY_BYTES_MAX = 1 << 20


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("memory"))
    yield node
    assert node.stop() == 0


@pytest.fixture(scope="module")
def owner(home: Node) -> Account:
    return Account(home, "memory@example.org")


def agent(node: Node, account: Account, name: str, tier: str = "orchestrator", **more):
    """The client of a new agent with memory, and its bundle."""
    asked = MEMORY if tier != "reflex" else ["memory_read"]
    more = {"capabilities_requested": asked, "billing": of_tier(tier)} | more
    bundle = aboard(account.http, card(name, **more))
    return with_key(node, bundle["api_key"]), bundle


def write(http: httpx.Client, tier: str, key: str, value, **more) -> httpx.Response:
    return http.post("/v1/memory/write", json={"tier": tier, "key": key, "value": value} | more)


def written(http: httpx.Client, tier: str, key: str, value, **more) -> int:
    """The version that a write made."""
    answer = write(http, tier, key, value, **more)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["tier"], body["key"]) == (tier, key)
    return body["version"]


def read(http: httpx.Client, tier: str, key: str, **more) -> httpx.Response:
    return http.post("/v1/memory/read", json={"tier": tier, "key": key} | more)


def delete(http: httpx.Client, tier: str, key: str, **more) -> httpx.Response:
    return http.post("/v1/memory/delete", json={"tier": tier, "key": key} | more)


def listed(http: httpx.Client, tier: str, **more) -> list[str]:
    answer = http.get("/v1/memory/list", params={"tier": tier} | more)
    assert answer.status_code == 200, answer.text
    return [item["key"] for item in answer.json()["items"]]


def refusal(answer: httpx.Response) -> tuple[int, bytes]:
    """A refusal without what tells one request from another."""
    body = answer.json()
    body.pop("request_id")
    return answer.status_code, json.dumps(body).encode()


@pytest.mark.parametrize("tier", TIERS)
def test_every_tier_keeps_any_json_value(home: Node, owner: Account, tier: str):
    http, _ = agent(home, owner, f"values-{tier}")
    values = [None, True, 0, -1.5, "", "\u00e4 \U0001f9e0", [], {}, {"a": [1, {"b": None}]}]
    for number, value in enumerate(values):
        key = f"k\u00f6/{number}"
        assert written(http, tier, key, value) == 1
        found = read(http, tier, key).json()
        assert found["value"] == value
        assert found["tier"] == tier and found["version"] == 1
        assert found["created_at"] == found["updated_at"] and found["created_at"].endswith("Z")
    assert written(http, tier, "k\u00f6/0", 7) == 2
    found = read(http, tier, "k\u00f6/0").json()
    assert found["value"] == 7 and found["created_at"] <= found["updated_at"]
    assert len(listed(http, tier, prefix="k\u00f6/")) == len(values)


def test_numbers_stay_as_they_were_written(home: Node, owner: Account):
    http, _ = agent(home, owner, "numbers")
    value = '{"b": 1.00, "a": 123456789012345678901234567890}'
    body = f'{{"tier": "spirit", "key": "n", "value": {value}}}'
    headers = {"Content-Type": "application/json"}
    assert http.post("/v1/memory/write", content=body, headers=headers).status_code == 200
    assert f'"value":{value}' in read(http, "spirit", "n").text


def test_versions_and_if_version(home: Node, owner: Account):
    http, _ = agent(home, owner, "versions")
    assert_problem(write(http, "spirit", "v", 1, if_version=1), 409, "version_conflict")
    assert written(http, "spirit", "v", 1, if_version=0) == 1
    body = assert_problem(write(http, "spirit", "v", 2, if_version=0), 409, "version_conflict")
    assert body["current_version"] == 1
    assert written(http, "spirit", "v", 2, if_version=1) == 2
    assert_problem(delete(http, "spirit", "v", if_version=1), 409, "version_conflict")
    assert read(http, "spirit", "v").json()["value"] == 2
    assert delete(http, "spirit", "v", if_version=2).status_code == 200
    assert_problem(read(http, "spirit", "v"), 404, "unknown_key")
    assert_problem(delete(http, "spirit", "v"), 404, "unknown_key")
    # What somebody believed about the old one is not true of the new one.
    assert written(http, "spirit", "v", 3) > 2


def test_of_many_who_believe_the_same_version_one_wins(home: Node, owner: Account):
    http, _ = agent(home, owner, "races")
    written(http, "active", "counter", 0)

    def add(_: int) -> None:
        while True:
            found = read(http, "active", "counter").json()
            body = {"if_version": found["version"]}
            answer = write(http, "active", "counter", found["value"] + 1, **body)
            if answer.status_code == 200:
                return
            assert_problem(answer, 409, "version_conflict")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    found = read(http, "active", "counter").json()
    assert (found["value"], found["version"]) == (40, 41)


def test_tasks_and_sessions_are_scopes_of_their_own(home: Node, owner: Account):
    http, _ = agent(home, owner, "scopes")
    for tier, name in (("working", "task_id"), ("active", "session_id")):
        for scope in (None, "a", "b"):
            more = {name: scope} if scope else {}
            assert written(http, tier, "k", f"{tier} {scope}", **more) == 1
        assert read(http, tier, "k").json()["value"] == f"{tier} None"
        # An omitted name is the scope `default`.
        assert read(http, tier, "k", **{name: "default"}).json()["value"] == f"{tier} None"
        assert read(http, tier, "k", **{name: "a"}).json()["value"] == f"{tier} a"
        assert_problem(read(http, tier, "k", **{name: "c"}), 404, "unknown_key")
    done = http.post("/v1/memory/complete-task", json={"task_id": "a"})
    assert done.json() == {"task_id": "a", "cleared": 1}
    assert_problem(read(http, "working", "k", task_id="a"), 404, "unknown_key")
    assert listed(http, "working", task_id="b") == ["k"]
    assert listed(http, "active", session_id="a") == ["k"]
    again = http.post("/v1/memory/complete-task", json={"task_id": "a"})
    assert again.json()["cleared"] == 0


def test_what_has_a_time_to_live_ends(home: Node, owner: Account):
    http, _ = agent(home, owner, "ttl")
    written(http, "active", "short", 1, ttl=0.2)
    written(http, "active", "long", 1, ttl="1h")
    found = read(http, "active", "long").json()
    assert found["expires_at"] > found["updated_at"]
    wait_until("it has ended", lambda: read(http, "active", "short").status_code == 404)
    assert listed(http, "active") == ["long"]
    assert_problem(write(http, "active", "short", 1, if_version=1), 409, "version_conflict")
    # Written again without one, it stays.
    written(http, "active", "long", 2)
    assert "expires_at" not in read(http, "active", "long").json()


def test_lists_come_in_pages(home: Node, owner: Account):
    http, _ = agent(home, owner, "lists")
    keys = sorted(f"note/{number}" for number in range(25)) + ["other"]
    for key in random.Random(1).sample(keys, len(keys)):
        written(http, "spirit", key, key, tags=["b", "a", "b"])
    found, cursor = [], {}
    while True:
        params = {"tier": "spirit", "prefix": "note/", "limit": 10} | cursor
        page = http.get("/v1/memory/list", params=params).json()
        found += page["items"]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert [item["key"] for item in found] == keys[:-1]
    assert found[0]["tags"] == ["a", "b"] and "value" not in found[0]
    assert found[0]["writer"] == "lists" and found[0]["value_bytes"] == len('"note/0"')
    for params in ({}, {"tier": "attic"}, {"tier": "spirit", "cursor": "%"}):
        assert_problem(http.get("/v1/memory/list", params=params), 422, "validation_failed")


def test_tiers_need_their_tiers(home: Node, owner: Account):
    reach = {"reflex": 1, "agent": 2, "reasoning": 4, "orchestrator": 5}
    for tier, count in reach.items():
        http, _ = agent(home, owner, f"tier-{tier}", tier)
        for number, memory in enumerate(TIERS):
            answer = read(http, memory, "nothing")
            if number < count:
                assert_problem(answer, 404, "unknown_key")
            else:
                body = assert_problem(answer, 403, "tier_forbidden")
                assert body["tier_required"] and body["capability"] == "memory_read"
                refused = http.get("/v1/memory/list", params={"tier": memory})
                assert_problem(refused, 403, "tier_forbidden")
        if tier == "reflex":
            assert_problem(write(http, "working", "k", 1), 403, "capability_missing")
            done = http.post("/v1/memory/complete-task", json={})
            assert_problem(done, 403, "capability_missing")
        elif count < 5:
            body = assert_problem(write(http, "knowledge", "k", 1), 403, "tier_forbidden")
            assert body["capability"] == "memory_write"
    for path in ("write", "read", "delete", "complete-task"):
        answer = home.http.post(f"/v1/memory/{path}", json={})
        assert answer.status_code == 401, answer.text


def test_without_the_capability_there_is_nothing(home: Node, owner: Account):
    more = {"capabilities_requested": ["memory_read"]}
    http, _ = agent(home, owner, "reader", "agent", **more)
    assert_problem(read(http, "active", "k"), 404, "unknown_key")
    assert_problem(write(http, "active", "k", 1), 403, "capability_missing")
    assert_problem(delete(http, "active", "k"), 403, "capability_missing")


# Over the canonical JSON of this entry, by the key whose seed is 32 times the byte 5.
SIGNED = {"z": ["\u00e4", 1], "a": {}}
SIGNATURE = {
    "public_key": "ed25519:6e7a1cdd29b0b78fd13af4c5598feff4ef2a97166e3ca6f2e4fbfccd80505bf1",
    "value": "c5d9697b501ba9e520837abb9f0346723ea22ba3eb60255557ce9040d26b2522"
    "d65d417523d59d685eedfe5983710dc58d41137a0de49c42c4fb208c3ba5a80a",
}


def test_knowledge_is_shared_and_says_who_wrote_it(home: Node, owner: Account):
    first, _ = agent(home, owner, "writer-1")
    stranger = Account(home, "knows@example.org")
    second, _ = agent(home, stranger, "writer-2")
    value, signature = SIGNED, SIGNATURE
    assert written(first, "knowledge", "shared", value, signature=signature) == 1
    found = read(second, "knowledge", "shared").json()
    assert found["value"] == value and found["writer"] == "writer-1"
    assert found["signature"] == signature
    for wrong in (
        signature | {"value": "00" * 64},
        signature | {"public_key": "ed25519:00"},
        {"public_key": signature["public_key"]},
    ):
        answer = write(first, "knowledge", "shared", value, signature=wrong)
        assert_problem(answer, 422, "validation_failed")
    assert_problem(
        write(first, "knowledge", "other", value, signature=signature), 422, "validation_failed"
    )
    assert written(second, "knowledge", "shared", 2) == 2
    found = read(first, "knowledge", "shared").json()
    assert found["writer"] == "writer-2" and "signature" not in found
    assert written(owner.http, "knowledge", "shared", 3) == 3
    assert read(first, "knowledge", "shared").json()["writer"] == f"account:{owner.id}"
    assert written(operator(home), "knowledge", "shared", 4) == 4


def test_accounts_agents_and_the_operator_are_apart(home: Node, owner: Account):
    http, _ = agent(home, owner, "apart")
    everybody = [http, owner.http, operator(home)]
    for number, one in enumerate(everybody):
        assert written(one, "spirit", "apart", number) == 1
    for number, one in enumerate(everybody):
        assert read(one, "spirit", "apart").json()["value"] == number


def test_sub_agents_work_within_their_tokens(home: Node, owner: Account):
    more = {"capabilities_requested": [*MEMORY, "agent_spawn"]}
    http, bundle = agent(home, owner, "parent", **more)
    for key in ("notes/1", "secret"):
        written(http, "spirit", key, "parent's")
    terms = {
        "capabilities": MEMORY,
        "memory_tiers": ["spirit", "working"],
        "key_prefixes": ["notes/"],
        "name": "child",
    }
    answer = spawn(home, bundle, **terms)
    assert answer.status_code == 201, answer.text
    child = with_key(home, answer.json()["capability_token"])
    assert read(child, "spirit", "notes/1").json()["value"] == "parent's"
    assert written(child, "spirit", "notes/2", 1) == 1
    assert read(http, "spirit", "notes/2").json()["writer"] == "parent/child"
    assert listed(child, "spirit") == ["notes/1", "notes/2"]
    assert listed(child, "spirit", prefix="notes/2") == ["notes/2"]
    assert listed(child, "spirit", prefix="secret") == []
    # What the token does not reach looks like what is not there.
    for ask in (read, delete):
        there, not_there = ask(child, "spirit", "secret"), ask(child, "spirit", "nothing")
        assert refusal(there) == refusal(not_there)
        assert there.status_code == 404
    there, not_there = write(child, "spirit", "secret", 1), write(child, "spirit", "nothing", 1)
    assert refusal(there) == refusal(not_there) and there.status_code == 403
    assert_problem(read(child, "active", "notes/1"), 403, "tier_forbidden")
    for key in ("notes/1", "other"):
        written(http, "working", key, 1)
    assert child.post("/v1/memory/complete-task", json={}).json()["cleared"] == 1
    assert listed(http, "working") == ["other"]


def test_no_scope_shows_anything_of_another(home: Node, owner: Account):
    """Hundreds of agents at once, all with the same keys."""
    count = 200

    def join(number: int) -> str:
        name = f"crowd-{number}"
        more = {"capabilities_requested": MEMORY, "billing": of_tier("orchestrator")}
        return aboard(owner.http, card(name, **more))["api_key"]

    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(join, range(count + 1)))
    own = TIERS[:-1]
    empty = with_key(home, keys[-1])
    asks = (
        [("read", {"tier": tier, "key": "same"}) for tier in own]
        + [
            ("delete", {"tier": tier, "key": "same"} | more)
            for tier in own
            for more in ({}, {"if_version": 1})
        ]
        + [("write", {"tier": tier, "key": "same", "value": 1, "if_version": 1}) for tier in own]
    )

    def answers(http: httpx.Client) -> list[tuple[int, bytes]]:
        return [refusal(http.post(f"/v1/memory/{path}", json=body)) for path, body in asks]

    before = answers(empty)

    async def live(number: int, http: httpx.AsyncClient) -> None:
        async def ask(path: str, body: dict) -> httpx.Response:
            headers = {"Authorization": f"Bearer {keys[number]}"}
            return await http.post(f"/v1/memory/{path}", json=body, headers=headers)

        for turn in (1, 2):
            for tier in own:
                body = {"tier": tier, "key": "same", "value": [number, tier, turn]}
                answer = await ask("write", body | {"if_version": turn - 1})
                assert answer.status_code == 200, answer.text
                assert answer.json()["version"] == turn
        for tier in own:
            found = (await ask("read", {"tier": tier, "key": "same"})).json()
            assert found["value"] == [number, tier, 2]
            headers = {"Authorization": f"Bearer {keys[number]}"}
            page = await http.get("/v1/memory/list", params={"tier": tier}, headers=headers)
            assert [item["key"] for item in page.json()["items"]] == ["same"]

    async def all_at_once() -> None:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(
            base_url=home.url, timeout=DEADLINE_SECONDS, limits=limits
        ) as http:
            await asyncio.gather(*(live(number, http) for number in range(count)))

    asyncio.run(all_at_once())
    # To the byte what it was told while nobody had anything.
    assert answers(empty) == before
    assert [status for status, _ in before] == [404] * 4 + [404, 409] * 4 + [409] * 4
    assert all(listed(empty, tier) == [] for tier in own)


def test_plans_bound_what_is_kept(home: Node):
    account = Account(home, "small@example.org")
    set_plan(home, account, "explorer")
    http, _ = agent(home, account, "small", "agent")
    large = "x" * (ENTRY_BYTES_MAX - 2)
    kept = 0
    while (answer := write(http, "active", f"k{kept}", large)).status_code == 200:
        kept += 1
    body = assert_problem(answer, 403, "quota_exceeded")
    assert kept == 63 and body["measure"] == "bytes"
    # How much the whole account has is not its business.
    assert "used" not in body and "allowed" not in body and str(64 << 20) not in answer.text
    # Its account has no more, and less is always possible.
    answer = write(account.http, "active", "k", large)
    body = assert_problem(answer, 403, "quota_exceeded")
    assert body["used"] <= body["allowed"] == 64 << 20
    assert written(http, "active", "k0", 1) == 2
    assert written(http, "active", "more", large) == 1
    assert delete(http, "active", "k1").status_code == 200


def test_bad_bodies_are_refused_and_change_nothing(home: Node, owner: Account):
    http, _ = agent(home, owner, "hostile")
    good = {"tier": "spirit", "key": "k", "value": 1}
    rows = [
        {"tier": None},
        {"tier": "attic"},
        {"tier": 5},
        {"key": None},
        {"key": ""},
        {"key": "k" * 513},
        {"key": "a\nb"},
        {"key": "a\x00"},
        {"key": ["k"]},
        {"ttl": 0},
        {"ttl": -5},
        {"ttl": "soon"},
        {"ttl": 1e300},
        {"ttl": {}},
        {"tags": "a"},
        {"tags": ["t"] * 17},
        {"tags": ["t" * 65]},
        {"tags": [""]},
        {"tags": [1]},
        {"if_version": -1},
        {"if_version": "1"},
        {"if_version": 1.5},
        {"signature": "x"},
    ]
    for row in rows:
        answer = http.post("/v1/memory/write", json=good | row)
        assert_problem(answer, 422, "validation_failed")
    for name, tier in (("task_id", "working"), ("session_id", "active")):
        for wrong in ("", "x" * 129, "a\nb", 7):
            answer = http.post("/v1/memory/write", json=good | {"tier": tier, name: wrong})
            assert_problem(answer, 422, "validation_failed")
    too_large = write(http, "spirit", "k", "x" * (ENTRY_BYTES_MAX - 1))
    assert_problem(too_large, 413, "value_too_large")
    far_too_large = write(http, "spirit", "k", "x" * (5 << 20))
    assert far_too_large.status_code == 413
    headers = {"Content-Type": "application/json"}
    for value in ("1e999", '"\\ud800"', "[" * 5000 + "]" * 5000, "nope", ""):
        body = f'{{"tier": "spirit", "key": "k", "value": {value}}}'
        answer = http.post("/v1/memory/write", content=body, headers=headers)
        assert answer.status_code in (400, 422), (value[:20], answer.text)
    assert listed(http, "spirit") == []
    assert written(http, "spirit", "k" * 512, "x" * (ENTRY_BYTES_MAX - 2)) == 1
    home.assert_serves()


def test_an_idempotency_key_writes_once(home: Node, owner: Account):
    http, _ = agent(home, owner, "once")
    headers = {"Idempotency-Key": "write-1"}
    body = {"tier": "spirit", "key": "k", "value": 1}
    answers = [http.post("/v1/memory/write", json=body, headers=headers).json() for _ in range(3)]
    assert [answer["version"] for answer in answers] == [1, 1, 1]
    assert read(http, "spirit", "k").json()["version"] == 1
    other = http.post("/v1/memory/write", json=body | {"value": 2}, headers=headers)
    assert_problem(other, 409, "conflict")


def test_everything_is_there_after_a_restart_but_not_what_ended(start_node: Callable[..., Node]):
    node = start_node()
    account = Account(node, "keeps@example.org")
    http, bundle = agent(node, account, "keeps")
    for tier in TIERS:
        written(http, tier, "kept", tier, tags=[tier])
    written(http, "working", "done", 1, task_id="t")
    http.post("/v1/memory/complete-task", json={"task_id": "t"})
    before = [read(http, tier, "kept").json() for tier in TIERS]
    assert node.stop() == 0
    again = start_node(directory=node.data_dir.parent)
    http = with_key(again, bundle["api_key"])
    assert [read(http, tier, "kept").json() for tier in TIERS] == before
    assert_problem(read(http, "working", "done", task_id="t"), 404, "unknown_key")
    assert written(http, "spirit", "kept", 2, if_version=1) == 2


def kill_under_load(node: Node, key: str, prefix: str) -> None:
    """Kills the node while eight clients write, and looks for what they were told is written."""
    acknowledged: dict[str, int] = {}
    stopped = threading.Event()

    def load(worker: int) -> None:
        http = with_key(node, key)
        number = 0
        while not stopped.is_set():
            name = f"{prefix}/{worker}/{number % 7}"
            try:
                answer = write(http, "active", name, number)
            except httpx.HTTPError:
                return
            assert answer.status_code == 200, answer.text
            acknowledged[name] = number
            number += 1

    workers = [threading.Thread(target=load, args=(worker,)) for worker in range(8)]
    for worker in workers:
        worker.start()
    wait_until("there is load", lambda: len(acknowledged) == 56)
    node.restart()
    stopped.set()
    for worker in workers:
        worker.join()
    http = with_key(node, key)
    for name, number in acknowledged.items():
        found = read(http, "active", name).json()
        # The write after it may have been done, and its answer not have come.
        assert found["value"] in (number, number + 7), name


def test_what_was_acknowledged_survives_a_kill(start_node: Callable[..., Node]):
    node = start_node()
    account = Account(node, "killed@example.org")
    http, bundle = agent(node, account, "killed")
    for number in range(3):
        kill_under_load(node, bundle["api_key"], f"round-{number}")
    assert node.stop() == 0
    assert command(node, "check").returncode == 0


def command(node: Node, *args: str) -> subprocess.CompletedProcess:
    words = [required("AITHER_NODE_BIN"), *args, "--data-dir", str(node.data_dir)]
    return subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_SECONDS)


def holds(directory: pathlib.Path, marker: bytes) -> list[str]:
    """The files that have a text anywhere, in the node's directory."""
    found = []
    for path in directory.rglob("*"):
        # Some come and go while the node runs.
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and marker in path.read_bytes():
                found.append(path.name)
    return found


def test_a_purge_leaves_nothing_of_an_agent(start_node: Callable[..., Node]):
    node = start_node()
    account = Account(node, "purges@example.org")
    leaves, bundle = agent(node, account, "leaves")
    stays, _ = agent(node, account, "stays")
    marker = b"Zq7MARKERx"
    text = marker.decode()
    for number in range(120):
        for http, word in ((leaves, text), (stays, "other")):
            more = {"session_id": f"{word}-session", "tags": [f"{word}-tag"]}
            value = {"text": f"{word} {number} " + "pad " * number}
            written(http, "active", f"{word}/{number}", value, **more)
    for number in range(0, 120, 3):
        assert delete(leaves, "active", f"{text}/{number}", session_id=f"{text}-session")
    assert "memory.redb" in holds(node.data_dir, marker)
    kept = account.http.delete("/v1/agents/leaves")
    assert kept.status_code == 204
    assert "memory.redb" in holds(node.data_dir, marker)
    purged = account.http.delete("/v1/agents/leaves", params={"purge": "true"})
    assert purged.status_code == 204, purged.text
    assert holds(node.data_dir, marker) == []
    assert len(listed(stays, "active", session_id="other-session", limit=500)) == 120
    # The name is free, and whoever has it next begins with nothing.
    http, again = agent(node, account, "leaves")
    assert again["agent_id"] != bundle["agent_id"]
    assert listed(http, "active", session_id=f"{text}-session") == []
    assert node.stop() == 0
    assert holds(node.data_dir, marker) == []
    checked = command(node, "check")
    assert checked.returncode == 0 and "120 entries good" in checked.stdout, checked


def test_a_purge_that_is_killed_is_finished_or_has_not_begun(start_node: Callable[..., Node]):
    node = start_node()
    account = Account(node, "killed-purge@example.org")
    agent(node, account, "stays")
    rng = random.Random(7)
    for turn in range(4):
        http, bundle = agent(node, account, f"leaves-{turn}")
        marker = f"Zq7MARKER{turn}x"
        for number in range(20):
            written(http, "active", f"{marker}/{number}", marker * 5000)

        def purge(name: str = bundle["agent_name"]) -> None:
            with contextlib.suppress(httpx.HTTPError):
                account.http.delete(f"/v1/agents/{name}", params={"purge": "true"})

        asking = threading.Thread(target=purge)
        asking.start()
        asking.join(timeout=rng.uniform(0, 0.08))
        node.restart()
        asking.join()
        account.http.base_url = node.url
        # What was begun is done by the new start, if it was noted before.
        wait_until(
            "it is whole or gone",
            lambda marker=marker, bundle=bundle: (
                holds(node.data_dir, marker.encode()) == []
                if not works(node, bundle["api_key"])
                else len(listed(with_key(node, bundle["api_key"]), "active")) == 20
            ),
        )
    assert node.stop() == 0
    assert command(node, "check").returncode == 0


def test_a_backup_has_what_agents_remember(start_node: Callable[..., Node], tmp_path):
    node = start_node()
    account = Account(node, "backup@example.org")
    http, bundle = agent(node, account, "backed-up")
    written(http, "spirit", "k", "before")
    file = tmp_path / "backup.zip"
    assert command(node, "backup", str(file)).returncode == 0
    written(http, "spirit", "k", "after")
    assert node.stop() == 0
    restored = command(node, "restore", str(file))
    assert restored.returncode == 0 and "memory.redb" in restored.stdout, restored
    again = start_node(directory=node.data_dir.parent)
    found = read(with_key(again, bundle["api_key"]), "spirit", "k").json()
    assert (found["value"], found["version"]) == ("before", 1)


def test_a_full_disk_is_told_and_what_is_there_can_be_read(start_node: Callable[..., Node]):
    node = start_node()
    http = operator(node)
    written(http, "spirit", "first", "x" * 5000)
    used = max(path.stat().st_size for path in node.data_dir.glob("*.redb"))
    limits = (used, resource.RLIM_INFINITY)
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, limits)
    stopped = threading.Event()

    def reads() -> list[int]:
        http = operator(node)
        statuses = []
        # Once at least when the disk was full, however fast that was.
        while not stopped.is_set() or not statuses:
            statuses.append(read(http, "spirit", "first").status_code)
        return statuses

    number = 0
    with ThreadPoolExecutor(4) as pool:
        reading = [pool.submit(reads) for _ in range(4)]
        while (answer := write(http, "spirit", f"k{number}", "x" * 50_000)).status_code == 200:
            number += 1
        for _ in range(5):
            assert write(http, "spirit", "more", "x" * 50_000).status_code == 507
        stopped.set()
        assert {status for done in reading for status in done.result()} == {200}
    body = assert_problem(answer, 507, "insufficient_storage")
    assert str(node.data_dir) not in body["detail"]
    assert read(http, "spirit", "first").json()["value"] == "x" * 5000
    assert all(read(http, "spirit", f"k{done}").status_code == 200 for done in range(number))
    assert read(http, "spirit", f"k{number}").status_code == 404
    assert node.http.get("/health").status_code == 200
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert written(http, "spirit", f"k{number}", 1) == 1
    assert node.stop() == 0
    checked = command(node, "check")
    assert checked.returncode == 0 and f"{number + 2} entries good" in checked.stdout, checked


def test_a_damaged_file_is_told(start_node: Callable[..., Node]):
    node = start_node()
    http = operator(node)
    for number in range(50):
        written(http, "spirit", f"k{number}", "x" * 2000)
    assert node.stop() == 0
    file = node.data_dir / "memory.redb"
    content = bytearray(file.read_bytes())
    place = content.index(b"x" * 500)
    content[place : place + 100] = b"y" * 100
    file.write_bytes(content)
    checked = command(node, "check")
    assert checked.returncode == 4 and "memory.redb" in checked.stderr, checked


def test_the_command_line_reads_what_it_wrote(home: Node):
    def cli(*args: str, code: int = 0, stdin: str | None = None) -> str:
        words = [required("AITHER_CLI_BIN"), "memory", *args, "--server", home.url]
        run = subprocess.run(
            words,
            capture_output=True,
            text=True,
            input=stdin,
            env={"AITHEROS_API_KEY": home.key},
            timeout=DEADLINE_SECONDS,
        )
        assert run.returncode == code, run.stderr
        return run.stdout

    cli("write", "working", "cli/a", '{"n": 1}', "--task", "t", "--tag", "x")
    cli("write", "working", "cli/b", "--task", "t", stdin="some words\n")
    assert cli("read", "working", "cli/a", "--task", "t") == '{"n":1}\n'
    assert cli("read", "working", "cli/b", "--task", "t") == "some words\n"
    assert len(cli("ls", "working", "cli/", "--task", "t").splitlines()) == 3
    assert json.loads(cli("read", "working", "cli/b", "--task", "t", "--json"))["version"] == 1
    cli("write", "working", "cli/b", "1", "--task", "t", "--if-version", "7", code=1)
    cli("rm", "working", "cli/b", "--task", "t")
    cli("read", "working", "cli/b", "--task", "t", code=1)
