"""Agents on the real binary: coming aboard, working, being managed, leaving."""

from __future__ import annotations

import asyncio
import json
import pathlib
import re
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import httpx
import pytest
from conftest import DEADLINE_SECONDS, MODEL, Node, wait_until
from onboarding import (
    BUNDLE,
    PROMPT,
    aboard,
    agent_server,
    assert_problem,
    card,
    free_port,
    of_tier,
    onboard,
    spawn,
    with_key,
    works,
)
from test_billing import Account, operator, run

# As agents' authors know it from the platform's own documentation.
ALIAS = "llama3.1:8b"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("agents"))
    yield node
    assert node.stop() == 0


@pytest.fixture(scope="module")
def owner(home: Node) -> Account:
    return Account(home, "owner@example.org")


@pytest.fixture(scope="module")
def stranger(home: Node) -> Account:
    return Account(home, "stranger@example.org")


def set_plan(node: Node, account: Account, plan: str) -> None:
    answer = operator(node).patch(f"/v1/admin/accounts/{account.id}", json={"plan": plan})
    assert answer.status_code == 200, answer.text


def state_of(account: Account, name: str) -> str:
    return account.http.get(f"/v1/agents/{name}").json()["state"]


def test_a_new_agent_gets_all_that_it_needs(home: Node, owner: Account):
    answer = onboard(owner.http, card("bundled"), "remote")
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    bundle = answer.json()
    assert bundle.keys() >= BUNDLE.keys()
    for group, names in BUNDLE.items():
        if names is not None:
            assert bundle[group].keys() >= names, group
            for name in names:
                assert bundle[group][name].startswith(f"{home.url}/"), (group, name)
    assert (bundle["agent_name"], bundle["mode"]) == ("bundled", "remote")
    assert bundle["api_key"].startswith("aither_ak_") and len(bundle["agent_id"]) == 26
    assert re.fullmatch("ed25519:[0-9a-f]{64}", bundle["public_key"])
    assert set(bundle["capabilities"]) == {"llm_inference", "event_emit", "agent_call"}
    for key in (bundle["api_key"], bundle["capability_token"]):
        me = with_key(home, key).get("/v1/auth/me").json()
        assert me["account_id"] == owner.id and me["agent_id"] == bundle["agent_id"]


def test_addresses_begin_with_what_the_client_wrote(home: Node, owner: Account):
    body = {"agent_card": card("hosted"), "mode": "hybrid"}

    def ask(host: str) -> httpx.Response:
        # A connection each: one whose request is refused before its body has come is closed.
        headers = {"Authorization": owner.http.headers["Authorization"], "Host": host}
        address = f"{home.url}/v1/agents/auto-onboard"
        return httpx.post(address, json=body, headers=headers, timeout=DEADLINE_SECONDS)

    bundle = ask("node.example.org:4242").json()
    found = re.findall(r'"(http[^"]*)"', json.dumps(bundle))
    assert len(found) >= 15
    assert [url for url in found if not url.startswith("http://node.example.org:4242/")] == []
    for host in ("evil.example/path", "a b", "<script>", "x" * 300):
        assert ask(host).status_code == 400, host


def test_a_known_agent_gets_a_fresh_key_and_keeps_five(home: Node, owner: Account):
    bundles = [aboard(owner.http, card("again"))]
    for _ in range(5):
        answer = onboard(owner.http, card("again"))
        assert answer.status_code == 200, answer.text
        bundles.append(answer.json())
    assert len({bundle["agent_id"] for bundle in bundles}) == 1
    assert len({bundle["public_key"] for bundle in bundles}) == 1
    keys = [bundle["api_key"] for bundle in bundles]
    assert [works(home, key) for key in keys] == [False, True, True, True, True, True]
    fresh = with_key(home, keys[-1]).post("/v1/agents/again/rotate-key")
    assert fresh.status_code == 200 and fresh.headers["cache-control"] == "no-store"
    tokens = [bundle["capability_token"] for bundle in bundles]
    assert [works(home, key) for key in keys + tokens] == [False] * 12
    assert works(home, fresh.json()["api_key"])


def test_many_at_once_come_aboard_each_once(home: Node, owner: Account):
    with ThreadPoolExecutor(8) as pool:
        cards = [card("crowd-0")] * 4 + [card(f"crowd-{number}") for number in range(1, 5)]
        answers = list(pool.map(lambda one: onboard(owner.http, one), cards))
    assert sorted(answer.status_code for answer in answers[:4]) == [200, 200, 200, 201]
    assert [answer.status_code for answer in answers[4:]] == [201] * 4
    assert all(works(home, answer.json()["api_key"]) for answer in answers)


