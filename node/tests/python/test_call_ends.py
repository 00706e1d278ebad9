"""How calls end that come to nothing, and what is known of a task afterwards."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from calling import (
    PRICE,
    Connection,
    Known,
    callee,
    chat,
    come_aboard,
    echo,
    events,
    shown,
    task,
    unchanged,
    wait_for_status,
)
from conftest import DEADLINE_SECONDS, Node, wait_until
from onboarding import assert_problem
from test_billing import Account


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


def hostile(connection: Connection, kind: str) -> None:
    raw = connection.raw
    connection.handler.close_connection = True
    if kind == "huge":
        raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n")
        for _ in range(200):
            raw(b"x" * 65536)
    elif kind == "huge without a length":
        raw(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        for _ in range(200):
            raw(b"x" * 65536)
    elif kind == "shorter than it says":
        raw(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"response": "a"}')
    elif kind == "elsewhere":
        raw(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n")
    elif kind == "no text":
        connection.answer(b"\xff\xfe", 200, "application/json")
    elif kind == "no HTTP":
        raw(b"SSH-2.0-OpenSSH\r\n\r\n")
    elif kind == "nothing":
        pass
    elif kind == "failure":
        connection.answer({"detail": "secret"}, 500)
    elif kind == "refusal":
        connection.answer({"detail": "secret"}, 422)
    elif kind == "endless event":
        connection.begin_stream()
        for _ in range(100):
            raw(b"x" * 65536)
    elif kind == "error event":
        connection.begin_stream()
        connection.event({"text": "a"}, "delta")
        connection.event({"detail": "secret"}, "error")
    elif kind == "many headers":
        raw(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000 + b"\r\n")


def test_who_hangs_up_ends_the_call_at_once_and_pays_for_what_was_read(
    home: Node, owner: Account, payer: Account
):
    closed = threading.Semaphore(0)

    def waits(connection: Connection) -> None:
        if connection.asked.json().get("stream"):
            connection.begin_stream()
            if connection.asked.json()["message"] == "speak":
                connection.event({"text": "first"}, "delta")
        connection.wait_until_closed()
        closed.release()

    with callee(chat=waits) as agent:
        come_aboard(owner, "waiting", agent)
        before = payer.tokens()
        for count, said, cost in ((1, "wait", 0), (2, "speak", PRICE)):
            body = {"agent": "waiting", "input": said, "stream": True}
            with payer.http.stream("POST", "/v1/a2a/tasks", json=body) as answer:
                seen = events(answer)
                task_id = next(seen)[1]["task_id"]
                assert cost == 0 or next(seen)[0] == "delta"
                wait_until("it is asked", lambda count=count: len(agent.asked) == count)
            assert closed.acquire(timeout=DEADLINE_SECONDS)
            record = wait_for_status(payer, task_id, "canceled")
            assert "hung up" in record["error"]["detail"] and record["cost_tokens"] == cost
        before -= PRICE
        host, port = home.url.removeprefix("http://").split(":")
        content = json.dumps({"agent": "waiting", "input": "x"})
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                f"POST /v1/a2a/tasks HTTP/1.1\r\nHost: {host}:{port}\r\n"
                f"Authorization: Bearer {payer.key}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(content)}\r\n\r\n{content}".encode()
            )
            wait_until("the agent is asked", lambda: len(agent.asked) == 3)
        assert closed.acquire(timeout=DEADLINE_SECONDS)
        wait_for_status(payer, agent.asked[2].headers["x-aither-task-id"], "canceled")
        unchanged(payer, before)


def test_a_task_can_be_canceled_while_it_runs_and_while_it_waits(owner: Account, payer: Account):
    closed = threading.Event()

    def waits(connection: Connection) -> None:
        connection.wait_until_closed()
        closed.set()

    with callee(chat=waits) as agent, ThreadPoolExecutor(2) as pool:
        come_aboard(owner, "slow", agent, resources={"max_concurrent": 1})
        before = payer.tokens()
        running = pool.submit(task, payer, agent="slow", input="x")
        wait_until("the agent is asked", lambda: len(agent.asked) == 1)
        stream = {"agent": "slow", "input": "y", "stream": True}
        with payer.http.stream("POST", "/v1/a2a/tasks", json=stream) as answer:
            seen = events(answer)
            waiting = next(seen)[1]["task_id"]
            assert shown(payer, waiting)["status"] == "queued"
            ended = payer.http.delete(f"/v1/a2a/tasks/{waiting}").json()
            assert ended["status"] == "canceled" and ended["started_at"] is None
            name, problem = next(seen)
            assert name == "error" and problem["task_id"] == waiting
        task_id = agent.asked[0].headers["x-aither-task-id"]
        assert payer.http.delete(f"/v1/a2a/tasks/{task_id}").json()["status"] == "canceled"
        assert closed.wait(DEADLINE_SECONDS)
        problem = assert_problem(running.result(), 409, "conflict")
        assert problem["task_id"] == task_id and "canceled" in problem["detail"]
        again = payer.http.delete(f"/v1/a2a/tasks/{task_id}")
        assert assert_problem(again, 409, "conflict")["task_status"] == "canceled"
        assert len(agent.asked) == 1
        unchanged(payer, before)


def test_an_agent_that_takes_too_long_costs_nothing(owner: Account, payer: Account):
    def drips(connection: Connection) -> None:
        connection.handler.connection.settimeout(0.05)
        connection.begin_stream("application/json")
        while True:
            connection.raw(b" ")
            try:
                if connection.handler.connection.recv(1) == b"":
                    return
            except TimeoutError:
                pass

    with callee(chat=Connection.wait_until_closed, drip=drips) as agent:
        come_aboard(owner, "late", agent)
        before = payer.tokens()
        for body in (
            {"agent": "late", "input": "x"},
            {"agent": "late", "endpoint": "/drip", "payload": {}},
        ):
            answer = task(payer, timeout=0.3, **body)
            problem = assert_problem(answer, 504, "timed_out")
            record = shown(payer, problem["task_id"])
            assert record["status"] == "timed_out" and record["error"]["code"] == "timed_out"
        for timeout in (0, -1, 1e9):
            refused = task(payer, agent="late", input="x", timeout=timeout)
            assert_problem(refused, 422, "validation_failed")
        unchanged(payer, before)
        assert len(agent.asked) == 2


@pytest.mark.parametrize(
    "kind",
    [
        "huge",
        "huge without a length",
        "shorter than it says",
        "elsewhere",
        "no text",
        "no HTTP",
        "nothing",
        "failure",
        "refusal",
        "endless event",
        "error event",
        "many headers",
    ],
)
def test_hostile_agents_cost_nothing_and_say_nothing(owner: Account, payer: Account, kind: str):
    name = f"hostile-{kind.replace(' ', '-').lower()}"
    with callee(chat=lambda connection: hostile(connection, kind)) as agent:
        come_aboard(owner, name, agent)
        before = payer.tokens()
        for stream in (False, True):
            answer = task(payer, agent=name, input="x", stream=stream)
            if stream:
                _, problem = list(events(answer))[-1]
                assert problem["code"] == "upstream_failed", problem
            else:
                problem = assert_problem(answer, 502, "upstream_failed")
            assert "secret" not in answer.text
            record = shown(payer, problem["task_id"])
            assert record["status"] == "failed" and record["result"] is None
        unchanged(payer, before)


def test_a_reader_that_stalls_does_not_hold_the_agent(home: Node, owner: Account, payer: Account):
    closed = threading.Event()

    def floods(connection: Connection) -> None:
        connection.begin_stream()
        try:
            while True:
                connection.raw(b"data: " + b"x" * 65536 + b"\n\n")
        finally:
            closed.set()

    with callee(flood=floods) as agent:
        come_aboard(owner, "flooding", agent)
        before = payer.tokens()
        host, port = home.url.removeprefix("http://").split(":")
        content = json.dumps({"endpoint": "/flood", "payload": {}, "timeout": 0.5})
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, int(port)))
            connection.sendall(
                f"POST /v1/agents/flooding/call HTTP/1.1\r\nHost: {host}:{port}\r\n"
                f"Authorization: Bearer {payer.key}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(content)}\r\n\r\n{content}".encode()
            )
            # Nothing is read, and the connection stays open.
            assert closed.wait(DEADLINE_SECONDS)
            wait_for_status(payer, agent.asked[0].headers["x-aither-task-id"], "canceled")
        # What was sent could have been read.
        unchanged(payer, before - PRICE)


def test_a_stream_without_end_is_waited_for_piece_by_piece(owner: Account, payer: Account):
    def endless(connection: Connection) -> None:
        connection.begin_stream()
        connection.event({"text": "a"}, "delta")
        connection.wait_until_closed()

    with callee(chat=endless) as agent:
        come_aboard(owner, "endless", agent)
        before = payer.tokens()
        answer = task(payer, agent="endless", input="x", stream=True, timeout=0.3)
        seen = list(events(answer))
        assert [name for name, _ in seen] == ["task", "delta", "error"]
        assert seen[-1][1]["code"] == "timed_out"
        unchanged(payer, before)


def test_what_a_crash_cuts_off_has_failed_and_costs_nothing_and_what_ended_is_known(start_node):
    node = start_node()
    owner, payer = Account(node, "o@example.org"), Account(node, "p@example.org")
    with callee(chat=echo) as agent:
        come_aboard(owner, "crashing", agent)
        ended = task(payer, agent="crashing", input="kept").json()["task_id"]
        agent.behaviours["/chat"] = Connection.wait_until_closed
        body = {"agent": "crashing", "input": "x", "stream": True}
        with payer.http.stream("POST", "/v1/a2a/tasks", json=body) as answer:
            seen = events(answer)
            running = next(seen)[1]["task_id"]
            wait_until("the agent is asked", lambda: len(agent.asked) == 2)
            # A hold is volatile for a moment; anything durable after it takes it along.
            payer.http.post("/v1/billing/deduct", json={"tokens": 1, "reason": "x"})
            node.process.send_signal(signal.SIGKILL)
            node.process.wait()
        node.restart()
        payer = Known(node, payer)
        assert shown(payer, ended)["result"] == "kept"
        record = shown(payer, running)
        assert record["status"] == "failed" and record["ended_at"] is None
        assert "stopped while" in record["error"]["detail"]
        assert payer.balance()["held"] == 0 and payer.tokens() == 1000 - PRICE - 1
        agent.behaviours["/chat"] = echo
        wait_until(
            "it is live again",
            lambda: payer.http.get("/v1/agents/crashing").json()["state"] == "LIVE",
        )
        assert chat(payer, "crashing", "again").json()["response"] == "again"


def test_a_paid_answer_that_a_crash_has_lost_is_given_from_its_record(start_node):
    node = start_node()
    owner, payer = Account(node, "o@example.org"), Account(node, "p@example.org")
    with callee(chat=echo) as agent:
        come_aboard(owner, "lost", agent)
        body = {"agent": "lost", "input": "paid for"}
        headers = {"Idempotency-Key": "lost"}
        first = payer.http.post("/v1/a2a/tasks", json=body, headers=headers).json()
        assert first["task_id"] == agent.asked[0].headers["x-aither-task-id"]
        node.process.send_signal(signal.SIGKILL)
        node.process.wait()
        node.restart()
        payer = Known(node, payer)
        again = payer.http.post("/v1/a2a/tasks", json=body, headers=headers).json()
        assert again == first and len(agent.asked) == 1
        assert payer.tokens() == 1000 - PRICE


def test_a_node_that_stops_lets_calls_finish(start_node):
    node = start_node()
    owner, payer = Account(node, "o@example.org"), Account(node, "p@example.org")
    go_on = threading.Event()

    def waits(connection: Connection) -> None:
        assert go_on.wait(DEADLINE_SECONDS)
        connection.answer({"response": "in time"})

    with callee(chat=waits) as agent, ThreadPoolExecutor(1) as pool:
        come_aboard(owner, "draining", agent)
        answer = pool.submit(chat, payer, "draining")
        wait_until("the agent is asked", lambda: len(agent.asked) == 1)
        node.process.send_signal(signal.SIGTERM)

        def is_closed() -> bool:
            try:
                httpx.get(f"{node.url}/health", timeout=DEADLINE_SECONDS)
            except httpx.TransportError:
                return True
            return False

        wait_until("nothing is accepted any more", is_closed)
        go_on.set()
        assert answer.result().json()["response"] == "in time"
        assert node.process.wait(DEADLINE_SECONDS) == 0
        node.start()
        payer = Known(node, payer)
        assert payer.tokens() == 1000 - PRICE


def test_of_parallel_tasks_that_a_crash_cuts_off_those_that_were_paid_are_not_paid_again(
    start_node,
):
    node = start_node()
    owner, payer = Account(node, "o@example.org"), Account(node, "p@example.org")

    def waits_for_two(connection: Connection) -> None:
        if connection.asked.json()["message"] == "two":
            connection.wait_until_closed()
        else:
            echo(connection)

    with callee(chat=waits_for_two) as agent, ThreadPoolExecutor(1) as pool:
        come_aboard(owner, "halved", agent)
        tasks = [{"agent": "halved", "input": "one"}, {"agent": "halved", "input": "two"}]
        headers = {"Idempotency-Key": "halves"}

        def ask() -> httpx.Response:
            return payer.http.post("/v1/a2a/parallel", json={"tasks": tasks}, headers=headers)

        cut_off = pool.submit(ask)
        wait_until("one is paid", lambda: payer.tokens() == 1000 - 2 * PRICE)
        wait_until("one has ended", lambda: payer.balance()["held"] == PRICE)
        node.process.send_signal(signal.SIGKILL)
        node.process.wait()
        with pytest.raises(httpx.TransportError):
            cut_off.result()
        node.restart()
        payer = Known(node, payer)
        agent.behaviours["/chat"] = echo
        assert payer.tokens() == 1000 - PRICE
        wait_until(
            "it is live again",
            lambda: payer.http.get("/v1/agents/halved").json()["state"] == "LIVE",
        )
        results = ask().json()["results"]
        assert [item["result"] for item in results] == ["one", "two"]
        said = [asked.json()["message"] for asked in agent.asked]
        assert sorted(said) == ["one", "two", "two"]
        assert payer.tokens() == 1000 - 2 * PRICE
