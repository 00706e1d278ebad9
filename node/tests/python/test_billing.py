"""Accounts that pay: balances, holds, charges, statements, prices, and what a crash leaves."""

import concurrent.futures
import csv
import io
import json
import pathlib
import random
import resource
import signal
import socket
import subprocess
from decimal import Decimal

import httpx
import pytest
from conftest import DEADLINE_SECONDS, MODEL, Node, required, wait_until

ASK = {"prompt": "What is gravity?", "max_tokens": 24, "temperature": 0}


class Account:
    """An account of a node, by its key."""

    def __init__(self, node: Node, email: str):
        answer = node.http.post(
            "/v1/auth/register", json={"email": email, "password": "correct horse"}
        )
        assert answer.status_code == 201, answer.text
        self.id, self.key = answer.json()["account_id"], answer.json()["api_key"]
        self.http = httpx.Client(
            base_url=node.url,
            timeout=DEADLINE_SECONDS,
            headers={"Authorization": f"Bearer {self.key}"},
        )

    def balance(self) -> dict:
        answer = self.http.get("/v1/billing/balance")
        assert answer.status_code == 200, answer.text
        return json.loads(answer.text, parse_float=Decimal, parse_int=Decimal)

    def tokens(self) -> Decimal:
        return self.balance()["tokens"]

    def spend_all_but(self, rest: str) -> None:
        tokens = str(self.tokens() - Decimal(rest))
        body = f'{{"tokens": {tokens}, "reason": "emptied"}}'
        answer = self.http.post("/v1/billing/deduct", content=body)
        assert answer.status_code == 200, answer.text

    def statement(self) -> list[dict]:
        items, cursor = [], ""
        while cursor is not None:
            answer = self.http.get("/v1/billing/statement", params={"limit": 7, "cursor": cursor})
            page = json.loads(answer.text, parse_float=Decimal, parse_int=Decimal)
            items += page["items"]
            cursor = page["next_cursor"]
        return items


def operator(node: Node) -> httpx.Client:
    headers = {"Authorization": f"Bearer {node.key}"}
    return httpx.Client(base_url=node.url, timeout=DEADLINE_SECONDS, headers=headers)


@pytest.fixture(scope="module")
def rich(node: Node) -> Account:
    return Account(node, "rich@example.org")


def cost_of(answer: httpx.Response) -> Decimal:
    return Decimal(answer.headers["x-aither-cost"])


def test_a_new_account_pays_for_what_it_asks_and_its_statement_sums(node: Node):
    account = Account(node, "first@example.org")
    before = account.balance()
    assert before["tokens"] == before["balance"] == before["granted"] == 1000
    assert before["held"] == 0 and before["plan"] == "enterprise" and before["expires"] is None
    answer = account.http.post("/v1/llm/generate", json=ASK)
    body = json.loads(answer.text, parse_float=Decimal)
    price = account.http.get(f"/v1/models/{MODEL}").json()
    per_1k = Decimal(str(price["cost_per_1k"]))
    assert cost_of(answer) == body["cost_tokens"] > 0
    exact = per_1k * body["tokens_used"] / 1000
    assert 0 <= body["cost_tokens"] - exact < Decimal("0.000001")
    assert account.tokens() == 1000 - body["cost_tokens"]
    items = account.statement()
    assert [item["kind"] for item in items] == ["posted", "reserved", "transferred", "opened"]
    assert sum(item["amount"] for item in items) == account.tokens()
    assert sum(item["held"] for item in items) == 0
    table = list(
        csv.DictReader(
            io.StringIO(account.http.get("/v1/billing/statement", params={"format": "csv"}).text)
        )
    )
    assert [row["entry"] for row in table] == [str(item["entry"]) for item in items]
    assert sum(Decimal(row["amount"]) for row in table) == account.tokens()


