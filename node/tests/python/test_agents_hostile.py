"""Agents that lie: cards that are wrong in every way, and keys and tokens that are not theirs."""

from __future__ import annotations

import base64
import json
import pathlib
import random
from collections import Counter
from collections.abc import Callable, Iterator

import httpx
import pytest
from conftest import Node, wait_until
from onboarding import (
    PROMPT,
    aboard,
    assert_problem,
    card,
    of_tier,
    onboard,
    spawn,
    with_key,
    works,
)
from test_billing import Account
from wrong_cards import FULL, Wrong, walk, without_both

SCHEMA_FILE = "protocol/testdata/v1/agent-card.schema.json"
SEED = 20_200
TOKEN_PREFIX = "aither_ct_"
HEADER_BYTES, MAC_BYTES = 37, 32


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("hostile"))
    yield node
    assert node.stop() == 0


@pytest.fixture(scope="module")
def owner(home: Node) -> Account:
    return Account(home, "hostile@example.org")


@pytest.fixture(scope="module")
def schema(home: Node) -> dict:
    answer = home.http.get("/v1/schemas/agent-card.json")
    if answer.status_code == 200:
        return answer.json()
    return json.loads((pathlib.Path(__file__).parents[3] / SCHEMA_FILE).read_text())


@pytest.fixture(scope="module")
def wrong(schema: dict) -> list[Wrong]:
    return [*walk(schema), *without_both()]


@pytest.fixture(scope="module")
def boss(home: Node, owner: Account) -> dict:
    """An agent that may spawn others."""
    wishes = ["llm_inference", "llm_embed", "memory_read", "agent_spawn"]
    billing = of_tier("orchestrator")
    return aboard(owner.http, card("boss", billing=billing, capabilities_requested=wishes))


def fields_of(answer: httpx.Response) -> set[str]:
    return {error["field"] for error in answer.json()["errors"]}


def test_the_full_card_is_right_and_has_every_field(owner: Account, schema: dict):
    def names(schema: dict) -> dict:
        if "items" in schema:
            return names(schema["items"])
        return {k: names(inner) for k, inner in schema.get("properties", {}).items()}

    def has(value: object) -> dict:
        if isinstance(value, list):
            return has(value[0])
        return {k: has(v) for k, v in value.items()} if isinstance(value, dict) else {}

    assert has(FULL) == names(schema)
    aboard(owner.http, FULL | {"name": "whole"})


def test_each_field_is_refused_by_its_path_in_every_way(
    home: Node, owner: Account, wrong: list[Wrong]
):
    bundle = aboard(owner.http, FULL | {"version": "1.0.0"})
    agent = with_key(home, bundle["api_key"])
    before = owner.http.get("/v1/agents/broken").json()
    assert len(wrong) > 500 and len({one.path for one in wrong}) >= 38
    failures = []
    for one in wrong:
        for answer in (
            onboard(owner.http, one.card),
            agent.put("/v1/agents/broken/card", json=one.card),
        ):
            is_refused = answer.status_code == 422 and answer.json()["code"] == "invalid_spec"
            if not is_refused or one.path not in fields_of(answer):
                failures.append((one.path, one.what, answer.status_code, answer.text[:200]))
    assert failures == []
    assert owner.http.get("/v1/agents/broken").json() == before
    names = [agent["name"] for agent in owner.http.get("/v1/agents").json()["items"]]
    assert set(names) <= {"whole", "broken", "boss"}


def test_all_that_is_wrong_is_told_at_once(owner: Account, wrong: list[Wrong]):
    rng = random.Random(SEED)
    for _ in range(100):
        chosen = rng.sample(wrong, 6)
        # Each in a branch of its own, lest one cover another; either spelling is one branch.
        tops = {one.path.split(".")[0].split("[")[0]: one for one in chosen}
        if {"health", "health_endpoint"} <= tops.keys():
            del tops["health"]
        if {"capabilities", "capabilities_requested"} <= tops.keys():
            del tops["capabilities"]
        broken = dict(FULL)
        for top, one in tops.items():
            if top in one.card:
                broken[top] = one.card[top]
            else:
                del broken[top]
        for top, one in tops.items():
            if one.what == "missing" and top == one.path:
                # Its other spelling has it.
                spare = {"capabilities_requested": "capabilities", "health_endpoint": "health"}
                broken.pop(spare.get(top), None)
        answer = onboard(owner.http, broken)
        assert answer.status_code == 422, (SEED, broken)
        missing = {one.path for one in tops.values()} - fields_of(answer)
        assert not missing, (SEED, missing, broken, answer.text)


