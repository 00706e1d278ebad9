"""Accounts on the real binary: registering, logging in, keys, plans, and what survives a stop."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import MODEL, Node, wait_until
from test_slots import ENDLESS

PASSWORD = "correct horse battery"
CREDENTIALS = {"email": "ann@example.org", "password": PASSWORD}
PROMPT = {"prompt": "Hi", "max_tokens": 1}


def client(node: Node, key: str) -> httpx.Client:
    http = node.http
    http.headers["authorization"] = f"Bearer {key}"
    return http


def register(node: Node, email: str = CREDENTIALS["email"]) -> dict:
    answer = node.http.post("/v1/auth/register", json=CREDENTIALS | {"email": email})
    assert answer.status_code == 201, answer.text
    return answer.json()


def login(node: Node, email: str = CREDENTIALS["email"]) -> dict:
    answer = node.http.post("/v1/auth/login", json=CREDENTIALS | {"email": email})
    assert answer.status_code == 200, answer.text
    return answer.json()


def status_of(node: Node, key: str) -> int:
    return client(node, key).get("/v1/auth/me").status_code


def restart(node: Node, start: Callable[..., Node], config: str = "") -> Node:
    """Starts another process on the same directory, which the first has left."""
    assert node.stop() == 0
    return start(config, directory=node.data_dir.parent)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node on which each test has an account of its own."""
    node = Node(tmp_path_factory.mktemp("accounts"))
    yield node
    assert node.stop() == 0


def test_register_log_in_refresh_and_me(home: Node):
    made = register(home)
    assert made.keys() == {"account_id", "api_key"} and len(made["account_id"]) == 26
    session = login(home)
    assert session.keys() == {"api_key", "expires_at", "refresh_token"}
    renewed = home.http.post("/v1/auth/refresh", json={"refresh_token": session["refresh_token"]})
    assert renewed.status_code == 200 and renewed.json().keys() == session.keys()
    for key in (made["api_key"], session["api_key"], renewed.json()["api_key"]):
        assert key.startswith("aither_sk_")
        me = client(home, key).get("/v1/auth/me").json()
        assert me == {
            "account_id": made["account_id"],
            "email": CREDENTIALS["email"],
            "plan": "enterprise",
        }
        assert client(home, key).get("/v1/models").status_code == 200
        answer = client(home, key).post("/v1/llm/generate", json=PROMPT)
        assert answer.json()["model"] == MODEL
    assert client(home, home.key).get("/v1/auth/me").json()["account_id"] == "operator"


def test_an_address_is_taken_once(home: Node):
    register(home, "once@example.org")
    again = {"email": "ONCE@example.org", "password": PASSWORD}
    answer = home.http.post("/v1/auth/register", json=again)
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"


def test_what_does_not_fit_is_named(home: Node):
    for body, fields in [
        ({"email": "nobody", "password": "short"}, ["email", "password"]),
        ({"email": "a@example.org", "password": "x" * 1025}, ["password"]),
        ({"email": "a" * 250 + "@example.org", "password": PASSWORD}, ["email"]),
        ({"email": "a@example.org"}, ["password"]),
    ]:
        answer = home.http.post("/v1/auth/register", json=body)
        assert answer.status_code == 422, body
        assert [error["field"] for error in answer.json()["errors"]] == fields
        assert answer.json()["code"] == "validation_failed"


def test_a_large_body_is_refused(home: Node):
    body = {"email": "a@example.org", "password": "x" * (10 << 20)}
    for path in ("/v1/auth/register", "/v1/auth/login", "/v1/auth/refresh"):
        answer = home.http.post(path, json=body)
        assert answer.status_code == 413, path
        assert answer.json()["code"] == "payload_too_large"


def test_a_wrong_key_is_401_everywhere(home: Node):
    for key in ("aither_sk_wrong", "aither_rt_wrong", "x", "aither_sk_" + "1" * 10_000):
        for path in ("/v1/auth/me", "/v1/keys", "/v1/models", "/api/tags", "/v1/nowhere"):
            answer = client(home, key).get(path)
            assert answer.status_code == 401, (key, path)
            assert answer.headers["www-authenticate"].startswith("Bearer")
    assert home.http.get("/v1/auth/me").status_code == 401
    assert client(home, "wrong").get("/health").status_code == 200


