"""Events on the real binary: whoever may hear something hears all of it, once, and nobody else."""

from __future__ import annotations

import json
import pathlib
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import DEADLINE_SECONDS, Node, required, wait_until
from onboarding import aboard, assert_problem, card, of_tier, with_key
from test_billing import Account, operator

SUBSCRIBE = "/v1/events/subscribe"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("events"))
    yield node
    assert node.stop() == 0


@pytest.fixture(scope="module")
def owner(home: Node) -> Account:
    return Account(home, "events@example.org")


def agent(node: Node, account: Account, name: str, tier: str = "agent") -> httpx.Client:
    asked = ["event_subscribe"] if tier != "reflex" else []
    more = {"capabilities_requested": asked, "billing": of_tier(tier)}
    return with_key(node, aboard(account.http, card(name, **more))["api_key"])


def emit(http: httpx.Client, event: str, data: object = None, **more) -> int:
    answer = http.post("/v1/events/emit", json={"event": event, "data": data} | more)
    assert answer.status_code == 200, answer.text
    assert answer.json()["time"].endswith("Z")
    return int(answer.json()["id"])


class Stream:
    """A stream that is open, read by whoever asks for its next event."""

    def __init__(self, http: httpx.Client, path: str = SUBSCRIBE, last: int | None = None, **query):
        headers = {} if last is None else {"Last-Event-ID": str(last)}
        # A connection of its own, which ends with it.
        self.http = httpx.Client(base_url=http.base_url, headers=http.headers, timeout=60)
        request = self.http.build_request("GET", path, params=query, headers=headers)
        self.answer = self.http.send(request, stream=True)
        assert self.answer.status_code == 200, self.answer.read()
        assert self.answer.headers["content-type"] == "text/event-stream"
        self.pieces, self.unread = self.answer.iter_raw(), b""

    def next(self) -> dict | None:
        """The next event, or None at the end."""
        while True:
            # By hand: the client's lines take long where they are long.
            while b"\n\n" not in self.unread:
                piece = next(self.pieces, None)
                if piece is None:
                    return None
                self.unread += piece
            frame, _, self.unread = self.unread.partition(b"\n\n")
            if not frame.startswith(b":"):
                lines = (line.partition(": ") for line in frame.decode().split("\n"))
                fields = {name: value for name, _, value in lines}
                return fields | json.loads(fields["data"])

    def ids(self, count: int) -> list[int]:
        found = []
        while len(found) < count:
            event = self.next()
            assert event is not None, found
            found.append(int(event["id"]))
        return found

    def rest(self) -> list[dict]:
        found = []
        while (event := self.next()) is not None:
            found.append(event)
        return found

    def close(self) -> None:
        self.answer.close()
        self.http.close()


def test_an_event_reaches_those_of_its_account_by_pattern(home: Node, owner: Account):
    emitter, listener = agent(home, owner, "emitter", "reflex"), agent(home, owner, "listener")
    stranger = Account(home, "stranger@example.org")
    streams = {
        "agent": Stream(listener, events="agent.*.completed,system.health"),
        "account": Stream(owner.http, events="agent.**"),
        "stranger": Stream(stranger.http),
        "operator": Stream(operator(home), events="agent.*.*,system.*"),
    }
    data = {"message_length": 12, "nested": [1.5, None, {"text": "line\nbreak \u00e4"}]}
    first = emit(emitter, "agent.chat.completed", data)
    second = emit(emitter, "agent.chat.started", 1)
    third = emit(owner.http, "agent.x.completed", "for all", public=True)
    fourth = emit(operator(home), "system.health", "good", public=True)
    heard = streams["agent"].next()
    assert (int(heard["id"]), heard["event"]) == (first, "agent.chat.completed")
    assert (heard["agent"], heard["time"][-1]) == ("emitter", "Z")
    assert heard["data"] == data
    assert streams["agent"].ids(2) == [third, fourth]
    assert streams["account"].ids(3) == [first, second, third]
    assert streams["operator"].ids(4) == [first, second, third, fourth]
    # The first that a stranger hears is for all.
    heard = streams["stranger"].next()
    assert (int(heard["id"]), heard["agent"]) == (third, None)
    for stream in streams.values():
        stream.close()
    refused = with_key(home, emitter.headers["authorization"][7:]).get(SUBSCRIBE)
    assert_problem(refused, 403, "capability_missing")