def post(owner: Account, content: bytes) -> httpx.Response:
    headers = {"Content-Type": "application/json"}
    return owner.http.post("/v1/agents/auto-onboard", content=content, headers=headers)


def body_with(field: str) -> bytes:
    """A body whose card has a field more, as it is written."""
    about = json.dumps(card("odd"))
    return f'{{"mode": "hybrid", "agent_card": {about[:-1]}, {field}}}}}'.encode()


def test_what_is_no_json_is_malformed(owner: Account):
    for content in [
        b"",
        b"{",
        b"[]",
        b'"card"',
        b"null",
        body_with('"x": NaN'),
        body_with('"x": Infinity'),
        body_with('"x": 1e999999'),
        body_with('"x": "\\ud800"'),
        body_with('"x": 01'),
        body_with('"x": 1').replace(b"odd", b"o\xff\xfed"),
        body_with('"x": ' + "[" * 100_000 + "]" * 100_000),
        body_with('"x": 1') + b"{}",
    ]:
        answer = post(owner, content)
        assert answer.status_code in (400, 422), (content[:80], answer.text)
        assert answer.json()["status"] == answer.status_code
    for content in (b"{}", b'{"mode": "hybrid"}', b'{"agent_card": {}, "mode": 7}'):
        assert post(owner, content).status_code == 422, content
    assert owner.http.get("/v1/agents/odd").status_code == 404


def test_deep_and_large_cards_are_refused(owner: Account):
    deep = body_with('"x": ' + "[" * 40 + "]" * 40)
    assert assert_problem(post(owner, deep), 422, "invalid_spec")
    assert assert_problem(post(owner, body_with(f'"x": "{"a" * 66_000}"')), 422, "invalid_spec")
    large = body_with(f'"x": "{"a" * (10 << 20)}"')
    assert_problem(post(owner, large), 413, "payload_too_large")
    assert owner.http.get("/v1/agents/odd").status_code == 404


def test_a_key_that_stands_twice_has_one_meaning(owner: Account):
    twice = body_with('"x": 1').replace(b'"mode": "hybrid"', b'"mode": "hybrid", "mode": "remote"')
    assert post(owner, twice).status_code == 422
    answer = post(owner, body_with('"name": "odder"'))
    if answer.status_code == 201:
        # As nearly every reader has it, the last one counts, for all that is said and signed.
        assert answer.json()["agent_name"] == "odder"
        assert owner.http.get("/v1/agents/odder").json()["card"]["name"] == "odder"
    else:
        assert answer.status_code == 422
    assert owner.http.get("/v1/agents/odd").status_code == 404


def test_what_is_unknown_is_ignored(owner: Account):
    bundle = aboard(owner.http, card("novel", invented={"by": ["tomorrow"]}, author=None))
    shown = owner.http.get("/v1/agents/novel").json()["card"]
    assert bundle["agent_name"] == "novel" and "invented" not in shown


def bytes_of(token: str) -> bytes:
    text = token.removeprefix(TOKEN_PREFIX)
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def token_of(content: bytes) -> str:
    return TOKEN_PREFIX + base64.urlsafe_b64encode(content).decode().rstrip("=")


def caveats_of(content: bytes) -> list[bytes]:
    """The caveats of a token: kind, length in two bytes, value."""
    rest, caveats = content[HEADER_BYTES:-MAC_BYTES], []
    while rest:
        length = 3 + int.from_bytes(rest[1:3], "big")
        caveats.append(rest[:length])
        rest = rest[length:]
    return caveats


def with_caveats(content: bytes, caveats: list[bytes]) -> str:
    return token_of(content[:HEADER_BYTES] + b"".join(caveats) + content[-MAC_BYTES:])


@pytest.fixture(scope="module")
def narrowed(home: Node, boss: dict) -> str:
    """A sub-agent's token, narrowed from its parent's."""
    token = boss["capability_token"]
    answer = spawn(home, boss, token, expires="1h", name="helper", memory_tiers=["working"])
    assert answer.status_code == 201, answer.text
    return answer.json()["capability_token"]


def assert_unauthorized(node: Node, key: str, why: object) -> None:
    answer = with_key(node, key).get("/v1/auth/me")
    assert answer.status_code == 401, (why, answer.text)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert key not in answer.text