def test_two_logins_at_once_both_work(home: Node):
    register(home, "twice@example.org")
    with ThreadPoolExecutor(2) as pool:
        sessions = list(pool.map(lambda _: login(home, "twice@example.org"), range(2)))
    assert sessions[0]["api_key"] != sessions[1]["api_key"]
    assert [status_of(home, session["api_key"]) for session in sessions] == [200, 200]


def test_a_reused_refresh_token_ends_its_login_and_no_other(home: Node):
    made = register(home, "reuse@example.org")
    first, other = (login(home, "reuse@example.org") for _ in range(2))
    body = {"refresh_token": first["refresh_token"]}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: home.http.post("/v1/auth/refresh", json=body), range(4)))
    won = [answer.json() for answer in answers if answer.status_code == 200]
    assert len(won) == 1
    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401]
    dead = [first["api_key"], won[0]["api_key"]]
    assert [status_of(home, key) for key in dead] == [401, 401]
    body = {"refresh_token": won[0]["refresh_token"]}
    assert home.http.post("/v1/auth/refresh", json=body).status_code == 401
    assert [status_of(home, key) for key in (made["api_key"], other["api_key"])] == [200, 200]


def test_keys_are_listed_and_revoked_by_their_owner(home: Node):
    ann, bob = register(home, "keys@example.org"), register(home, "other@example.org")
    session = login(home, "keys@example.org")
    mine = client(home, ann["api_key"])
    keys = mine.get("/v1/keys").json()
    assert keys["next_cursor"] is None and len(keys["items"]) == 2
    by_prefix = {key["prefix"]: key for key in keys["items"]}
    key = next(v for k, v in by_prefix.items() if session["api_key"].startswith(k))
    assert key["expires"] == session["expires_at"] and key["last_used"] is None
    assert session["api_key"] not in json.dumps(keys)
    path = f"/v1/keys/{key['id']}"
    assert client(home, bob["api_key"]).delete(path).status_code == 404
    assert mine.delete(path).status_code == 204
    assert mine.delete(path).status_code == 404
    assert status_of(home, session["api_key"]) == 401
    assert status_of(home, ann["api_key"]) == 200


def test_an_account_is_not_the_operator(home: Node):
    http = client(home, register(home, "plain@example.org")["api_key"])
    for method, path in [
        ("GET", "/v1/admin/accounts"),
        ("POST", "/v1/admin/accounts"),
        ("POST", "/v1/models/import"),
        ("POST", "/api/pull"),
    ]:
        answer = http.request(method, path, json={})
        assert answer.status_code == 403, path
    assert http.get("/v1/admin/accounts").json()["code"] == "capability_missing"


