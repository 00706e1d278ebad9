"""The platform's complete example, as it stands there but for server and key.

The same calls with the same bodies in the same order, each by a client of its own with httpx's
defaults, which gives up after five seconds. The agent that has the skill it calls is a real one: a
web service that asks the node's model itself and is paid for it.
"""

import asyncio
import json
import threading
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from conftest import DEADLINE_SECONDS, MODEL, Node, wait_until
from onboarding import aboard, card, with_key
from test_billing import Account

PRICE = 5


class Researcher:
    """An agent with the skill that the example calls. It asks the model with its own key."""

    def __init__(self):
        researcher = self
        self.asked: list[dict] = []
        self.bundle: dict = {}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer({"status": "healthy"})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                researcher.asked.append(body)
                self.answer({"response": researcher.research(body["message"]), "tokens_used": 1})

            def answer(self, body: dict) -> None:
                content = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def research(self, topic: str) -> str:
        answer = httpx.post(
            self.bundle["inference_endpoints"]["llm"],
            json={"prompt": topic, "max_tokens": 8, "temperature": 0},
            headers={"Authorization": f"Bearer {self.bundle['api_key']}"},
            timeout=DEADLINE_SECONDS,
        )
        return f"On {topic}: {answer.json()['text']}"

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    node = Node(tmp_path_factory.mktemp("example"))
    yield node
    node.stop()


@pytest.fixture
def researcher():
    agent = Researcher()
    yield agent
    agent.stop()


async def example(server: str, key: str) -> tuple[dict, list[httpx.Response]]:
    """Returns the bundle, and the answers of all calls."""
    answers = []
    card = {
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
        "resources": {"model": "llama3.1:8b"},
        "billing": {"token_cost_per_request": 3, "category": "agent"},
        "health_endpoint": "/health",
        "self_hosted": True,
    }
    r = await httpx.AsyncClient().post(
        f"{server}/v1/agents/auto-onboard",
        json={"agent_card": card, "mode": "hybrid"},
        headers={"Authorization": f"Bearer {key}"},
    )
    config = r.json()
    answers.append(r)
    llm = await httpx.AsyncClient().post(
        config["inference_endpoints"]["llm"],
        json={"prompt": "Summarize quantum computing", "model": "llama3.1:8b"},
        headers={"Authorization": f"Bearer {config['api_key']}"},
    )
    answers.append(llm)
    answers.append(
        await httpx.AsyncClient().post(
            config["memory_endpoints"]["write"],
            json={"tier": "active", "key": "last_query", "value": "quantum"},
            headers={"Authorization": f"Bearer {config['api_key']}"},
        )
    )
    research = await httpx.AsyncClient().post(
        config["a2a_endpoints"]["tasks"],
        json={"skill": "deep_research", "input": "Latest in quantum computing"},
        headers={"Authorization": f"Bearer {config['api_key']}"},
    )
    answers.append(research)
    return config, answers


def test_the_complete_example_runs_and_both_sides_see_the_split(
    home: Node, researcher: Researcher
) -> None:
    owner, user = Account(home, "lab@example.org"), Account(home, "bot@example.org")
    skill = {"id": "deep_research", "name": "Deep research", "description": "Looks into it"}
    about = card(
        "deep-researcher",
        skills=[skill],
        agent_url=researcher.url,
        billing={"token_cost_per_request": PRICE, "category": "agent"},
    )
    researcher.bundle = aboard(owner.http, about, "remote")
    state = home_state(home, owner, "deep-researcher")
    assert state == "LIVE"
    before = {account: account.tokens() for account in (owner, user)}

    config, (onboarded, llm, written, research) = asyncio.run(example(home.url, user.key))
    assert onboarded.status_code == 201, onboarded.text
    assert llm.status_code == 200, llm.text
    assert llm.json()["text"] and llm.json()["model"] == MODEL
    assert written.status_code == 200, written.text
    assert research.status_code == 200, research.text
    answer = research.json()
    assert answer["status"] == "completed" and answer["agent_used"] == "deep-researcher"
    assert answer["result"].startswith("On Latest in quantum computing: ")
    assert Decimal(str(answer["cost_tokens"])) == PRICE
    assert researcher.asked[0]["message"] == "Latest in quantum computing"

    # What the example wrote and called is there, and paid as it says.
    agent = with_key(home, config["api_key"])
    read = agent.post("/v1/memory/read", json={"tier": "active", "key": "last_query"})
    assert read.json()["value"] == "quantum"
    task = agent.get(f"/v1/a2a/tasks/{answer['task_id']}").json()
    assert task["status"] == "completed" and task["result"] == answer["result"]
    spent = before[user] - user.tokens()
    assert spent == PRICE + Decimal(llm.headers["x-aither-cost"])
    [paid] = [entry for entry in user.statement() if entry["kind"] == "posted" and entry["split"]]
    [earned] = [entry for entry in owner.statement() if entry["split"]]
    assert paid["transfer"] == earned["transfer"]
    assert (paid["amount"], earned["amount"]) == (-PRICE, Decimal("0.8") * PRICE)
    parts = {part["account"]: part["amount"] for part in paid["split"]}
    assert parts == {owner.id: Decimal("0.8") * PRICE, "node": Decimal("0.2") * PRICE}
    assert earned["split"] == paid["split"]

    # And again after a restart.
    home.stop()
    home.start()
    owner.http, user.http = with_key(home, owner.key), with_key(home, user.key)
    researcher.bundle = researcher.bundle | {
        "inference_endpoints": {"llm": f"{home.url}/v1/llm/generate"}
    }
    wait_until("it is live", lambda: home_state(home, owner, "deep-researcher") == "LIVE")
    agent = with_key(home, config["api_key"])
    again = agent.get(f"/v1/a2a/tasks/{answer['task_id']}").json()
    assert again["status"] == "completed" and again["result"] == answer["result"]
    body = {"skill": "deep_research", "input": "Latest in quantum computing"}
    called = agent.post("/v1/a2a/tasks", json=body)
    assert called.status_code == 200, called.text
    assert len([entry for entry in owner.statement() if entry["split"]]) == 2


def home_state(node: Node, account: Account, name: str) -> str:
    return with_key(node, account.key).get(f"/v1/agents/{name}").json()["state"]