@pytest.mark.parametrize(
    "name",
    [
        "billing.charged",
        "node.started",
        "federation.peer.joined",
        "system.health",
        "agent.emitter.lifecycle",
        "agent.emitter.call.completed",
        "gap",
        "a b",
        "a..b",
    ],
)
def test_the_nodes_own_names_are_refused(home: Node, owner: Account, name: str):
    answer = owner.http.post("/v1/events/emit", json={"event": name, "data": None})
    problem = assert_problem(answer, 422, "validation_failed")
    assert problem["errors"][0]["field"] == "event"


def test_the_node_tells_of_payments_to_whoever_pays(home: Node, owner: Account):
    payer, other = Account(home, "payer@example.org"), Account(home, "other@example.org")
    stream, others = Stream(payer.http), Stream(other.http)
    bought = {"account": payer.id, "tokens": 7, "reference": "invoice 9"}
    assert operator(home).post("/v1/billing/topup", json=bought).status_code == 200
    told = stream.next()
    assert (told["event"], told["data"]["amount"]) == ("billing.topup", 7)
    asked = {"prompt": "Hi", "max_tokens": 2}
    cost = payer.http.post("/v1/llm/generate", json=asked).json()["cost_tokens"]
    told = stream.next()
    assert told["event"] == "billing.charged"
    assert told["data"]["amount"] == cost and told["data"]["route"].startswith("/v1/llm")
    # Nothing of it was for another.
    mine = emit(other.http, "mine")
    assert others.ids(1) == [mine]
    stream.close()
    others.close()


def test_a_stream_goes_on_after_a_restart_and_after_a_kill(start_node: Callable[..., Node]):
    node = start_node()
    account = Account(node, "resumes@example.org")
    ids = [emit(account.http, "a", number) for number in range(5)]
    assert node.stop() == 0
    node.start()
    account.http.base_url = node.url
    ids.append(emit(account.http, "a", 5))
    stream = Stream(account.http, last=ids[1])
    assert stream.ids(4) == ids[2:]
    stream.close()
    for turn in range(3):
        acknowledged = kill_while_emitting(node, account, f"turn.{turn}")
        account.http.base_url = node.url
        stream = Stream(account.http, last=ids[-1], events=f"turn.{turn}")
        heard = stream.ids(len(acknowledged))
        stream.close()
        # What was not acknowledged may be there, too.
        found = logged(node, account, f"turn.{turn}", ids[-1])
        assert acknowledged <= set(found) and found == sorted(set(found))
        assert heard == found[: len(heard)]
        later = emit(account.http, "later")
        assert later > max(found)
        ids.append(later)
    assert node.stop() == 0
    checked = command(node, "check")
    assert checked.returncode == 0 and "events" in checked.stdout, checked


def kill_while_emitting(node: Node, account: Account, event: str) -> set[int]:
    """What was acknowledged until the node was killed and started again."""
    acknowledged: set[int] = set()
    enough = threading.Event()

    def emits() -> None:
        http = with_key(node, account.key)
        try:
            while True:
                acknowledged.add(emit(http, event))
                if len(acknowledged) > 100:
                    enough.set()
        except httpx.HTTPError:
            pass

    with ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(emits)
        assert enough.wait(DEADLINE_SECONDS)
        node.restart()
    return acknowledged


def logged(node: Node, account: Account, event: str, after: int) -> list[int]:
    """All that there is after an event, in its order."""
    end = emit(account.http, "end")
    stream = Stream(account.http, last=after, events=f"{event},end")
    found = []
    while (id := stream.ids(1)[0]) != end:
        found.append(id)
    stream.close()
    return found


