"""`Idempotency-Key`: what is asked again is answered as before and charged once."""

import concurrent.futures
import json
import random
import signal
import socket
import subprocess
from decimal import Decimal

import httpx
import pytest
from conftest import DEADLINE_SECONDS, MODEL, Node, required, wait_until
from test_billing import ASK, Account, cost_of, operator

DEDUCT = {"tokens": 3, "reason": "once"}
LONG = {"prompt": "Count to a thousand.", "max_tokens": 300, "temperature": 0, "stream": True}


@pytest.fixture(scope="module")
def ann(node: Node) -> Account:
    return Account(node, "ann@idempotent.example")


def post(
    account: Account, path: str, body: dict, key: str, headers: dict | None = None
) -> httpx.Response:
    headers = {"Idempotency-Key": key} | (headers or {})
    return account.http.post(path, json=body, headers=headers)


def is_replay(answer: httpx.Response) -> bool:
    return answer.headers.get("idempotent-replayed") == "true"


def in_flight(answer: httpx.Response) -> bool:
    return answer.status_code == 409 and "still being answered" in answer.text


def ask_until_ended(account: Account, path: str, body: dict, key: str) -> httpx.Response:
    """Asks again as long as the first request is at work."""
    answers = []

    def has_ended() -> bool:
        answers.append(post(account, path, body, key))
        return not in_flight(answers[-1])

    wait_until("the request is answered", has_ended)
    return answers[-1]


def test_every_dialect_answers_again_and_charges_once(ann: Account):
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
    text = {"model": MODEL, "prompt": "Once upon", "max_tokens": 8}
    ollama = {"model": MODEL, "prompt": "Hi", "options": {"num_predict": 8}}
    for number, (path, body) in enumerate(
        [
            ("/v1/llm/generate", {"prompt": "Hi", "max_tokens": 8}),
            ("/v1/llm/chat", {"messages": chat["messages"], "max_tokens": 8}),
            ("/v1/chat/completions", chat),
            ("/v1/completions", text),
            ("/api/generate", ollama),
            ("/api/chat", {"model": MODEL, "messages": chat["messages"]}),
        ]
    ):
        for stream in (False, True):
            body = body | {"stream": stream}
            before = ann.tokens()
            first = post(ann, path, body, f"dialect-{number}-{stream}")
            assert first.status_code == 200 and not is_replay(first), first.text
            paid = before - ann.tokens()
            assert paid > 0
            again = post(ann, path, body, f"dialect-{number}-{stream}")
            assert is_replay(again) and again.content == first.content, path
            for name in ("content-type", "x-aither-cost", "cache-control"):
                assert again.headers.get(name) == first.headers.get(name), (path, name)
            assert again.headers["x-request-id"] != first.headers["x-request-id"]
            assert before - ann.tokens() == paid, path
            other = post(ann, path, body | {"seed": 7}, f"dialect-{number}-{stream}")
            assert other.status_code == 409, path
            assert before - ann.tokens() == paid, path


def test_what_changes_the_meaning_is_another_request(ann: Account):
    first = post(ann, "/v1/llm/generate", ASK, "meaning")
    capped = post(ann, "/v1/llm/generate", ASK, "meaning", {"X-Aither-Max-Cost": "1"})
    assert capped.status_code == 409 and capped.json()["code"] == "conflict"
    urgent = post(ann, "/v1/llm/generate", ASK, "meaning", {"X-Aither-Priority": "2"})
    assert is_replay(urgent) and urgent.content == first.content
    # The same key on another route is another key.
    assert post(ann, "/v1/billing/deduct", DEDUCT, "meaning").status_code == 200