async def come_aboard_and_ask(server: str, key: str) -> tuple[dict, httpx.Response]:
    """What the platform's example does, up to its first inference."""
    about = {
        "name": "my-research-bot",
        "version": "1.0.0",
        "description": "AI research assistant",
        "skills": [
            {
                "id": "research",
                "name": "Research",
                "description": "Deep research on any topic",
                "tags": ["research", "analysis"],
                "examples": ["Research quantum computing trends"],
            }
        ],
        "endpoints": [
            {"path": "/chat", "method": "POST", "description": "Chat"},
            {"path": "/health", "method": "GET", "description": "Health"},
        ],
        "capabilities_requested": ["llm_inference", "memory_read", "memory_write", "web_search"],
        "resources": {"model": ALIAS},
        "billing": {"token_cost_per_request": 3, "category": "agent"},
        "health_endpoint": "/health",
        "self_hosted": True,
    }
    # With its own five seconds, after which it gives up.
    async with httpx.AsyncClient() as http:
        answer = await http.post(
            f"{server}/v1/agents/auto-onboard",
            json={"agent_card": about, "mode": "hybrid"},
            headers={"Authorization": f"Bearer {key}"},
        )
    bundle = answer.json()
    # How long a model thinks is the machine's matter.
    async with httpx.AsyncClient(timeout=DEADLINE_SECONDS) as http:
        answer = await http.post(
            bundle["inference_endpoints"]["llm"],
            json={"prompt": "Summarize quantum computing", "model": ALIAS},
            headers={"Authorization": f"Bearer {bundle['api_key']}"},
        )
    return bundle, answer


def test_the_platforms_example_runs_and_its_owner_pays(home: Node):
    account = Account(home, "example@example.org")
    before = account.tokens()
    bundle, answer = asyncio.run(come_aboard_and_ask(home.url, account.key))
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"] and answer.json()["model"] == MODEL
    cost = Decimal(answer.headers["x-aither-cost"])
    assert 0 < cost == before - account.tokens()
    usage = account.http.get("/v1/billing/usage").json()
    assert usage["by_agent"].keys() == {"my-research-bot"}
    of_agent = usage["by_agent"]["my-research-bot"]
    assert of_agent["requests"] == 1 and Decimal(str(of_agent["tokens"])) == cost
    seen = with_key(home, bundle["api_key"]).get("/v1/billing/balance").json()
    assert Decimal(str(seen["tokens"])) == account.tokens()


def test_connection_info_is_the_bundle_without_its_secrets(
    home: Node, owner: Account, stranger: Account
):
    bundle = aboard(owner.http, card("informed"))
    secrets = {"api_key", "capability_token"}
    path = bundle["management"]["connection_info"]
    for key in (bundle["api_key"], owner.key, home.key):
        answer = with_key(home, key).get(path)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {k: v for k, v in bundle.items() if k not in secrets}
        assert not re.search("aither_(ak|ct)_[A-Za-z0-9]", answer.text)
    assert_problem(stranger.http.get(path), 404, "unknown_agent")
    other = aboard(stranger.http, card("curious"))
    assert_problem(with_key(home, other["api_key"]).get(path), 404, "unknown_agent")


def test_a_card_is_replaced_by_a_newer_one(home: Node, owner: Account, stranger: Account):
    bundle = aboard(owner.http, card("grown"))
    agent, path = with_key(home, bundle["api_key"]), "/v1/agents/grown/card"
    skill = {"id": "sing", "name": "Sing", "description": "Sings"}
    newer = card("grown", version="1.1.0", skills=[skill])
    answer = agent.put(path, json=newer)
    assert answer.status_code == 200, answer.text
    for version in ("1.1.0", "1.1.0+build", "1.1.0-rc.1", "1.0.9"):
        assert_problem(agent.put(path, json=newer | {"version": version}), 409, "conflict")
    problem = agent.put(path, json=card("shrunk", version="2.0.0"))
    assert_problem(problem, 422, "validation_failed")
    assert_problem(
        stranger.http.put(path, json=card("grown", version="9.0.0")), 404, "unknown_agent"
    )
    shown = stranger.http.get("/v1/agents/grown").json()
    assert shown["version"] == "1.1.0" and [s["id"] for s in shown["skills"]] == ["sing"]
    assert shown["card"]["signatures"] and shown["card"]["version"] == "1.1.0"
    found = owner.http.get("/v1/agents", params={"skill": "sing"}).json()["items"]
    assert [agent["name"] for agent in found] == ["grown"]
    assert works(home, bundle["api_key"])