def test_the_operator_disables_and_lists_accounts(home: Node):
    operator = client(home, home.key)
    made = register(home, "off@example.org")
    path = f"/v1/admin/accounts/{made['account_id']}"
    assert operator.patch(path, json={"state": "disabled"}).json()["state"] == "disabled"
    assert status_of(home, made["api_key"]) == 401
    assert operator.patch(path, json={"state": "active"}).status_code == 200
    assert status_of(home, made["api_key"]) == 200
    seen, cursor = [], None
    while True:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = operator.get("/v1/admin/accounts", params=query).json()
        assert len(page["items"]) <= 2
        seen += [account["account_id"] for account in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == sorted(set(seen)) and made["account_id"] in seen


def test_guessing_passwords_is_slowed_down(home: Node):
    register(home, "guess@example.org")
    for email in ("guess@example.org", "nobody@example.org"):
        body = {"email": email, "password": "wrong horse"}
        answers = [home.http.post("/v1/auth/login", json=body) for _ in range(12)]
        codes = [answer.status_code for answer in answers]
        assert codes[:10] == [401] * 10 and codes[11] == 429, codes
        assert int(answers[11].headers["retry-after"]) >= 1
        assert answers[11].json()["code"] == "rate_limited"
    # Another account is not touched.
    register(home, "calm@example.org")
    login(home, "calm@example.org")


def test_registration_can_be_closed(start_node: Callable[..., Node]):
    node = start_node('[accounts]\nregistration = "closed"\n')
    answer = node.http.post("/v1/auth/register", json=CREDENTIALS)
    assert answer.status_code == 403 and answer.json()["code"] == "registration_closed"
    operator = client(node, node.key)
    made = operator.post("/v1/admin/accounts", json=CREDENTIALS | {"plan": "builder"})
    assert made.status_code == 201, made.text
    assert client(node, login(node)["api_key"]).get("/v1/auth/me").json()["plan"] == "builder"


def test_a_login_expires(start_node: Callable[..., Node]):
    node = start_node('[accounts]\nlogin_key_ttl = "1s"\n')
    made, session = register(node), login(node)
    wait_until("the key has expired", lambda: status_of(node, session["api_key"]) == 401)
    body = {"refresh_token": session["refresh_token"]}
    renewed = node.http.post("/v1/auth/refresh", json=body)
    assert renewed.status_code == 200
    assert renewed.json()["api_key"] != session["api_key"]
    assert status_of(node, made["api_key"]) == 200


def test_an_explorer_is_held_to_his_plan(start_node: Callable[..., Node]):
    node = start_node('[accounts]\ndefault_plan = "explorer"\n')
    one, two = register(node, "one@example.org"), register(node, "two@example.org")
    http = client(node, one["api_key"])
    answers = [http.post("/v1/llm/generate", json=PROMPT) for _ in range(12)]
    codes = [answer.status_code for answer in answers]
    # A slow machine may have earned one back meanwhile.
    assert codes[:10] == [200] * 10 and 429 in codes[10:], codes
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["code"] == "rate_limited"
    assert http.get("/v1/models").status_code == 200
    assert client(node, node.key).post("/v1/llm/generate", json=PROMPT).status_code == 200

    http = client(node, two["api_key"])
    with http.stream("POST", "/v1/chat/completions", json=ENDLESS | {"stream": True}) as stream:
        assert stream.status_code == 200
        refused = http.post("/v1/llm/generate", json=PROMPT)
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
    # Whoever hangs up has ended his request.
    wait_until(
        "the stream counts no more",
        lambda: http.post("/v1/llm/generate", json=PROMPT).status_code == 200,
    )
    # A stream that was read to its end has ended by then.
    short = PROMPT | {"stream": True}
    assert "event: done" in http.post("/v1/llm/generate", json=short).text
    assert http.post("/v1/llm/generate", json=PROMPT).status_code == 200


def test_accounts_outlive_the_process(start_node: Callable[..., Node]):
    node = start_node()
    made, session = register(node), login(node)
    assert status_of(node, made["api_key"]) == 200
    node = restart(node, start_node)
    assert status_of(node, made["api_key"]) == status_of(node, session["api_key"]) == 200
    keys = client(node, session["api_key"]).get("/v1/keys").json()["items"]
    assert keys[0]["last_used"] is not None
    body = {"refresh_token": session["refresh_token"]}
    assert node.http.post("/v1/auth/refresh", json=body).status_code == 200
    login(node)
    assert node.http.post("/v1/auth/register", json=CREDENTIALS).status_code == 409


def test_a_killed_node_has_kept_what_it_acknowledged(start_node: Callable[..., Node]):
    node = start_node()
    keys = [register(node, f"{n}@example.org")["api_key"] for n in range(5)]
    node.process.kill()
    node.process.wait()
    node = start_node(directory=node.data_dir.parent)
    assert [status_of(node, key) for key in keys] == [200] * 5


def test_no_secret_is_logged_or_stored(start_node: Callable[..., Node]):
    node = start_node('[log]\nfilter = "trace"\n')
    made, session = register(node), login(node)
    assert status_of(node, session["api_key"]) == 200
    wrong = CREDENTIALS | {"password": "a wrong password"}
    assert node.http.post("/v1/auth/login", json=wrong).status_code == 401
    assert node.stop() == 0
    directory = node.data_dir.parent
    files = [directory / "log", *(p for p in node.data_dir.rglob("*") if p.name != "admin.key")]
    secrets = [PASSWORD, "a wrong password", made["api_key"], session["api_key"]]
    for path in (p for p in files if p.is_file() and p.stat().st_size < 1 << 26):
        content = pathlib.Path(path).read_bytes()
        for secret in [*secrets, session["refresh_token"]]:
            assert secret.encode() not in content, path