def test_the_slow_one_is_cut_off_and_the_others_hear_everything(start_node: Callable[..., Node]):
    # It is to be told, so it must not be given up before it reads again.
    node = start_node('[http]\nrequest_timeout = "10m"\n')
    account = Account(node, "slow@example.org")
    key = f"Authorization: Bearer {account.key}"
    host, port = node.url.removeprefix("http://").split(":")
    slow = socket.create_connection((host, int(port)))
    slow.settimeout(DEADLINE_SECONDS)
    slow.sendall(f"GET {SUBSCRIBE} HTTP/1.1\r\nHost: x\r\n{key}\r\n\r\n".encode())
    assert b"200 OK" in slow.recv(4096)
    others = [Stream(account.http, events="load") for _ in range(3)]
    with ThreadPoolExecutor(len(others) + 4) as pool:
        # More than a follower may be behind, with what the sockets' buffers hold.
        count, text = 1600, "x" * 60_000
        hearing = [pool.submit(other.ids, count) for other in others]
        # Of emitters that are few, the others are not behind.
        emitting = [pool.submit(emit, account.http, "load", text) for _ in range(count)]
        ids = sorted(done.result() for done in emitting)
        for heard in hearing:
            assert heard.result() == ids
    received = b""
    while piece := slow.recv(1 << 20):
        received = (received + piece)[-8192:]
        if b"event: lagged" in received and received.endswith(b"0\r\n\r\n"):
            break
    assert node.metric("aither_events_cut_off_total") == 1
    lagged = received[received.index(b"event: lagged") :].decode()
    told = json.loads(lagged.split("data: ")[1].splitlines()[0])
    last = int(told["data"]["last_id"])
    assert ids[0] <= last < ids[-1]
    slow.close()
    # From there it hears the rest.
    resumed = Stream(account.http, last=last, events="load")
    rest = [id for id in ids if id > last]
    assert resumed.ids(len(rest)) == rest
    for stream in [*others, resumed]:
        stream.close()
    wait_until("all are gone", lambda: node.metric("aither_events_subscriptions") == 0)


def test_who_never_reads_is_given_up(start_node: Callable[..., Node]):
    node = start_node('[http]\nrequest_timeout = "2s"\n')
    account = Account(node, "stuck@example.org")
    key = f"Authorization: Bearer {account.key}"
    host, port = node.url.removeprefix("http://").split(":")
    stuck = socket.create_connection((host, int(port)))
    stuck.sendall(f"GET {SUBSCRIBE} HTTP/1.1\r\nHost: x\r\n{key}\r\n\r\n".encode())
    wait_until("it follows", lambda: node.metric("aither_events_subscriptions") == 1)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while node.metric("aither_events_subscriptions") == 1:
        assert time.monotonic() < deadline
        emit(account.http, "load", "x" * 60_000)
    stuck.close()


def test_open_streams_do_not_hold_a_stop(start_node: Callable[..., Node]):
    node = start_node()
    account = Account(node, "stops@example.org")
    streams = [Stream(account.http) for _ in range(20)]
    begun = time.monotonic()
    assert node.stop() == 0
    # The drain lasts twenty seconds for requests that do not end.
    assert time.monotonic() - begun < 10
    for stream in streams:
        last = stream.rest()[-1]
        assert last["event"] == "closed" and "stopping" in last["data"]["reason"]


def test_a_stream_ends_with_its_key(home: Node, owner: Account):
    leaver = agent(home, owner, "leaver")
    following = [Stream(leaver), Stream(leaver, "/v1/agents/leaver/logs", follow="true")]
    others = Stream(owner.http, events="later")
    assert owner.http.post("/v1/agents/leaver/rotate-key").status_code == 200
    for stream in following:
        last = stream.rest()[-1]
        assert last["event"] == "closed" and "key" in last["data"]["reason"]
    later = emit(owner.http, "later")
    assert others.ids(1) == [later]
    others.close()