def test_a_lower_version_and_a_taken_name_conflict(owner: Account, stranger: Account):
    aboard(owner.http, card("mine", version="2.0.0"))
    assert_problem(onboard(owner.http, card("mine", version="1.9.9")), 409, "conflict")
    assert_problem(onboard(stranger.http, card("mine", version="3.0.0")), 409, "conflict")
    assert onboard(owner.http, card("mine", version="2.0.1")).status_code == 200


def test_the_node_runs_no_agents_itself(owner: Account):
    assert_problem(onboard(owner.http, card("kept"), "managed"), 501, "not_available")
    assert onboard(owner.http, card("kept"), "leased").status_code == 422
    assert owner.http.get("/v1/agents/kept").status_code == 404


def test_a_tier_bounds_what_its_agents_may(home: Node, owner: Account):
    wishes = ["llm_inference", "code_read", "agent_spawn"]
    wanting = card("wanting", capabilities_requested=wishes)
    problem = assert_problem(onboard(owner.http, wanting), 403, "capability_missing")
    assert problem["tier_required"] == "orchestrator" and problem["capability"] == "agent_spawn"
    assert owner.http.get("/v1/agents/wanting").status_code == 404
    bundle = aboard(owner.http, wanting | {"partial": True})
    assert set(bundle["capabilities"]) == {"llm_inference", "event_emit", "agent_call"}
    problem = assert_problem(spawn(home, bundle), 403, "capability_missing")
    assert problem["capability"] == "agent_spawn" and problem["tier_required"] == "orchestrator"
    low = aboard(owner.http, card("low", capabilities_requested=[], billing=of_tier("reflex")))
    assert low["capabilities"] == ["event_emit"]
    answer = with_key(home, low["api_key"]).post("/v1/llm/generate", json=PROMPT)
    assert assert_problem(answer, 403, "capability_missing")["capability"] == "llm_inference"


def test_a_plan_bounds_agents_tiers_and_requests(home: Node):
    account = Account(home, "explorer@example.org")
    set_plan(home, account, "explorer")
    high = card("explorer-high", billing=of_tier("reasoning"))
    problem = assert_problem(onboard(account.http, high), 403, "capability_missing")
    assert problem["tier_required"] == "reasoning" and problem["plan_required"] == "builder"
    first = aboard(account.http, card("explorer-1"))
    assert onboard(account.http, card("explorer-2")).status_code == 403
    assert onboard(account.http, card("explorer-1")).status_code == 200
    # Set aside, it still has the place; torn down, it has not, and cannot come back to another's.
    assert account.http.post("/v1/agents/explorer-1/suspend").status_code == 200
    assert onboard(account.http, card("explorer-2")).status_code == 403
    assert account.http.delete("/v1/agents/explorer-1").status_code == 204
    second = aboard(account.http, card("explorer-2"))
    assert onboard(account.http, card("explorer-1")).status_code == 403
    assert not works(home, first["api_key"])
    agent, answers = with_key(home, second["api_key"]), []
    for number in range(11):
        http = agent if number % 2 else account.http
        answers.append(http.post("/v1/llm/generate", json=PROMPT).status_code)
    assert answers == [200] * 10 + [429]


def test_a_lowered_plan_bounds_agents_that_are_aboard(home: Node):
    account = Account(home, "lowered@example.org")
    billing = of_tier("orchestrator")
    wishes = ["llm_inference", "agent_spawn"]
    bundle = aboard(account.http, card("boss", billing=billing, capabilities_requested=wishes))
    assert spawn(home, bundle).status_code == 201
    set_plan(home, account, "builder")
    assert_problem(spawn(home, bundle), 403, "capability_missing")
    set_plan(home, account, "enterprise")
    assert spawn(home, bundle).status_code == 201