def test_a_token_with_any_bit_changed_is_401(home: Node, narrowed: str):
    assert works(home, narrowed)
    content = bytes_of(narrowed)
    assert token_of(content) == narrowed
    rng = random.Random(SEED)
    for bit in sorted(rng.sample(range(len(content) * 8), 400)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        assert_unauthorized(home, token_of(bytes(changed)), (SEED, bit))


def test_a_token_cut_or_lengthened_is_401(home: Node, narrowed: str):
    content = bytes_of(narrowed)
    for length in range(len(content)):
        assert_unauthorized(home, token_of(content[:length]), length)
    for text in [
        narrowed + "A",
        narrowed + "=",
        narrowed[:-1],
        narrowed.swapcase(),
        TOKEN_PREFIX,
        token_of(content + b"\0"),
        token_of(content * 20),
        TOKEN_PREFIX + "A" * 6_000,
    ]:
        assert_unauthorized(home, text, text[:80])


def test_a_token_with_other_caveats_is_401(home: Node, boss: dict, narrowed: str):
    content = bytes_of(narrowed)
    caveats = caveats_of(content)
    kinds = [caveat[0] for caveat in caveats]
    assert with_caveats(content, caveats) == narrowed and Counter(kinds)[1] == 2
    for gone in range(len(caveats)):
        rest = caveats[:gone] + caveats[gone + 1 :]
        assert_unauthorized(home, with_caveats(content, rest), ("without", gone))
        twice = caveats[: gone + 1] + caveats[gone:]
        assert_unauthorized(home, with_caveats(content, twice), ("twice", gone))
    for first in range(len(caveats) - 1):
        swapped = caveats[:first] + [caveats[first + 1], caveats[first]] + caveats[first + 2 :]
        if swapped != caveats:
            assert_unauthorized(home, with_caveats(content, swapped), ("swapped", first))
    all_of_them = b"\x01\x00\x04" + (2**16 - 1).to_bytes(4, "big")
    forever = b"\x04\x00\x08" + (2**63).to_bytes(8, "big")
    for kind, wider in [(1, all_of_them), (3, b"\x03\x00\x01\x04"), (4, forever)]:
        changed = [wider if caveat[0] == kind else caveat for caveat in caveats]
        if changed != caveats:
            assert_unauthorized(home, with_caveats(content, changed), ("widened", kind))
    # Its parent's caveats or MAC are no help to whoever holds only the child.
    parent = bytes_of(boss["capability_token"])
    for mixed in (
        parent[:-MAC_BYTES] + content[-MAC_BYTES:],
        content[:-MAC_BYTES] + parent[-MAC_BYTES:],
        content[:-MAC_BYTES] + bytes(MAC_BYTES),
    ):
        assert_unauthorized(home, token_of(mixed), "mixed")


def test_a_token_of_another_agent_or_node_is_401(
    home: Node, owner: Account, boss: dict, start_node: Callable[..., Node]
):
    other = aboard(owner.http, card("other"))
    mine, theirs = (bytes_of(bundle["capability_token"]) for bundle in (boss, other))
    assert_unauthorized(home, token_of(mine[:21] + theirs[21:37] + mine[37:]), "another agent")
    away = start_node()
    bundle = aboard(Account(away, "away@example.org").http, card("boss"))
    for key in (bundle["api_key"], bundle["capability_token"]):
        assert works(away, key)
        assert_unauthorized(home, key, "another node")
    assert_unauthorized(away, boss["capability_token"], "another node")


def test_a_token_dies_with_its_time(home: Node, boss: dict):
    dead = spawn(home, boss, expires="0s").json()["capability_token"]
    assert_unauthorized(home, dead, "expired")
    brief = spawn(home, boss, expires="2s").json()
    assert brief["expires_at"]
    wait_until("it has expired", lambda: not works(home, brief["capability_token"]))
    for expires in ("", "soon", "-1s", "1000000y", 3600):
        assert spawn(home, boss, expires=expires).status_code == 422, expires


def test_a_revoked_token_takes_those_below_it_along(home: Node, owner: Account, boss: dict):
    may_spawn = ["llm_inference", "agent_spawn"]
    first, second = (spawn(home, boss, capabilities=may_spawn).json() for _ in range(2))
    child = spawn(home, boss, first["capability_token"], capabilities=may_spawn).json()
    grandchild = spawn(home, boss, child["capability_token"]).json()
    chain = [one["capability_token"] for one in (first, child, grandchild, second)]
    assert [works(home, token) for token in chain] == [True] * 4
    path = "/v1/agents/boss/tokens"
    assert owner.http.delete(f"{path}/{child['token_id']}").status_code == 204
    assert [works(home, token) for token in chain] == [True, False, False, True]
    agent = with_key(home, boss["api_key"])
    assert agent.delete(f"{path}/{first['token_id']}").status_code == 204
    assert [works(home, token) for token in chain] == [False, False, False, True]
    assert agent.delete(f"{path}/nonsense").status_code == 422
    stranger = Account(home, "revoker@example.org")
    answer = stranger.http.delete(f"{path}/{second['token_id']}")
    assert_problem(answer, 404, "unknown_agent")
    assert works(home, chain[3])


def test_a_sub_agent_gets_no_more_than_its_parent(home: Node, boss: dict):
    answer = spawn(home, boss, capabilities=["web_search"])
    assert assert_problem(answer, 403, "capability_missing")["capability"] == "web_search"
    token = spawn(home, boss, capabilities=["llm_inference"]).json()["capability_token"]
    http = with_key(home, token)
    assert http.post("/v1/llm/generate", json=PROMPT).status_code == 200
    answer = http.post("/v1/llm/embed", json={"text": "Hi"})
    assert assert_problem(answer, 403, "capability_missing")["capability"] == "llm_embed"
    assert_problem(spawn(home, boss, token), 403, "capability_missing")
    may_spawn = spawn(home, boss, capabilities=["agent_spawn"]).json()["capability_token"]
    answer = spawn(home, boss, may_spawn, capabilities=["llm_inference"])
    assert_problem(answer, 403, "capability_missing")
    for terms in [
        {"capabilities": ["everything"]},
        {"capabilities": "llm_inference"},
        {"capabilities": None},
        {"max_spend": -1},
        {"max_spend": 1e18},
        {"max_spend": "1"},
        {"name": "No Such Name"},
        {"name": ""},
        {"memory_tiers": ["attic"]},
        {"key_prefixes": ["a"] * 17},
        {"key_prefixes": [""]},
        {"key_prefixes": ["a" * 600]},
        {"skills": ["a" * 100]},
        {"skills": ["\n"]},
    ]:
        assert spawn(home, boss, **terms).status_code == 422, terms


def test_a_sub_agent_spends_its_allowance_and_no_more(home: Node, owner: Account, boss: dict):
    def ask(token: str) -> httpx.Response:
        return with_key(home, token).post("/v1/llm/generate", json=PROMPT)

    def usage() -> dict:
        return owner.http.get("/v1/billing/usage").json()["by_agent"]

    free = spawn(home, boss).json()["capability_token"]
    cost = float(ask(free).headers["x-aither-cost"])
    asked = usage()["boss"]["requests"]
    answer = spawn(home, boss, max_spend=round(cost * 2.5, 6), name="thrifty")
    thrifty = answer.json()["capability_token"]
    before = owner.tokens()
    answers = [ask(thrifty) for _ in range(4)]
    paid = [answer for answer in answers if answer.status_code == 200]
    assert 1 <= len(paid) <= 2
    for answer in answers[len(paid) :]:
        assert_problem(answer, 402, "insufficient_tokens")
    spent = sum(round(float(answer.headers["x-aither-cost"]) * 1e6) for answer in paid)
    assert int((before - owner.tokens()) * 1_000_000) == spent <= cost * 2.5e6
    # Under its parent's name: a holder could make up any number of them.
    by_agent = usage()
    assert by_agent.keys() == {"boss"} and by_agent["boss"]["requests"] == asked + len(paid)
    assert ask(free).status_code == 200


def test_two_keys_or_an_odd_header_are_401(home: Node, owner: Account, boss: dict):
    key, token = boss["api_key"], boss["capability_token"]
    for values in [
        [f"Bearer {key}", f"Bearer {key}"],
        [f"Bearer {key}", f"Bearer {token}"],
        [f"Bearer {key}", "Basic YTpi"],
        [f"Bearer {key}, Bearer {token}"],
        [f"Bearer {key} {token}"],
        [f"Basic {key}"],
        [key],
        ["Bearer"],
        [""],
        [f"Bearer {key}x"],
        [f"Bearer {key[:-1]}"],
        [f"Bearer {key.upper()}"],
        [f"Bearer {owner.key.replace('aither_sk_', 'aither_ak_')}"],
        [f"Bearer {key.replace('aither_ak_', 'aither_sk_')}"],
        ["Bearer \xff\xfe"],
    ]:
        headers = [("Authorization", value.encode("latin-1")) for value in values]
        answer = home.http.get("/v1/auth/me", headers=headers)
        assert answer.status_code == 401, values
        assert key not in answer.text
