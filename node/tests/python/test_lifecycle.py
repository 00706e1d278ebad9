"""Lives of agents on the real binary: pain, healing, draining, and what starts and ends leave."""

from __future__ import annotations

import http.server
import json
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import DEADLINE_SECONDS, Node, wait_until
from onboarding import aboard, assert_problem, card, with_key
from test_billing import Account, operator

SUBSCRIBE = "/v1/events/subscribe"


class Agent:
    """An agent that says of itself what the test wants."""

    def __init__(self) -> None:
        self.healthy = True
        self.asked = 0
        agent = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                agent.asked += 1
                content = json.dumps({"status": "healthy" if agent.healthy else "sick"}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def agent() -> Iterator[Agent]:
    agent = Agent()
    yield agent
    agent.stop()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("lives"))
    yield node
    assert node.stop() == 0


@pytest.fixture(scope="module")
def owner(home: Node) -> Account:
    return Account(home, "lives@example.org")


def quick_card(name: str, agent: Agent) -> dict:
    return card(name, agent_url=agent.url, health={"interval": "1s"})


def story(http: httpx.Client, name: str) -> dict:
    answer = http.get(f"/v1/agents/{name}/lifecycle")
    assert answer.status_code == 200, answer.text
    return answer.json()


def path(http: httpx.Client, name: str) -> list[str]:
    """Where an agent was; each move begins where the last one ended, and says why."""
    life = story(http, name)
    states = [life["history"][0]["from"]]
    for move in life["history"]:
        assert move["from"] == states[-1] and move["reason"], life
        states.append(move["to"])
    assert life["state"] == states[-1]
    assert life["reason"] == life["history"][-1]["reason"]
    return states


def wait_for(http: httpx.Client, name: str, state: str) -> None:
    wait_until(f"{name} is {state}", lambda: story(http, name)["state"] == state)


def follow(account: Account, name: str, count: int) -> list[tuple[str, str]]:
    """The next moves of an agent, as events tell them."""
    query = {"events": f"agent.{name}.lifecycle"}
    moves: list[tuple[str, str]] = []
    with account.http.stream("GET", SUBSCRIBE, params=query) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))["data"]
                moves.append((data["from"], data["to"]))
                assert data["reason"]
            if len(moves) == count:
                break
    return moves


def test_an_agent_that_fails_is_in_pain_then_left_alone_and_lives_again(
    home: Node, owner: Account, agent: Agent
):
    aboard(owner.http, quick_card("moody", agent))
    assert path(owner.http, "moody") == ["DEPLOY", "INIT", "BOOT", "LIVE"]
    wait_until("it is asked again while it lives", lambda: agent.asked > 2)
    with ThreadPoolExecutor(1) as pool:
        heard = pool.submit(follow, owner, "moody", 3)
        agent.healthy = False
        wait_for(owner.http, "moody", "HEAL")
        health = owner.http.get("/v1/agents/moody/health").json()
        assert health["healthy"] is False and health["checked_at"].endswith("Z")
        assert "goes on failing" in health["reason"]
        listed = owner.http.get("/v1/agents", params={"state": "HEAL"}).json()["items"]
        assert [item["name"] for item in listed] == ["moody"]
        agent.healthy = True
        wait_for(owner.http, "moody", "LIVE")
        assert heard.result(timeout=DEADLINE_SECONDS) == [
            ("LIVE", "PAIN"),
            ("PAIN", "HEAL"),
            ("HEAL", "LIVE"),
        ]
    states = path(owner.http, "moody")
    assert states == ["DEPLOY", "INIT", "BOOT", "LIVE", "PAIN", "HEAL", "LIVE"]
    reasons = [move["reason"] for move in story(owner.http, "moody")["history"]]
    assert "3 probes in a row have failed" in reasons[3]


def test_skills_of_who_cannot_be_called_are_not_offered(home: Node, owner: Account, agent: Agent):
    skill = {"id": "brooding", "name": "Brooding", "description": "Broods"}
    aboard(owner.http, quick_card("brooder", agent) | {"skills": [skill]})

    def is_offered() -> bool:
        return "| `brooding` | 1 |" in home.http.get("/SKILLS.md").text

    wait_until("its skill is offered", is_offered)
    agent.healthy = False
    wait_for(owner.http, "brooder", "HEAL")
    wait_until("its skill is not offered", lambda: not is_offered())
    agent.healthy = True
    wait_until("its skill is offered again", is_offered)