def test_deduct_and_topup_happen_once(node: Node, ann: Account):
    before = ann.tokens()
    answers = [post(ann, "/v1/billing/deduct", DEDUCT, "deduct") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({answer.content for answer in answers}) == 1
    assert [is_replay(answer) for answer in answers] == [False, True, True]
    assert all(cost_of(answer) == 3 for answer in answers)
    assert post(ann, "/v1/billing/deduct", DEDUCT | {"tokens": 4}, "deduct").status_code == 409
    body = {"account": ann.id, "tokens": 10, "reference": "invoice 1"}
    for _ in range(3):
        answer = operator(node).post(
            "/v1/billing/topup", json=body, headers={"Idempotency-Key": "t"}
        )
        assert answer.status_code == 200, answer.text
    assert ann.tokens() == before - 3 + 10


def test_keys_of_others_are_independent(node: Node, ann: Account):
    bob = Account(node, "bob@idempotent.example")
    for account in (ann, bob):
        answer = post(account, "/v1/billing/deduct", DEDUCT, "shared")
        assert answer.status_code == 200 and not is_replay(answer)
    local = node.http.post("/v1/llm/generate", json=ASK, headers={"Idempotency-Key": "local"})
    as_operator = operator(node).post(
        "/v1/llm/generate", json=ASK, headers={"Idempotency-Key": "local"}
    )
    assert local.status_code == as_operator.status_code == 200
    assert not is_replay(local) and not is_replay(as_operator)


def test_a_request_in_flight_is_409(ann: Account):
    headers = {"Idempotency-Key": "flight"}
    with ann.http.stream("POST", "/v1/llm/generate", json=LONG, headers=headers) as first:
        frames = first.iter_raw()
        received = next(frames)
        meanwhile = post(ann, "/v1/llm/generate", LONG, "flight")
        assert in_flight(meanwhile) and meanwhile.headers["retry-after"] == "1"
        assert post(ann, "/v1/llm/generate", ASK, "flight").status_code == 409
        received += b"".join(frames)
    assert post(ann, "/v1/llm/generate", LONG, "flight").content == received


def test_a_wrong_key_is_refused_before_anything_is_done(ann: Account):
    before = ann.tokens()
    for key in ("", "two words", "k" * 256):
        answer = post(ann, "/v1/billing/deduct", DEDUCT, key)
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["field"] == "idempotency-key"
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    assert ann.http.post("/v1/billing/deduct", json=DEDUCT, headers=twice).status_code == 422
    assert ann.tokens() == before
    assert post(ann, "/v1/billing/deduct", DEDUCT, "k" * 255).status_code == 200


def test_402_is_not_kept(node: Node):
    poor = Account(node, "poor@idempotent.example")
    poor.spend_all_but("0.000001")
    for path, body in (("/v1/llm/generate", ASK), ("/v1/billing/deduct", DEDUCT)):
        assert post(poor, path, body, "poor").status_code == 402
        assert post(poor, path, body, "poor").status_code == 402
    top_up = {"account": poor.id, "tokens": 10, "reference": "gift"}
    assert operator(node).post("/v1/billing/topup", json=top_up).status_code == 200
    for path, body in (("/v1/llm/generate", ASK), ("/v1/billing/deduct", DEDUCT)):
        answer = post(poor, path, body, "poor")
        assert answer.status_code == 200 and not is_replay(answer)
        before = poor.tokens()
        assert is_replay(post(poor, path, body, "poor")) and poor.tokens() == before


def test_a_refusal_that_does_not_pass_is_kept(ann: Account):
    first = post(ann, "/v1/llm/generate", ASK | {"temperature": -1}, "bad")
    again = post(ann, "/v1/llm/generate", ASK | {"temperature": -1}, "bad")
    assert first.status_code == again.status_code == 422
    assert is_replay(again) and again.content == first.content
    assert again.headers["content-type"] == "application/problem+json"
    assert post(ann, "/v1/llm/generate", ASK, "bad").status_code == 409


def test_fifty_at_once_are_charged_once(node: Node):
    account = Account(node, "crowd@idempotent.example")

    def pay(_: int) -> httpx.Response:
        headers = {"Authorization": f"Bearer {account.key}", "Idempotency-Key": "crowd"}
        with httpx.Client(base_url=node.url, timeout=DEADLINE_SECONDS) as client:
            return client.post("/v1/billing/deduct", json=DEDUCT, headers=headers)

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(pay, range(50)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    done = [answer for answer in answers if answer.status_code == 200]
    assert [is_replay(answer) for answer in done].count(False) == 1
    assert len({answer.content for answer in done}) == 1
    assert account.tokens() == 997


def test_an_account_is_made_once_and_its_key_is_not_kept(start_node):
    node = start_node()
    body = {"email": "once@idempotent.example", "password": "correct horse battery"}
    headers = {"Idempotency-Key": "register"}
    first = node.http.post("/v1/auth/register", json=body, headers=headers)
    assert first.status_code == 201
    for repeated in (body, body | {"email": "other@idempotent.example"}):
        again = node.http.post("/v1/auth/register", json=repeated, headers=headers)
        assert again.status_code == 409 and "what it made exists" in again.json()["detail"]
    assert node.stop() == 0
    stored = (node.data_dir / "answers.redb").read_bytes()
    assert first.json()["api_key"].encode() not in stored
    assert first.json()["account_id"].encode() not in stored
    assert (node.data_dir / "answers.redb").stat().st_mode & 0o777 == 0o600


def test_answers_survive_a_restart_and_a_kill(start_node):
    node = start_node()
    account = Account(node, "survivor@idempotent.example")
    paths = [("/v1/llm/generate", ASK), ("/v1/llm/generate", LONG), ("/v1/billing/deduct", DEDUCT)]
    answers = [post(account, path, body, str(n)) for n, (path, body) in enumerate(paths)]
    tokens = account.tokens()
    for kind in (signal.SIGTERM, signal.SIGKILL):
        node.process.send_signal(kind)
        node.process.wait()
        node.restart()
        account.http.base_url = node.url
        for number, (path, body) in enumerate(paths):
            again = post(account, path, body, str(number))
            assert is_replay(again) and again.content == answers[number].content
        assert account.tokens() == tokens
    assert node.stop() == 0
    command = [required("AITHER_NODE_BIN"), "check", "--data-dir", str(node.data_dir)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0 and "answers    3 good" in checked.stdout, checked.stderr


def hang_up_after(node: Node, account: Account, key: str, deltas: int) -> None:
    """Asks for a stream and leaves in its middle."""
    body = json.dumps(LONG, separators=(",", ":")).encode()
    host, port = node.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST /v1/llm/generate HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Authorization: Bearer {account.key}\r\nContent-Type: application/json\r\n"
            f"Idempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        received = b""
        while received.count(b"event: delta") < deltas:
            received += connection.recv(4096)


def test_who_hangs_up_finds_the_whole_stream_and_pays_once(node: Node):
    account = Account(node, "gone@idempotent.example")
    hang_up_after(node, account, "gone", 3)
    answer = ask_until_ended(account, "/v1/llm/generate", LONG, "gone")
    assert answer.status_code == 200 and is_replay(answer)
    last = answer.text.strip().rsplit("data: ", 1)[1]
    done = json.loads(last, parse_float=Decimal)
    assert done["completion_tokens"] > 10 and done["finish_reason"], "it was not cut off"
    assert account.tokens() == 1000 - done["cost_tokens"]
    whole = account.http.post("/v1/llm/generate", json=LONG | {"stream": False}).json()
    assert done["text"] == whole["text"] and len(whole["text"]) > 100
    kinds = [item["kind"] for item in account.statement()]
    assert kinds.count("posted") == 2 and kinds.count("reserved") == 2


def test_a_kill_in_flight_charges_at_most_once(start_node):
    node = start_node()
    account = Account(node, "killed@idempotent.example")
    per_1k = Decimal(str(account.http.get(f"/v1/models/{MODEL}").json()["cost_per_1k"]))
    for seed in range(10):
        deltas = random.Random(seed).randrange(1, 40)
        before = account.tokens()
        hang_up_after(node, account, f"killed-{seed}", deltas)
        node.process.send_signal(signal.SIGKILL)
        node.process.wait()
        node.restart()
        account.http.base_url = node.url
        assert account.balance()["held"] == 0
        answer = ask_until_ended(account, "/v1/llm/generate", LONG, f"killed-{seed}")
        assert answer.status_code == 200, answer.text
        done = json.loads(answer.text.strip().rsplit("data: ", 1)[1], parse_float=Decimal)
        assert before - account.tokens() == done["cost_tokens"] <= per_1k
        again = post(account, "/v1/llm/generate", LONG, f"killed-{seed}")
        assert is_replay(again) and again.content == answer.content


def deduct_until_killed(node: Node, account: Account, seed: int) -> list[str]:
    """Pays under keys until the node is killed; returns the keys that were tried."""
    tried: list[str] = []
    paid: list[str] = []

    def client(number: int) -> None:
        headers = {"Authorization": f"Bearer {account.key}"}
        with httpx.Client(base_url=node.url, timeout=30, headers=headers) as http:
            for step in range(1000):
                key = f"{seed}/{number}/{step}"
                tried.append(key)
                body = {"tokens": 0.001, "reason": key}
                try:
                    answer = http.post(
                        "/v1/billing/deduct", json=body, headers={"Idempotency-Key": key}
                    )
                except httpx.TransportError:
                    return
                assert answer.status_code == 200, answer.text
                paid.append(key)

    rounds = random.Random(seed).randrange(5, 60)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client, number) for number in range(8)]
        wait_until("some have paid", lambda: len(paid) >= rounds)
        node.process.send_signal(signal.SIGKILL)
        node.process.wait()
        for done in clients:
            done.result()
    return tried


def test_deducts_repeated_after_a_kill_happen_exactly_once(start_node):
    node = start_node()
    account = Account(node, "payer@idempotent.example")
    tried = []
    for seed in range(15):
        keys = deduct_until_killed(node, account, seed)
        node.restart()
        account.http.base_url = node.url
        for key in keys:
            body = {"tokens": 0.001, "reason": key}
            answer = post(account, "/v1/billing/deduct", body, key)
            assert answer.status_code == 200, answer.text
        tried += keys
        assert account.tokens() == 1000 - Decimal("0.001") * len(tried), seed
    memos = [item["memo"] for item in account.statement() if "/" in (item["memo"] or "")]
    assert sorted(memos) == sorted(tried)
