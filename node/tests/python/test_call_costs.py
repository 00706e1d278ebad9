"""What calls cost, who earns it, and who may call."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from decimal import Decimal

import pytest
from calling import (
    PRICE,
    Connection,
    callee,
    chat,
    come_aboard,
    echo,
    says,
    shown,
    skill,
    task,
    unchanged,
)
from conftest import DEADLINE_SECONDS, Node
from onboarding import aboard, assert_problem, card, of_tier, spawn, with_key
from test_billing import Account, operator


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("calls"))
    yield node
    assert node.stop() == 0


@pytest.fixture(scope="module")
def owner(home: Node) -> Account:
    return Account(home, "owner@example.org")


@pytest.fixture(scope="module")
def payer(home: Node) -> Account:
    return Account(home, "payer@example.org")


def test_an_owner_pays_itself_the_nodes_part_and_the_operators_agents_earn_the_node_all(
    home: Node, owner: Account, payer: Account
):
    with callee(chat=says("a")) as agent:
        bundle = come_aboard(owner, "own", agent)
        before = owner.tokens()
        assert chat(owner, "own").status_code == 200
        assert owner.tokens() == before - Decimal("0.6")
        # So does its agent, which spends from the same account, and is named as who calls.
        mine = with_key(home, bundle["api_key"])
        other = mine.post("/v1/a2a/tasks", json={"agent": "own", "input": "x"})
        assert other.json()["result"] == "a"
        assert agent.asked[-1].headers["x-aither-caller"] == "own"
        assert owner.tokens() == before - Decimal("1.2")
        items = owner.statement()
        assert sum(item["amount"] for item in items) == owner.tokens()
        house = Account.__new__(Account)
        house.http = operator(home)
        come_aboard(house, "house", agent)
        debts = house.tokens()
        paid = payer.tokens()
        assert chat(payer, "house").status_code == 200
        assert (payer.tokens(), house.tokens()) == (paid - PRICE, debts)


def test_what_it_may_cost_can_be_bounded_and_must_be_there(
    home: Node, owner: Account, payer: Account
):
    poor = Account(home, "poor-caller@example.org")
    with callee(chat=says("a")) as agent:
        come_aboard(
            owner, "dear", agent, billing={"token_cost_per_request": 20, "category": "agent"}
        )
        come_aboard(owner, "cheap", agent, skills=[skill("priced")])
        before = payer.tokens()
        refused = task(payer, agent="dear", input="x", max_cost=19.999999)
        problem = assert_problem(refused, 402, "insufficient_tokens")
        assert (problem["required"], problem["max_cost"]) == (20, 19.999999)
        body = {"agent": "dear", "input": "x", "max_cost": 100}
        refused = payer.http.post("/v1/a2a/tasks", json=body, headers={"X-Aither-Max-Cost": "5"})
        assert_problem(refused, 402, "insufficient_tokens")
        unchanged(payer, before)
        poor.spend_all_but("19")
        problem = assert_problem(chat(poor, "dear"), 402, "insufficient_tokens")
        assert (problem["balance"], problem["required"]) == (19, 20)
        assert poor.tokens() == 19 and agent.asked == []
        assert chat(poor, "cheap").status_code == 200 and poor.tokens() == 16


def test_parallel_tasks_keep_their_order_and_each_its_own_status(owner: Account, payer: Account):
    both = threading.Barrier(2)

    def meets(connection: Connection) -> None:
        # Answered only if both are asked at once.
        both.wait(DEADLINE_SECONDS)
        echo(connection)

    def fails(connection: Connection) -> None:
        connection.answer({"error": "secret"}, 500)

    with callee(chat=meets, fails=fails) as agent:
        skills = [skill("meet"), skill("fail", endpoint="/fails")]
        come_aboard(owner, "many", agent, skills=skills)
        before = payer.tokens()
        tasks = [
            {"skill": "meet", "input": "one"},
            {"skill": "fail", "input": "x"},
            {"agent": "nobody", "input": "x"},
            {"agent": "many"},
            {"skill": "meet", "input": "two"},
        ]
        body = {"tasks": tasks, "from_agent": "x"}
        answer = payer.http.post("/v1/a2a/parallel", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-aither-cost"] == "6"
        results = answer.json()["results"]
        assert [item["status"] for item in results] == [
            "completed",
            "failed",
            "failed",
            "failed",
            "completed",
        ]
        assert [item["result"] for item in results] == ["one", None, None, None, "two"]
        codes = [item["error"]["code"] for item in results[1:4]]
        assert codes == ["upstream_failed", "unknown_agent", "validation_failed"]
        assert results[1]["task_id"] and "secret" not in answer.text
        assert shown(payer, results[1]["task_id"])["status"] == "failed"
        assert payer.tokens() == before - 2 * PRICE
        tasks = [{"skill": "meet", "input": "x"}] * 2
        bounded = payer.http.post(
            "/v1/a2a/parallel", json={"tasks": tasks}, headers={"X-Aither-Max-Cost": "2"}
        )
        codes = [item["error"]["code"] for item in bounded.json()["results"]]
        assert codes == ["insufficient_tokens"] * 2
        agent.behaviours["/chat"] = echo
        bounded = payer.http.post(
            "/v1/a2a/parallel", json={"tasks": tasks}, headers={"X-Aither-Max-Cost": "5"}
        )
        statuses = [item["status"] for item in bounded.json()["results"]]
        # The header bounds all of them together: there is room for one.
        assert statuses.count("completed") == 1 and bounded.headers["x-aither-cost"] == "3"
        for count in (0, 33):
            tasks = [{"skill": "meet", "input": "x"}] * count
            refused = payer.http.post("/v1/a2a/parallel", json={"tasks": tasks})
            assert_problem(refused, 422, "validation_failed")


def test_the_same_key_is_one_call(owner: Account, payer: Account):
    count = iter(range(100))

    def counts(connection: Connection) -> None:
        connection.answer({"response": next(count)})

    with callee(chat=counts) as agent:
        come_aboard(owner, "once", agent, skills=[skill("once")])
        before = payer.tokens()
        for number, (path, body) in enumerate(
            (
                ("/v1/a2a/tasks", {"skill": "once", "input": "x"}),
                ("/v1/a2a/tasks", {"skill": "once", "input": "y", "stream": True}),
                ("/v1/agents/once/chat", {"message": "x"}),
                ("/v1/agents/once/call", {"endpoint": "/chat", "payload": {}}),
                ("/v1/a2a/parallel", {"tasks": [{"skill": "once", "input": "x"}] * 3}),
            )
        ):
            headers = {"Idempotency-Key": f"key-{number}"}
            asked = len(agent.asked)
            first = payer.http.post(path, json=body, headers=headers)
            assert first.status_code == 200, first.text
            again = payer.http.post(path, json=body, headers=headers)
            assert again.text == first.text and again.headers["idempotent-replayed"] == "true"
            assert len(agent.asked) == asked + (3 if "tasks" in body else 1)
        assert payer.tokens() == before - 7 * PRICE


def test_agents_need_the_capability_and_tokens_their_skill(home: Node, owner: Account):
    with callee(chat=says("a")) as agent:
        skills = [skill("allowed"), skill("forbidden")]
        bundle = come_aboard(
            owner,
            "able",
            agent,
            skills=skills,
            billing=of_tier("orchestrator"),
            capabilities_requested=["agent_spawn"],
        )
        small = aboard(
            owner.http,
            card("small", billing=of_tier("reflex"), capabilities_requested=[]),
            "remote",
        )
        body = {"skill": "allowed", "input": "x"}
        refused = with_key(home, small["api_key"]).post("/v1/a2a/tasks", json=body)
        problem = assert_problem(refused, 403, "capability_missing")
        assert (problem["capability"], problem["tier_required"]) == ("agent_call", "agent")
        terms = {"capabilities": ["agent_call"], "skills": ["allowed"], "max_spend": 1.5}
        spawned = spawn(home, bundle, **terms)
        assert spawned.status_code == 201, spawned.text
        narrow = with_key(home, spawned.json()["capability_token"])
        for wrong in (
            {"skill": "forbidden", "input": "x"},
            {"agent": "able", "input": "x"},
            {"skill": "allowed", "endpoint": "/chat", "payload": {}},
        ):
            assert_problem(narrow.post("/v1/a2a/tasks", json=wrong), 403, "capability_missing")
        assert narrow.post("/v1/a2a/tasks", json=body).json()["result"] == "a"
        # What it may ever spend leaves no room for another.
        problem = narrow.post("/v1/a2a/tasks", json=body)
        assert_problem(problem, 402, "insufficient_tokens")
        assert "max_spend" in problem.json()["detail"]


def test_parallel_tasks_count_against_the_plan_as_if_each_were_a_request(
    home: Node, owner: Account
):
    small = Account(home, "small-plan@example.org")
    path = f"/v1/admin/accounts/{small.id}"
    assert operator(home).patch(path, json={"plan": "explorer"}).status_code == 200
    with callee(chat=says("a")) as agent:
        come_aboard(owner, "counted", agent)
        tasks = [{"agent": "counted", "input": "x"}] * 12
        answer = small.http.post("/v1/a2a/parallel", json={"tasks": tasks})
        results = answer.json()["results"]
        assert [item["status"] for item in results] == ["completed"] * 10 + ["failed"] * 2
        assert {item["error"]["code"] for item in results[10:]} == {"rate_limited"}
        # One at a time is what the plan has.
        assert agent.most == 1 and small.tokens() == 1000 - 10 * PRICE
        assert_problem(chat(small, "counted"), 429, "rate_limited")