def test_a_drained_agent_is_taken_back_by_who_may(home: Node, owner: Account, agent: Agent):
    bundle = aboard(owner.http, quick_card("drained", agent))
    itself = with_key(home, bundle["api_key"])
    stranger = Account(home, "lives-stranger@example.org")
    assert_problem(stranger.http.post("/v1/agents/drained/drain"), 404, "unknown_agent")
    assert_problem(stranger.http.get("/v1/agents/drained/lifecycle"), 404, "unknown_agent")
    assert stranger.http.get("/v1/agents/drained/health").json()["state"] == "LIVE"
    answer = operator(home).post("/v1/agents/drained/drain")
    assert answer.status_code == 200 and answer.json()["state"] in ("DRAIN", "STOP")
    wait_for(owner.http, "drained", "STOP")
    for lower in (itself, owner.http):
        assert_problem(lower.post("/v1/agents/drained/resume"), 403, "capability_missing")
    assert operator(home).post("/v1/agents/drained/resume").json()["state"] == "LIVE"
    states = path(itself, "drained")
    assert states[3:] == ["LIVE", "DRAIN", "STOP", "BOOT", "LIVE"]
    reasons = [move["reason"] for move in story(itself, "drained")["history"]]
    assert reasons[3] == "it was drained by the node's operator"
    assert reasons[5] == "it was resumed by the node's operator"


def test_its_owner_has_an_agent_asked_at_once(owner: Account, agent: Agent):
    aboard(owner.http, card("slowly", agent_url=agent.url, health={"interval": "1h"}))
    asked = agent.asked
    agent.healthy = False
    health = owner.http.get("/v1/agents/slowly/health").json()
    assert health["healthy"] is True and health["state"] == "LIVE"
    health = owner.http.get("/v1/agents/slowly/health", params={"probe": "1"}).json()
    assert health["healthy"] is False and agent.asked == asked + 1


def kill(node: Node) -> None:
    node.process.kill()
    node.process.wait()


def end(node: Node) -> None:
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(timeout=30) == 0


@pytest.mark.parametrize(
    ("leave", "between"), [(kill, []), (end, ["DRAIN", "STOP"])], ids=["killed", "stopped"]
)
def test_a_start_asks_for_everybodys_health_and_forgets_nothing(
    start_node: Callable[..., Node],
    tmp_path: pathlib.Path,
    agent: Agent,
    leave: Callable[[Node], None],
    between: list[str],
):
    node = start_node(directory=tmp_path)
    owner = Account(node, "lives@example.org")
    aboard(owner.http, quick_card("steady", agent))
    aboard(owner.http, card("resting"))
    aboard(owner.http, quick_card("aside", agent))
    owner.http.post("/v1/agents/aside/drain")
    wait_for(owner.http, "aside", "STOP")
    agent.healthy = False
    wait_for(owner.http, "steady", "PAIN")
    agent.healthy = True
    wait_for(owner.http, "steady", "LIVE")
    before = path(owner.http, "steady")
    aside = path(owner.http, "aside")
    leave(node)
    node.start()
    again = with_key(node, owner.key)
    wait_for(again, "steady", "LIVE")
    after = path(again, "steady")
    reasons = [move["reason"] for move in story(again, "steady")["history"]]
    if leave is end:
        assert after == [*before, *between, "BOOT", "LIVE"]
        assert reasons[-4:-2] == ["the node stops"] * 2
    else:
        # A crash may lose the very last moves, and says so by what follows.
        assert after[: len(before) - 1] == before[:-1] and after[-2:] == ["BOOT", "LIVE"]
    assert reasons[-2:] == ["the node started", "it was found healthy"]
    assert path(again, "aside") == aside
    assert path(again, "resting") == ["DEPLOY", "INIT", "BOOT", "LIVE"]
    assert again.post("/v1/agents/aside/resume").json()["state"] == "LIVE"
