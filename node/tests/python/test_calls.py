"""Calls of agents on the real binary: who is called, what is sent, and what comes back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from calling import (
    PRICE,
    Connection,
    call,
    callee,
    chat,
    come_aboard,
    echo,
    events,
    says,
    shown,
    skill,
    task,
    unchanged,
    wait_for_status,
)
from conftest import DEADLINE_SECONDS, Node, wait_until
from onboarding import aboard, assert_problem, card, free_port, with_key
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


def test_a_chat_reaches_the_agent_and_both_statements_show_the_split(
    home: Node, owner: Account, payer: Account
):
    with callee(chat=echo) as agent:
        come_aboard(owner, "echo", agent)
        paid, earned = payer.tokens(), owner.tokens()
        answer = chat(payer, "echo", "hello", session_id="s-1")
        assert answer.status_code == 200, answer.text
        body = json.loads(answer.text, parse_float=Decimal)
        assert answer.headers["x-aither-cost"] == "3"
        assert (body["response"], body["agent"], body["session_id"]) == ("hello", "echo", "s-1")
        assert body["cost_tokens"] == PRICE and body["tokens_used"] == 0
        assert payer.tokens() == paid - PRICE
        assert owner.tokens() == earned + Decimal("2.4")
        mine, theirs = payer.statement()[:2], owner.statement()[0]
        assert [item["kind"] for item in mine] == ["posted", "reserved"]
        assert mine[0]["amount"] == -PRICE and mine[1]["memo"] == "call of echo"
        assert theirs["kind"] == "posted" and theirs["amount"] == Decimal("2.4")
        for account in (owner, payer):
            items = account.statement()
            assert sum(item["amount"] for item in items) == account.tokens()
            assert sum(item["held"] for item in items) == 0
        usage = payer.http.get("/v1/billing/usage").json()
        assert usage["total_requests"] >= 1 and usage["total_tokens"] >= 3
        (asked,) = agent.asked
        assert asked.json() == {"message": "hello", "session_id": "s-1"}
        assert asked.headers["x-aither-task-id"] == body["task_id"]
        assert asked.headers["x-aither-caller"] == payer.id
        assert asked.headers["x-request-id"] == answer.headers["x-request-id"]
        assert asked.headers["x-aither-hop"] == "1"
        assert "authorization" not in asked.headers
        record = shown(payer, body["task_id"])
        assert (record["status"], record["result"]) == ("completed", "hello")
        assert record["receipt"] == body["task_id"] and record["cost_tokens"] == PRICE
        assert record["agent_used"] == "echo" and record["endpoint"] == "/chat"
        assert record["created_at"] <= record["started_at"] <= record["ended_at"]


def test_a_conversation_gets_a_session_if_nobody_names_one(owner: Account, payer: Account):
    def named(connection: Connection) -> None:
        connection.answer({"response": "a", "session_id": "mine", "tokens_used": 12})

    with callee(chat=named) as agent:
        come_aboard(owner, "named", agent)
        body = chat(payer, "named").json()
        assert (body["session_id"], body["tokens_used"]) == ("mine", 12)
        assert len(agent.asked[0].json()["session_id"]) == 26
        agent.behaviours["/chat"] = says("b")
        body = chat(payer, "named", {"any": ["json"]}).json()
        sent = agent.asked[1].json()
        assert sent["message"] == {"any": ["json"]}
        assert body["session_id"] == sent["session_id"]
        assert_problem(chat(payer, "named", ""), 422, "validation_failed")


def test_call_passes_the_agents_own_status_and_body_on(owner: Account, payer: Account):
    def made(connection: Connection) -> None:
        connection.answer("<b>made</b>", 201, "text/html")

    def refuses(connection: Connection) -> None:
        connection.answer({"detail": "no such row"}, 404)

    def looks(connection: Connection) -> None:
        connection.answer({"path": connection.asked.path})

    with callee(chat=echo, made=made, refuses=refuses, looks=looks) as agent:
        endpoints = [{"path": path, "method": "POST"} for path in ("/chat", "/made", "/refuses")]
        endpoints.append({"path": "/looks", "method": "GET"})
        come_aboard(owner, "caller", agent, endpoints=endpoints)
        before = payer.tokens()
        answer = call(payer, "caller", "/made", payload={"a": 1})
        assert (answer.status_code, answer.text) == (201, "<b>made</b>")
        assert answer.headers["content-type"] == "text/html"
        assert answer.headers["x-aither-cost"] == "3"
        assert "sandbox" in answer.headers["content-security-policy"]
        assert agent.asked[-1].json() == {"a": 1}
        assert payer.tokens() == before - PRICE
        record = shown(payer, answer.headers["x-aither-task-id"])
        assert (record["status"], record["result"]) == ("completed", "<b>made</b>")
        before = payer.tokens()
        answer = call(payer, "caller", "/refuses", payload={})
        assert (answer.status_code, answer.json()) == (404, {"detail": "no such row"})
        assert answer.headers["x-aither-cost"] == "0"
        assert shown(payer, answer.headers["x-aither-task-id"])["status"] == "failed"
        unchanged(payer, before)
        answer = call(payer, "caller", "/looks", payload={"q": "a b", "n": 2})
        assert answer.json() == {"path": "/looks?q=a+b&n=2"}
        assert agent.asked[-1].body == b""
        asked = len(agent.asked)
        for endpoint in ("/other", "/made/../refuses", "/made?x=1", "//evil.example/x", "made"):
            assert_problem(call(payer, "caller", endpoint), 404, "not_found")
        assert_problem(call(payer, "caller", "/made", method="GET"), 404, "not_found")
        assert_problem(call(payer, "caller", "/looks", payload=[1]), 422, "validation_failed")
        assert len(agent.asked) == asked


def test_a_task_goes_to_who_has_the_skill_and_its_path(owner: Account, payer: Account):
    def finds(connection: Connection) -> None:
        connection.answer({"rows": [1, 2], "skill": connection.asked.json()["skill"]})

    with callee(chat=echo, find=finds) as agent:
        skills = [skill("find-rows", endpoint="/find"), skill("talk")]
        come_aboard(owner, "finder", agent, skills=skills)
        before = payer.tokens()
        body = task(payer, skill="find-rows", input="all of them", from_agent="ignored").json()
        assert body["status"] == "completed" and body["agent_used"] == "finder"
        assert body["result"] == {"rows": [1, 2], "skill": "find-rows"}
        assert body["receipt"] == body["task_id"] and body["cost_tokens"] == 3
        assert payer.tokens() == before - PRICE
        assert agent.asked[-1].path == "/find"
        explained = payer.http.post(
            "/v1/a2a/tasks",
            json={"skill": "talk", "input": {"a": 1}},
            headers={"X-Aither-Explain": "1"},
        ).json()
        assert explained["result"] == {"a": 1} and "finder" in explained["explain"]["reason"]
        assert task(payer, agent="finder", skill="find-rows", input="x").json()["result"]["rows"]
        by_endpoint = task(payer, agent="finder", endpoint="/find", payload={"skill": "s"})
        assert by_endpoint.json()["result"]["skill"] == "s"
        assert_problem(task(payer, skill="nobody-has", input="x"), 404, "no_agent_for_skill")
        lacking = task(payer, agent="finder", skill="nobody-has", input="x")
        assert_problem(lacking, 404, "no_agent_for_skill")
        assert_problem(task(payer, agent="nobody", input="x"), 404, "unknown_agent")
        assert_problem(task(payer, input="x"), 422, "validation_failed")
        assert payer.http.get("/v1/a2a/agents/finder").json()["name"] == "finder"


def test_a_name_may_say_which_node_is_meant(home: Node, owner: Account, payer: Account):
    with callee(chat=says("here")) as agent:
        come_aboard(owner, "placed", agent)
        assert chat(payer, f"placed@{home.peer_id}").json()["response"] == "here"
        elsewhere = chat(payer, "placed@12D3KooWnobody")
        assert "does not know" in assert_problem(elsewhere, 404, "unknown_agent")["detail"]


def test_a_stream_is_relayed_as_it_comes(owner: Account, payer: Account):
    go_on = threading.Event()

    def streams(connection: Connection) -> None:
        assert connection.asked.json()["stream"] is True
        assert connection.asked.headers["accept"] == "text/event-stream"
        connection.begin_stream()
        connection.event({"text": "first "}, "delta")
        assert go_on.wait(DEADLINE_SECONDS)
        connection.event({"text": "second"}, "delta")
        connection.event({"response": "first second", "tokens_used": 2}, "done")

    with callee(chat=streams) as agent:
        come_aboard(owner, "streamer", agent, skills=[skill("stream-it")])
        before = payer.tokens()
        body = {"skill": "stream-it", "input": "x", "stream": True}
        with payer.http.stream("POST", "/v1/a2a/tasks", json=body) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            seen = events(answer)
            name, begun = next(seen)
            assert name == "task" and begun["agent"] == "streamer"
            assert next(seen) == ("delta", {"text": "first "})
            # The agent is still at work: it waits for this test.
            assert shown(payer, begun["task_id"])["status"] == "running"
            go_on.set()
            rest = list(seen)
        assert rest[0] == ("delta", {"text": "second"})
        name, done = rest[-1]
        assert name == "done" and done["task_id"] == begun["task_id"]
        assert done["result"] == "first second" and done["cost_tokens"] == PRICE
        assert payer.tokens() == before - PRICE
        assert shown(payer, begun["task_id"])["result"] == "first second"
        chatted = chat(payer, "streamer", "x", stream=True)
        name, done = list(events(chatted))[-1]
        assert name == "done" and done["response"] == "first second" and done["session_id"]
        assert done["tokens_used"] == 2


def test_agents_may_stream_in_several_ways_or_not_at_all(owner: Account, payer: Account):
    def chunks(connection: Connection) -> None:
        connection.begin_stream()
        for text in ("a", "b"):
            connection.event({"choices": [{"delta": {"content": text}}]})
        connection.event("[DONE]")
        connection.wait_until_closed()

    def lines(connection: Connection) -> None:
        connection.begin_stream()
        connection.event("a")
        connection.raw(b": a comment\n\ndata: b\n\n")

    with callee(chat=chunks) as agent:
        come_aboard(owner, "varied", agent)
        for behaviour, result in ((chunks, "ab"), (lines, "ab"), (says("whole"), "whole")):
            agent.behaviours["/chat"] = behaviour
            seen = list(events(task(payer, agent="varied", input="x", stream=True)))
            assert seen[0][0] == "task" and seen[-1][0] == "done"
            assert seen[-1][1]["result"] == result
            text = "".join(data["text"] for name, data in seen if name == "delta")
            assert text == result
            # Whoever wants it whole gets it whole.
            assert task(payer, agent="varied", input="x").json()["result"] == result


def test_call_passes_a_stream_on_as_it_comes(owner: Account, payer: Account):
    go_on = threading.Event()

    def streams(connection: Connection) -> None:
        connection.begin_stream()
        connection.raw(b"id: 1\nevent: odd\ndata: x\n\n")
        assert go_on.wait(DEADLINE_SECONDS)
        connection.raw(b"data: y\n\n")

    with callee(odd=streams) as agent:
        come_aboard(owner, "odd", agent)
        before = payer.tokens()
        body = {"endpoint": "/odd", "payload": {}}
        with payer.http.stream("POST", "/v1/agents/odd/call", json=body) as answer:
            pieces = answer.iter_text()
            assert next(pieces) == "id: 1\nevent: odd\ndata: x\n\n"
            go_on.set()
            assert "".join(pieces) == "data: y\n\n"
        record = wait_for_status(payer, answer.headers["x-aither-task-id"], "completed")
        assert record["result"] is None and record["result_omitted"] == 35
        assert payer.tokens() == before - PRICE


def test_no_more_run_at_once_than_the_card_says_and_a_full_queue_refuses(
    owner: Account, payer: Account
):
    go_on = threading.Event()

    def waits(connection: Connection) -> None:
        assert go_on.wait(DEADLINE_SECONDS)
        connection.answer({"response": "done"})

    with callee(chat=waits) as agent, ThreadPoolExecutor(16) as pool:
        come_aboard(owner, "busy", agent, resources={"max_concurrent": 2})
        before = payer.tokens()
        answers = [pool.submit(task, payer, agent="busy", input="x") for _ in range(10)]
        wait_until("ten are held", lambda: payer.balance()["held"] == 10 * PRICE)
        refused = task(payer, agent="busy", input="x")
        problem = assert_problem(refused, 503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert shown(payer, problem["task_id"])["status"] == "failed"
        # One that waits is waited for no longer than was asked for.
        assert agent.most == 2
        go_on.set()
        assert [answer.result().status_code for answer in answers] == [200] * 10
        assert agent.most == 2
        assert payer.tokens() == before - 10 * PRICE


def test_who_cannot_be_reached_is_passed_over_for_the_next(owner: Account, payer: Account):
    port = free_port()
    with callee(chat=says("from b")) as second:
        with callee(port=port, chat=says("from a")) as first:
            come_aboard(owner, "turn-a", first, skills=[skill("in-turn")])
            come_aboard(owner, "turn-b", second, skills=[skill("in-turn")])
        before = payer.tokens()
        body = task(payer, skill="in-turn", input="x").json()
        assert (body["result"], body["agent_used"]) == ("from b", "turn-b")
        record = shown(payer, body["task_id"])
        assert record["agent_used"] == "turn-b"
        assert payer.tokens() == before - PRICE
        # Asked for by name there is nobody else.
        problem = assert_problem(task(payer, agent="turn-a", input="x"), 502, "upstream_failed")
        assert "reached" in problem["detail"] or "gave no answer" in problem["detail"]
        unchanged(payer, before - PRICE)


def test_invalid_json_is_a_text_and_a_long_answer_is_not_kept(owner: Account, payer: Account):
    def broken(connection: Connection) -> None:
        connection.answer(b'{"response": ', 200, "application/json")

    with callee(chat=broken) as agent:
        come_aboard(owner, "odd-answers", agent)
        body = task(payer, agent="odd-answers", input="x").json()
        assert body["result"] == '{"response": '
        long = "x" * 300_000
        agent.behaviours["/chat"] = says(long)
        body = task(payer, agent="odd-answers", input="x").json()
        assert body["result"] == long
        record = shown(payer, body["task_id"])
        assert record["status"] == "completed" and record["result"] is None
        assert record["result_omitted"] == 300_002


def test_tasks_are_seen_by_who_has_begun_them_pays_or_runs_the_node(
    home: Node, owner: Account, payer: Account
):
    stranger = Account(home, "stranger@example.org")
    with callee(chat=says("a")) as agent:
        bundle = come_aboard(owner, "seen", agent)
        sibling = aboard(owner.http, card("sibling", capabilities_requested=[]), "remote")
        mine = with_key(home, bundle["api_key"])
        task_id = mine.post("/v1/a2a/tasks", json={"agent": "seen", "input": "x"}).json()["task_id"]
        path = f"/v1/a2a/tasks/{task_id}"
        for may in (mine, owner.http, operator(home)):
            assert may.get(path).json()["status"] == "completed"
        for may_not in (stranger.http, payer.http, with_key(home, sibling["api_key"])):
            assert_problem(may_not.get(path), 404, "not_found")
            assert_problem(may_not.delete(path), 404, "not_found")
        for nobody in ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "x"):
            assert_problem(owner.http.get(f"/v1/a2a/tasks/{nobody}"), 404, "not_found")


def test_who_cannot_be_called_says_why(owner: Account, payer: Account):
    aboard(owner.http, card("mute"), "remote")
    problem = assert_problem(chat(payer, "mute"), 409, "conflict")
    assert "agent_url" in problem["detail"]
    with callee(chat=says("a")) as agent:
        come_aboard(owner, "aside", agent, skills=[skill("aside-skill")])
        assert owner.http.post("/v1/agents/aside/suspend").status_code == 200
        refused = chat(payer, "aside")
        problem = assert_problem(refused, 503, "not_ready")
        assert problem["state"] == "STOP" and problem["reason"]
        assert_problem(task(payer, skill="aside-skill", input="x"), 404, "no_agent_for_skill")
        looped = payer.http.post(
            "/v1/agents/aside/chat", json={"message": "x"}, headers={"X-Aither-Hop": "8"}
        )
        assert "circle" in assert_problem(looped, 400, "invalid_request")["detail"]


def test_an_agent_that_speaks_a2a_is_asked_so(owner: Account, payer: Account):
    def speaks(connection: Connection) -> None:
        asked = connection.asked.json()
        assert asked["method"] == "SendMessage"
        parts = asked["params"]["message"]["parts"]
        done = {
            "id": "1",
            "status": {"state": "TASK_STATE_COMPLETED"},
            "artifacts": [{"artifactId": "1", "parts": [{"text": parts[0]["text"].upper()}]}],
        }
        connection.answer({"jsonrpc": "2.0", "id": asked["id"], "result": {"task": done}})

    with callee(rpc=speaks) as agent:
        come_aboard(owner, "speaker", agent, a2a={"url": f"{agent.url}/rpc"})
        body = task(payer, agent="speaker", input="loud").json()
        assert (body["result"], body["cost_tokens"]) == ("LOUD", 3)
        assert agent.asked[-1].headers["a2a-version"] == "1.0"
