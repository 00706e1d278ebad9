"""What tests of agents share: cards, coming aboard, and a little server for an agent's health."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from conftest import DEADLINE_SECONDS, Node

# All that a bundle has, by the interface; what is None is no group of addresses.
BUNDLE = {
    "agent_id": None,
    "agent_name": None,
    "status": None,
    "mode": None,
    "api_key": None,
    "public_key": None,
    "capability_token": None,
    "capabilities": None,
    "inference_endpoints": {"llm", "chat", "embed", "openai"},
    "memory_endpoints": {"write", "read", "search", "delete"},
    "a2a_endpoints": {"tasks", "parallel", "card", "jsonrpc"},
    "event_endpoints": {"emit", "subscribe"},
    "management": {"connection_info", "rotate_key", "card", "usage", "teardown"},
    "workspace": None,
    "inference": None,
    "a2a": None,
}
PROMPT = {"prompt": "Hi", "max_tokens": 1}


def card(name: str, **more) -> dict:
    """A small card that is right; `more` replaces its fields."""
    return {
        "name": name,
        "version": "1.0.0",
        "description": "An agent of the tests",
        "skills": [{"id": "echo", "name": "Echo", "description": "Says it again"}],
        "endpoints": [{"path": "/chat", "method": "POST"}],
        "capabilities_requested": ["llm_inference"],
        "billing": {"token_cost_per_request": 3, "category": "agent"},
        "health_endpoint": "/health",
    } | more


def of_tier(category: str) -> dict:
    return {"token_cost_per_request": 1, "category": category}


def onboard(http: httpx.Client, card: dict, mode: str = "hybrid") -> httpx.Response:
    return http.post("/v1/agents/auto-onboard", json={"agent_card": card, "mode": mode})


def aboard(http: httpx.Client, card: dict, mode: str = "hybrid") -> dict:
    """The bundle of a new agent."""
    answer = onboard(http, card, mode)
    assert answer.status_code == 201, answer.text
    return answer.json()


def with_key(node: Node, key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=node.url, timeout=DEADLINE_SECONDS, headers=headers)


def works(node: Node, key: str) -> bool:
    """Whether a key opens anything at all."""
    status = with_key(node, key).get("/v1/auth/me").status_code
    assert status in (200, 401), status
    return status == 200


def spawn(node: Node, bundle: dict, key: str | None = None, **terms) -> httpx.Response:
    terms = {"capabilities": ["llm_inference"]} | terms
    path = f"/v1/agents/{bundle['agent_name']}/spawn"
    return with_key(node, key or bundle["api_key"]).post(path, json=terms)


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == code and problem["status"] == status, problem
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def agent_server(port: int = 0, status: int = 200, body: object = None) -> Iterator[str]:
    """An agent that answers one thing everywhere: that it is well, where not said otherwise."""
    content = json.dumps({"status": "healthy"} if body is None else body).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