def test_an_agent_is_no_account_and_no_operator(home: Node, owner: Account):
    bundle = aboard(owner.http, card("humble"))
    for key in (bundle["api_key"], bundle["capability_token"]):
        agent = with_key(home, key)
        for method, path in [
            ("POST", "/v1/agents/auto-onboard"),
            ("GET", "/v1/keys"),
            ("GET", "/v1/billing/statement"),
            ("GET", "/v1/admin/accounts"),
            ("POST", "/v1/billing/topup"),
            ("POST", "/v1/admin/token-keys"),
            ("POST", "/v1/models/import"),
        ]:
            answer = agent.request(method, path, json={})
            assert_problem(answer, 403, "capability_missing")
    # A token is for work; whom it was given to does not manage the agent.
    agent = with_key(home, bundle["capability_token"])
    assert agent.post("/v1/llm/generate", json=PROMPT).status_code == 200
    for method, path in [("DELETE", ""), ("POST", "/rotate-key"), ("GET", "/connection-info")]:
        answer = agent.request(method, f"/v1/agents/humble{path}")
        assert_problem(answer, 403, "capability_missing")
    assert_problem(spawn(home, bundle, owner.key), 403, "capability_missing")


def test_a_token_without_a_bound_pays_for_work_only(home: Node, owner: Account):
    bundle = aboard(owner.http, card("payer"))
    payment = {"tokens": 0.5, "reason": "a look"}
    held = with_key(home, bundle["capability_token"])
    before = owner.http.get("/v1/billing/balance").json()["balance"]
    assert_problem(held.post("/v1/billing/deduct", json=payment), 403, "capability_missing")
    assert owner.http.get("/v1/billing/balance").json()["balance"] == before
    assert held.get("/v1/auth/me").json()["email"] is None
    assert with_key(home, bundle["api_key"]).post("/v1/billing/deduct", json=payment).is_success


def test_a_suspended_agent_does_nothing_until_it_is_resumed(home: Node, owner: Account):
    bundle = aboard(owner.http, card("paused"))
    agent = with_key(home, bundle["api_key"])
    assert owner.http.post("/v1/agents/paused/suspend").json()["state"] == "STOP"
    for key in (bundle["api_key"], bundle["capability_token"]):
        answer = with_key(home, key).post("/v1/llm/generate", json=PROMPT)
        assert_problem(answer, 403, "capability_missing")
    assert agent.get("/v1/agents/paused/connection-info").json()["status"] == "suspended"
    # A newer card does not take it back.
    answer = agent.put("/v1/agents/paused/card", json=card("paused", version="1.0.1"))
    assert answer.json()["state"] == "STOP"
    assert agent.post("/v1/llm/generate", json=PROMPT).status_code == 403
    assert owner.http.post("/v1/agents/paused/resume").json()["state"] == "LIVE"
    assert agent.post("/v1/llm/generate", json=PROMPT).status_code == 200


def test_what_a_higher_rank_suspended_a_lower_one_does_not_resume(home: Node, owner: Account):
    bundle = aboard(owner.http, card("ranked"))
    agent = with_key(home, bundle["api_key"])
    assert agent.post("/v1/agents/ranked/suspend").status_code == 200
    assert agent.post("/v1/agents/ranked/resume").json()["state"] == "LIVE"
    assert owner.http.post("/v1/agents/ranked/suspend").status_code == 200
    problem = assert_problem(agent.post("/v1/agents/ranked/resume"), 403, "capability_missing")
    assert problem["capability"] == "account"
    assert operator(home).post("/v1/agents/ranked/suspend").status_code == 200
    for path in ("/v1/agents/ranked/resume", f"/api/agents/{bundle['agent_id']}/resume"):
        problem = assert_problem(owner.http.post(path), 403, "capability_missing")
        assert problem["capability"] == "operator"
    # Neither coming aboard again nor leaving for a moment undoes it.
    again = onboard(owner.http, card("ranked"))
    assert again.status_code == 200 and again.json()["status"] == "suspended"
    purge = owner.http.delete("/v1/agents/ranked", params={"purge": "true"})
    assert_problem(purge, 403, "capability_missing")
    assert owner.http.delete("/v1/agents/ranked").status_code == 204
    back = onboard(owner.http, card("ranked")).json()
    assert back["status"] == "suspended" and back["state"] == "STOP"
    answer = with_key(home, back["api_key"]).post("/v1/llm/generate", json=PROMPT)
    assert_problem(answer, 403, "capability_missing")
    assert operator(home).post("/v1/agents/ranked/resume").json()["state"] == "LIVE"
    assert works(home, back["api_key"])