def test_every_dialect_charges_and_says_so(node: Node, rich: Account):
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    text = {"model": MODEL, "prompt": "Once upon", "max_tokens": 4}
    ollama = {"model": MODEL, "prompt": "Hi", "options": {"num_predict": 4}}
    for path, body, whole in [
        ("/v1/llm/chat", {"messages": chat["messages"], "max_tokens": 4}, {}),
        ("/v1/chat/completions", chat | {"n": 2}, {}),
        ("/v1/completions", text | {"prompt": ["a b", "c d e"]}, {}),
        ("/api/generate", ollama, {"stream": False}),
    ]:
        before = rich.tokens()
        answer = rich.http.post(path, json=body | whole)
        assert answer.status_code == 200, answer.text
        assert 0 < cost_of(answer) == before - rich.tokens(), path
        before = rich.tokens()
        lines = rich.http.post(path, json=body | {"stream": True}).text.splitlines()
        data = [line.removeprefix("data: ") for line in lines if line.endswith("}")]
        last = json.loads(data[-1], parse_float=Decimal)
        assert 0 < last["cost_tokens"] == before - rich.tokens(), path


def test_a_key_without_balance_gets_402_and_nothing_changes(node: Node):
    poor = Account(node, "poor@example.org")
    poor.spend_all_but("0.000001")
    for path, body in [
        ("/v1/llm/generate", ASK),
        ("/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}),
        ("/api/generate", {"model": MODEL, "prompt": "x"}),
    ]:
        answer = poor.http.post(path, json=body)
        assert answer.status_code == 402, answer.text
    problem = poor.http.post("/v1/llm/generate", json=ASK).json()
    assert problem["code"] == "insufficient_tokens" and problem["balance"] == 1e-06
    assert problem["required"] > problem["balance"]
    error = poor.http.post(
        "/v1/chat/completions",
        json={
            "model": MODEL,
            "messages": [{"role": "user", "content": "x"}],
            "max_tokens": 5,
        },
    ).json()["error"]
    assert error["code"] == "insufficient_tokens" and error["required"] > error["balance"]
    assert poor.tokens() == Decimal("0.000001")


def test_an_answer_without_a_bound_is_as_long_as_the_balance(node: Node):
    account = Account(node, "little@example.org")
    account.spend_all_but("0.002")
    answer = account.http.post(
        "/v1/chat/completions",
        json={
            "model": MODEL,
            "messages": [{"role": "user", "content": "Tell a long story."}],
        },
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["finish_reason"] in ("length", "stop")
    assert account.tokens() == Decimal("0.002") - cost_of(answer) >= 0


def test_the_sender_can_cap_the_cost(rich: Account):
    whole = rich.http.post("/v1/llm/generate", json=ASK)
    cap = cost_of(whole) - Decimal("0.0001")
    capped = rich.http.post("/v1/llm/generate", json=ASK, headers={"X-Aither-Max-Cost": str(cap)})
    assert capped.status_code == 200 and cost_of(capped) <= cap
    assert capped.json()["finish_reason"] == "length"
    assert whole.json()["text"].startswith(capped.json()["text"])
    before = rich.tokens()
    none = rich.http.post("/v1/llm/generate", json=ASK, headers={"X-Aither-Max-Cost": "0.000001"})
    assert none.status_code == 402 and none.json()["required"] > 0.000001
    wrong = rich.http.post("/v1/llm/generate", json=ASK, headers={"X-Aither-Max-Cost": "-1"})
    assert wrong.status_code == 422
    assert rich.tokens() == before


def test_who_hangs_up_pays_for_what_was_made(node: Node):
    account = Account(node, "gone@example.org")
    body = json.dumps({"prompt": "Count to a thousand.", "max_tokens": 2000, "stream": True})
    host, port = node.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST /v1/llm/generate HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Authorization: Bearer {account.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        received = b""
        while received.count(b"event: delta") < 5:
            received += connection.recv(4096)
        assert account.balance()["held"] > 0
    wait_until("the hold has ended", lambda: account.balance()["held"] == 0)
    paid = 1000 - account.tokens()
    per_1k = Decimal(str(account.http.get(f"/v1/models/{MODEL}").json()["cost_per_1k"]))
    assert 5 * per_1k / 1000 < paid < 2000 * per_1k / 1000
    assert [item["kind"] for item in account.statement()][:2] == ["posted", "reserved"]


def test_what_fails_costs_nothing(rich: Account):
    before = rich.balance()
    for body, status in [
        (ASK | {"model": "nobody"}, 404),
        (ASK | {"prompt": ""}, 422),
        (ASK | {"prompt": "word " * 20000}, 400),
        (ASK | {"temperature": -1}, 422),
    ]:
        assert rich.http.post("/v1/llm/generate", json=body).status_code == status
    late = rich.http.post("/v1/llm/generate", json=ASK, headers={"X-Aither-Deadline": "0.000001"})
    assert late.status_code in (503, 504)
    wait_until("nothing is held", lambda: rich.balance()["held"] == 0)
    assert rich.balance() == before


@pytest.mark.parametrize(
    ("tokens", "status"),
    [
        ("-1", 422),
        ("0", 422),
        ("0.0000001", 422),
        ("1.0000005", 422),
        ("9007199254.1", 422),
        ("340282366920938463463374607431768211456", 422),
        ("1e400", 422),
        ("NaN", 400),
        ("Infinity", 400),
        ('"5"', 422),
        ("null", 422),
        ("true", 422),
        ("[1]", 422),
        ("1000000", 402),
    ],
)
def test_amounts_that_are_none_change_nothing(node: Node, rich: Account, tokens: str, status: int):
    before = rich.tokens()
    body = f'{{"tokens": {tokens}, "reason": "x"}}'
    answer = rich.http.post("/v1/billing/deduct", content=body)
    assert answer.status_code == status, answer.text
    if status != 402:
        assert rich.http.post("/v1/billing/check", content=body).status_code == (
            200 if tokens == "0" else status
        )
        top_up = f'{{"account": "{rich.id}", "tokens": {tokens}, "reference": "x"}}'
        assert operator(node).post("/v1/billing/topup", content=top_up).status_code == status
    assert rich.tokens() == before


def test_check_deduct_and_topup(node: Node):
    account = Account(node, "topped@example.org")
    check = account.http.post("/v1/billing/check", json={"tokens": 1000}).json()
    assert check == {"allowed": True, "balance": 1000, "required": 1000}
    check = account.http.post("/v1/billing/check", json={"tokens": 1000.000001}).json()
    assert check["allowed"] is False
    answer = account.http.post("/v1/billing/deduct", json={"tokens": 999.5, "reason": "research"})
    assert answer.json() == {"balance": 0.5} and answer.headers["x-aither-cost"] == "999.5"
    refused = account.http.post("/v1/billing/deduct", json={"tokens": 1, "reason": "more"})
    assert refused.status_code == 402
    assert refused.json()["balance"] == 0.5 and refused.json()["required"] == 1
    body = {"account": account.id, "tokens": 20, "reference": "invoice 7"}
    assert account.http.post("/v1/billing/topup", json=body).status_code == 403
    assert operator(node).post("/v1/billing/topup", json=body).json() == {"balance": 20.5}
    balance = account.balance()
    assert balance["tokens"] == Decimal("20.5") and balance["granted"] == Decimal("0.5")
    unknown = body | {"account": "01ARZ3NDEKTSV4RRFFQ69G5FAV"}
    assert operator(node).post("/v1/billing/topup", json=unknown).status_code == 404
    assert operator(node).post("/v1/billing/topup", json=body | {"account": "x"}).status_code == 422
    memos = [item["memo"] for item in account.statement()]
    assert memos == ["invoice 7", "research", "welcome", ""]


def test_the_operator_pays_without_a_lower_bound(node: Node):
    before = operator(node).get("/v1/billing/balance").json()
    assert before["plan"] == "operator"
    answer = operator(node).post("/v1/billing/deduct", json={"tokens": 5000, "reason": "x"})
    assert answer.status_code == 200
    after = operator(node).get("/v1/billing/balance").json()
    assert round(before["tokens"] - after["tokens"], 6) == 5000 and after["tokens"] < 0
    assert node.http.post("/v1/llm/generate", json=ASK).headers["x-aither-cost"] != "0"


def test_usage_by_model_and_day(node: Node):
    account = Account(node, "used@example.org")
    costs = [cost_of(account.http.post("/v1/llm/generate", json=ASK)) for _ in range(3)]
    usage = json.loads(account.http.get("/v1/billing/usage").text, parse_float=Decimal)
    assert usage["total_tokens"] == sum(costs) and usage["total_requests"] == 3
    assert usage["by_model"].keys() == {MODEL}
    assert usage["by_model"][MODEL]["tokens"] == sum(costs)
    assert usage["by_agent"].keys() == {""}
    assert sum(day["requests"] for day in usage["by_day"].values()) == 3
    assert account.http.get("/v1/billing/usage", params={"period": "1h"}).status_code == 200
    for period in ("x", "-1d", "99999999d"):
        answer = account.http.get("/v1/billing/usage", params={"period": period})
        assert answer.status_code == 422, period


def test_prices_change_while_the_node_runs(start_node):
    node = start_node(
        '[billing]\nwelcome_grant = 2.5\n[billing.prices."smollm2:135m"]\n'
        "prompt_per_1k = 1\ncompletion_per_1k = 2.5\n"
    )
    account = Account(node, "a@example.org")
    assert account.tokens() == Decimal("2.5")
    model = account.http.get(f"/v1/models/{MODEL}").json()
    assert (model["cost_per_1k_prompt"], model["cost_per_1k"]) == (1, 2.5)
    admin = operator(node)
    prices = admin.get("/v1/admin/prices").json()
    assert prices["version"] == 1 and prices["models"][MODEL]["completion_per_1k"] == 2.5
    body = {"model": MODEL, "prompt_per_1k": 0, "completion_per_1k": 10}
    assert account.http.put("/v1/admin/prices", json=body).status_code == 403
    assert admin.put("/v1/admin/prices", json={"model": MODEL}).status_code == 200
    assert (
        admin.put("/v1/admin/prices", json={"model": MODEL, "prompt_per_1k": 1}).status_code == 422
    )
    assert admin.put("/v1/admin/prices", json=body).json()["version"] == 3
    answer = account.http.post("/v1/llm/generate", json=ASK)
    assert cost_of(answer) == Decimal(answer.json()["completion_tokens"]) / 100
    assert admin.put("/v1/admin/prices", json=body | {"completion_per_1k": 0}).status_code == 200
    assert cost_of(account.http.post("/v1/llm/generate", json=ASK)) == 0


def test_a_thousand_at_once_on_a_balance_for_a_hundred(node: Node):
    account = Account(node, "crowd@example.org")
    account.spend_all_but("100")

    def pay(_: int) -> int:
        with httpx.Client(base_url=node.url, timeout=DEADLINE_SECONDS) as client:
            body = {"tokens": 1, "reason": "one of many"}
            headers = {"Authorization": f"Bearer {account.key}"}
            return client.post("/v1/billing/deduct", json=body, headers=headers).status_code

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        codes = list(pool.map(pay, range(1000)))
    assert codes.count(200) == 100 and codes.count(402) == 900
    assert account.tokens() == 0


def killed_under_load(node: Node, account: Account, seed: int) -> list[Decimal]:
    """Lets clients pay until the node is killed; returns what was acknowledged."""
    paid = []

    def client(number: int) -> None:
        with httpx.Client(base_url=node.url, timeout=30) as http:
            headers = {"Authorization": f"Bearer {account.key}"}
            try:
                for step in range(1000):
                    if number % 4 == 0:
                        body = {"prompt": "Hi", "max_tokens": 3, "seed": step}
                        answer = http.post("/v1/llm/generate", json=body, headers=headers)
                    else:
                        body = {"tokens": 0.001, "reason": f"{seed}/{number}/{step}"}
                        answer = http.post("/v1/billing/deduct", json=body, headers=headers)
                    assert answer.status_code == 200, answer.text
                    paid.append(cost_of(answer))
            except httpx.TransportError:
                return

    rounds = random.Random(seed).randrange(5, 60)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client, number) for number in range(8)]
        wait_until("some have paid", lambda: len(paid) >= rounds)
        node.process.send_signal(signal.SIGKILL)
        node.process.wait()
        for done in clients:
            done.result()
    return paid


def test_kill_9_under_load_loses_and_doubles_nothing(start_node):
    node = start_node()
    account = Account(node, "survivor@example.org")
    before, at_risk = account.tokens(), 8
    for seed in range(50):
        paid = killed_under_load(node, account, seed)
        node.restart()
        account.http.base_url = node.url
        balance = account.balance()
        assert balance["held"] == 0, "what died with the process is void"
        spent = before - balance["tokens"]
        # What was acknowledged is paid; of what was at work, at most one of each client.
        assert sum(paid) <= spent <= sum(paid) + at_risk * Decimal("0.01"), seed
        before = balance["tokens"]
        items = account.statement() if seed % 10 == 9 else None
        if items:
            assert sum(item["amount"] for item in items) == balance["tokens"]
            memos = [item["memo"] for item in items if item["memo"].count("/") == 2]
            memos = [memo for memo in memos if not memo.startswith("/")]
            assert len(memos) == len(set(memos)), "nothing is doubled"
    assert node.stop() == 0
    checked = subprocess.run(
        [required("AITHER_NODE_BIN"), "check", "--data-dir", str(node.data_dir)],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr
    assert "entries good" in checked.stdout


def run(node: Node, *arguments: str) -> subprocess.CompletedProcess:
    command = [required("AITHER_NODE_BIN"), *arguments, "--data-dir", str(node.data_dir)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_backup_of_a_running_node_is_restored_whole(start_node, tmp_path: pathlib.Path):
    node = start_node()
    account = Account(node, "kept@example.org")
    account.http.post("/v1/billing/deduct", json={"tokens": 1.5, "reason": "before"})
    backup = tmp_path / "node.zip"
    done = run(node, "backup", str(backup))
    assert done.returncode == 0, done.stderr
    assert backup.stat().st_mode & 0o777 == 0o600
    account.http.post("/v1/billing/deduct", json={"tokens": 100, "reason": "after"})
    assert run(node, "restore", str(backup)).returncode == 3, "a node runs on it"
    assert node.stop() == 0
    again = run(node, "backup", str(tmp_path / "stopped.zip"))
    assert again.returncode == 0, again.stderr
    for file, tokens in [(backup, "998.5"), (tmp_path / "stopped.zip", "898.5")]:
        done = run(node, "restore", str(file))
        assert done.returncode == 0, done.stderr
        assert "entries good" in done.stdout and "before-restore" in done.stdout
        node.restart()
        account.http.base_url = node.url
        assert account.tokens() == Decimal(tokens)
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(30) == 0
    damaged = bytearray(backup.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.zip").write_bytes(damaged)
    (tmp_path / "letter.zip").write_text("dear all")
    before = (node.data_dir / "ledger.redb").read_bytes()
    for name in ("damaged.zip", "letter.zip", "missing.zip"):
        refused = run(node, "restore", str(tmp_path / name))
        assert refused.returncode == 1 and name in refused.stderr, refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    assert (node.data_dir / "ledger.redb").read_bytes() == before
    assert not [path for path in node.data_dir.iterdir() if path.name.startswith(".")]


def test_a_full_disk_stops_paid_work_and_loses_nothing(start_node):
    node = start_node()
    account = Account(node, "full@example.org")
    account.http.post("/v1/billing/deduct", json={"tokens": 1, "reason": "fits"})
    used = max(path.stat().st_size for path in node.data_dir.glob("*.redb"))
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (used, used))
    paid, words = Decimal(1), ""
    for _ in range(100_000):
        body = {"tokens": 0.001, "reason": "x" * 256}
        answer = account.http.post("/v1/billing/deduct", json=body)
        if answer.status_code != 200:
            assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
            words = answer.json()["detail"]
            break
        paid += Decimal("0.001")
    assert "free disk space" in words, words
    for path, body in [("/v1/llm/generate", ASK), ("/v1/billing/deduct", {"tokens": 1})]:
        refused = account.http.post(path, json=body)
        assert refused.status_code == 503, refused.text
    assert account.tokens() == 1000 - paid, "what is there can be read"
    assert node.http.get("/health").status_code == 200
    node.restart()
    account.http.base_url = node.url
    assert 1000 - account.tokens() in (paid, paid + Decimal("0.001"))
    assert account.http.post("/v1/llm/generate", json=ASK).status_code == 200
    assert node.stop() == 0
    assert run(node, "check").returncode == 0


def test_a_directory_that_cannot_be_written_is_an_error_in_one_line(tmp_path: pathlib.Path):
    for path in ("/proc/aither", str(tmp_path / "file" / "data")):
        (tmp_path / "file").write_text("in the way")
        command = [required("AITHER_NODE_BIN"), "run", "--data-dir", path, "--no-federation"]
        refused = subprocess.run(command, capture_output=True, text=True)
        assert refused.returncode == 1
        assert len(refused.stderr.splitlines()) == 1 and path in refused.stderr