def test_an_agents_log(home: Node, owner: Account):
    logger, other = agent(home, owner, "logger"), agent(home, owner, "logger-2")
    ids = [emit(logger, "agent.chat.completed", number) for number in range(5)]
    emit(other, "agent.chat.completed", "other")
    path = "/v1/agents/logger/logs"

    def own(http: httpx.Client, **query) -> tuple[list[dict], str | None]:
        answer = http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        items = [item for item in answer.json()["items"] if item["event"].endswith(".completed")]
        return items, answer.json()["next_cursor"]

    for http in (logger, owner.http, operator(home)):
        items, cursor = own(http)
        assert [int(item["id"]) for item in items] == ids and cursor is None
        assert items[-1]["data"] == 4 and items[-1]["time"].endswith("Z")
    _, cursor = own(logger, limit=1)
    older, _ = own(logger, limit=2, cursor=cursor)
    assert [int(item["id"]) for item in older] == ids[2:4]
    for http in (other, Account(home, "curious@example.org").http):
        assert_problem(http.get(path), 404, "unknown_agent")
    stream = Stream(owner.http, path, follow="true", limit="2")
    assert stream.ids(2) == ids[3:]
    later = emit(logger, "agent.chat.completed", 5)
    assert stream.ids(1) == [later]
    stream.close()


def test_a_full_disk_is_told_and_events_go_on_when_there_is_room(start_node: Callable[..., Node]):
    node = start_node()
    http = operator(node)
    first = emit(http, "a", "x" * 5000)
    stream = Stream(http)
    used = max(path.stat().st_size for path in node.data_dir.glob("*.redb"))
    limits = (used, resource.RLIM_INFINITY)
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, limits)
    ids = [first]
    body = {"event": "a", "data": "x" * 50_000}
    while (answer := http.post("/v1/events/emit", json=body)).status_code == 200:
        ids.append(int(answer.json()["id"]))
    problem = assert_problem(answer, 507, "insufficient_storage")
    assert str(node.data_dir) not in problem["detail"]
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    ids.append(emit(http, "a", "again"))
    assert stream.ids(len(ids) - 1) == ids[1:]
    stream.close()
    assert node.stop() == 0
    checked = command(node, "check")
    assert checked.returncode == 0, checked


def test_a_backup_has_the_events(start_node: Callable[..., Node], tmp_path: pathlib.Path):
    node = start_node()
    account = Account(node, "backup@example.org")
    first = emit(account.http, "a", "before")
    file = tmp_path / "backup.zip"
    assert command(node, "backup", str(file)).returncode == 0
    after = emit(account.http, "a", "after")
    assert node.stop() == 0
    restored = command(node, "restore", str(file))
    assert restored.returncode == 0 and "events.redb" in restored.stdout, restored
    again = start_node(directory=node.data_dir.parent)
    account.http.base_url = again.url
    stream = Stream(account.http, last=0, events="a")
    heard = stream.next()
    assert (int(heard["id"]), heard["data"]) == (first, "before")
    stream.close()
    # A number that the backup does not know: whoever has heard more is told so.
    ahead = Stream(account.http, last=after + (1 << 40))
    assert ahead.next()["event"] == "gap"
    ahead.close()


def test_old_events_go_and_who_comes_back_too_late_is_told(start_node: Callable[..., Node]):
    node = start_node('[events]\nbytes_max = "1MiB"\n')
    http = operator(node)
    ids = [emit(http, "a", "x" * 60_000) for _ in range(40)]
    node.restart()
    http.base_url = node.url
    stream = Stream(http, last=ids[0])
    gap = stream.next()
    after = int(gap["data"]["after"])
    assert gap["event"] == "gap" and ids[0] < after < ids[-1]
    kept = [id for id in ids if id > after]
    assert stream.ids(len(kept)) == kept
    assert node.metric("aither_events_kept_bytes") <= 1 << 20
    stream.close()


def command(node: Node, *args: str) -> subprocess.CompletedProcess:
    words = [required("AITHER_NODE_BIN"), *args, "--data-dir", str(node.data_dir)]
    return subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