def test_who_was_torn_down_is_listed_when_asked_for(home: Node, owner: Account):
    skill = {"id": "dozing", "name": "Dozing", "description": "Sleeps"}
    for name in ("dozer-1", "dozer-2", "dozer-3"):
        aboard(owner.http, card(name, skills=[skill]))
    owner.http.post("/v1/agents/dozer-2/suspend")
    owner.http.delete("/v1/agents/dozer-3")

    def listed(**query: str) -> list[str]:
        answer = owner.http.get("/v1/agents", params={"skill": "dozing"} | query)
        assert all(agent["skills"] == [skill | {"tags": []}] for agent in answer.json()["items"])
        return [agent["name"] for agent in answer.json()["items"]]

    assert listed() == ["dozer-1", "dozer-2"]
    assert listed(state="STOP") == ["dozer-2", "dozer-3"]
    assert listed(state="LIVE") == listed(state="live") == ["dozer-1"]
    assert listed(state="BOOT") == []
    wrong = owner.http.get("/v1/agents", params={"state": "AWAY"})
    assert_problem(wrong, 422, "validation_failed")
    assert "| `dozing` | 1 |" in home.http.get("/SKILLS.md").text
    assert state_of(owner, "dozer-3") == "STOP"


def test_an_agent_that_left_is_back_only_by_coming_aboard(
    home: Node, owner: Account, stranger: Account
):
    bundle = aboard(owner.http, card("gone"))
    assert_problem(stranger.http.delete("/v1/agents/gone"), 404, "unknown_agent")
    assert owner.http.delete("/v1/agents/gone").status_code == 204
    assert not works(home, bundle["api_key"]) and not works(home, bundle["capability_token"])
    assert_problem(onboard(stranger.http, card("gone")), 409, "conflict")
    newer = card("gone", version="1.0.1")
    for method, path, body in [
        ("POST", "resume", None),
        ("POST", "suspend", None),
        ("POST", "rotate-key", None),
        ("PUT", "card", newer),
    ]:
        answer = owner.http.request(method, f"/v1/agents/gone/{path}", json=body)
        assert_problem(answer, 409, "conflict")
    assert state_of(owner, "gone") == "STOP"
    back = onboard(owner.http, card("gone"))
    assert back.status_code == 200 and works(home, back.json()["api_key"])
    assert not works(home, bundle["api_key"]) and not works(home, bundle["capability_token"])
    assert owner.http.delete("/v1/agents/gone", params={"purge": "true"}).status_code == 204
    assert owner.http.get("/v1/agents/gone").status_code == 404
    heir = aboard(stranger.http, card("gone", version="0.1.0"))
    assert heir["agent_id"] != bundle["agent_id"] and not works(home, back.json()["api_key"])


def test_agents_are_found_page_by_page(home: Node, owner: Account):
    skill = {"name": "Paging", "description": "Turns pages", "tags": ["Leaf"]}
    names = [f"page-{number}" for number in range(5)]
    for name in names:
        aboard(owner.http, card(name, skills=[skill | {"id": "turn"}]))
    for query in ({"skill": "turn"}, {"tag": "leaf"}, {"q": "pag turn"}):
        seen, cursor = [], None
        while True:
            page = query | {"limit": 2} | ({"cursor": cursor} if cursor else {})
            answer = owner.http.get("/v1/agents", params=page).json()
            assert len(answer["items"]) <= 2
            seen += [agent["name"] for agent in answer["items"]]
            if (cursor := answer["next_cursor"]) is None:
                break
        assert seen == names, query
    agent = owner.http.get("/v1/agents", params={"skill": "turn", "limit": 1}).json()["items"][0]
    assert agent["local"] is True and agent["node"] == home.peer_id and agent["price"] == 3
    assert agent["latency_ms"] is agent["load"] is agent["reputation"] is None
    assert owner.http.get("/v1/agents", params={"skill": "nowhere"}).json()["items"] == []
    assert home.http.get("/v1/agents").status_code == 401


def test_agents_keys_and_tokens_outlive_a_kill(start_node: Callable[..., Node]):
    node = start_node()
    account = Account(node, "kill@example.org")
    kept, left, rotated = (aboard(account.http, card(name)) for name in ("kept", "left", "turned"))
    account.http.delete("/v1/agents/left", params={"purge": "true"})
    fresh = account.http.post("/v1/agents/turned/rotate-key").json()["api_key"]
    account.http.post("/v1/agents/kept/suspend")
    node.restart()
    for bundle in (left, rotated):
        assert not works(node, bundle["api_key"]) and not works(node, bundle["capability_token"])
    assert works(node, fresh)
    again = with_key(node, account.key)
    agent = with_key(node, kept["api_key"])
    assert agent.get("/v1/agents/kept/connection-info").json()["status"] == "suspended"
    assert agent.get("/v1/auth/me").status_code == 403
    assert again.post("/v1/agents/kept/resume").status_code == 200
    assert works(node, kept["api_key"]) and works(node, kept["capability_token"])
    assert again.get("/v1/agents/left").status_code == 404


def test_a_backup_brings_agents_their_keys_and_their_tokens_back(
    start_node: Callable[..., Node], tmp_path: pathlib.Path
):
    node = start_node()
    account = Account(node, "backup@example.org")
    kept, changed = (aboard(account.http, card(name)) for name in ("kept", "changed"))
    signed = account.http.get("/v1/agents/kept").json()["card"]
    backup = tmp_path / "node.zip"
    done = run(node, "backup", str(backup))
    assert done.returncode == 0, done.stderr
    rotated = account.http.post("/v1/agents/changed/rotate-key").json()["api_key"]
    account.http.delete("/v1/agents/kept", params={"purge": "true"})
    late = aboard(account.http, card("late"))
    assert node.stop() == 0
    done = run(node, "restore", str(backup))
    assert done.returncode == 0, done.stderr
    node.restart()
    for bundle in (kept, changed):
        assert works(node, bundle["api_key"]) and works(node, bundle["capability_token"])
    assert not works(node, rotated) and not works(node, late["api_key"])
    again = with_key(node, account.key)
    names = [agent["name"] for agent in again.get("/v1/agents").json()["items"]]
    assert names == ["kept", "changed"]
    assert again.get("/v1/agents/kept").json()["card"] == signed
    assert with_key(node, kept["api_key"]).post("/v1/llm/generate", json=PROMPT).is_success


def test_a_full_disk_takes_nobody_aboard_and_loses_nobody(start_node: Callable[..., Node]):
    node = start_node()
    account = Account(node, "full@example.org")
    bundles = [aboard(account.http, card("first"))]
    used = max(path.stat().st_size for path in node.data_dir.glob("*.redb"))
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (used, used))
    for number in range(10_000):
        answer = onboard(account.http, card(f"more-{number}", description="x" * 1500))
        if answer.status_code != 201:
            break
        bundles.append(answer.json())
    assert_problem(answer, 507, "insufficient_storage")
    assert str(node.data_dir) not in answer.text
    assert works(node, bundles[0]["api_key"]) and works(node, bundles[-1]["capability_token"])
    assert node.http.get("/health").status_code == 200
    node.restart()
    for bundle in (bundles[0], bundles[-1]):
        assert works(node, bundle["api_key"]) and works(node, bundle["capability_token"])
    aboard(with_key(node, account.key), card("last"))
    assert node.stop() == 0
    assert run(node, "check").returncode == 0


def test_a_healthy_agent_lives_at_once(owner: Account):
    with agent_server() as url:
        aboard(owner.http, card("well", agent_url=url))
        assert state_of(owner, "well") == "LIVE"


def test_an_agent_that_comes_up_later_lives_then(owner: Account):
    port = free_port()
    aboard(owner.http, card("late", agent_url=f"http://127.0.0.1:{port}"))
    assert state_of(owner, "late") == "BOOT"
    with agent_server(port):
        wait_until("the agent is found healthy", lambda: state_of(owner, "late") == "LIVE")


def test_an_agent_that_is_not_well_does_not_live(owner: Account):
    for number, answer in enumerate(
        [{"status": 503}, {"body": {"status": "sick"}}, {"body": ["healthy"]}, {"body": "healthy"}]
    ):
        with agent_server(**answer) as url:
            aboard(owner.http, card(f"sick-{number}", agent_url=url))
            assert state_of(owner, f"sick-{number}") == "BOOT", answer
    # One that speaks A2A itself need not say anything but 200.
    with agent_server(body={"up": True}) as url:
        aboard(owner.http, card("a2a-well", agent_url=url, a2a={"url": f"{url}/a2a"}))
        assert state_of(owner, "a2a-well") == "LIVE"
