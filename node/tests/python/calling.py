"""What tests of calls share: agents as little servers that do what a test tells them."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal

import httpx
from conftest import DEADLINE_SECONDS, Node, wait_until
from onboarding import aboard, card, with_key
from test_billing import Account

JSON = "application/json"
# What a call of these agents costs.
PRICE = Decimal(3)


@dataclass
class Asked:
    """A request that an agent got."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict:
        return json.loads(self.body)


class Connection:
    """An agent's side of one request."""

    def __init__(self, handler: http.server.BaseHTTPRequestHandler, asked: Asked):
        self.handler, self.asked = handler, asked

    def answer(self, body: object, status: int = 200, content_type: str = JSON) -> None:
        """Answers whole: with JSON, or with a text or bytes as they are."""
        content = body if isinstance(body, bytes) else None
        if content is None:
            content = (body if content_type != JSON else json.dumps(body)).encode()
        self.handler.send_response(status)
        self.handler.send_header("Content-Type", content_type)
        self.handler.send_header("Content-Length", str(len(content)))
        self.handler.end_headers()
        self.handler.wfile.write(content)

    def begin_stream(self, content_type: str = "text/event-stream") -> None:
        """Begins an answer that ends with the connection."""
        self.handler.send_response(200)
        self.handler.send_header("Content-Type", content_type)
        self.handler.send_header("Connection", "close")
        self.handler.end_headers()
        self.handler.close_connection = True

    def event(self, data: object, name: str | None = None) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        head = f"event: {name}\n" if name else ""
        self.raw(f"{head}data: {text}\n\n".encode())

    def raw(self, content: bytes) -> None:
        self.handler.wfile.write(content)
        self.handler.wfile.flush()

    def wait_until_closed(self) -> None:
        """Waits until the node has closed the connection."""
        self.handler.connection.settimeout(DEADLINE_SECONDS)
        with suppress(ConnectionResetError):
            assert self.handler.connection.recv(1) == b""
        self.handler.close_connection = True


Behaviour = Callable[[Connection], None]


@dataclass
class Callee:
    """An agent that answers as it is told to, by path."""

    behaviours: dict[str, Behaviour]
    asked: list[Asked] = field(default_factory=list)
    url: str = ""
    running: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def on(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        path = handler.path
        body = handler.rfile.read(length)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        asked = Asked(handler.command, path, headers, body)
        connection = Connection(handler, asked)
        if path == "/health":
            return connection.answer({"status": "healthy"})
        with self.lock:
            self.asked.append(asked)
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            behaviour = self.behaviours.get(path.split("?")[0])
            if behaviour is None:
                connection.answer({"detail": "no such path"}, 404)
            else:
                behaviour(connection)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True
        finally:
            with self.lock:
                self.running -= 1


@contextmanager
def callee(port: int = 0, **behaviours: Behaviour) -> Iterator[Callee]:
    """Runs an agent; `chat=` is what it does at `/chat`."""
    agent = Callee({f"/{name}": behaviour for name, behaviour in behaviours.items()})

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            agent.on(self)

        do_POST = do_PUT = do_DELETE = do_GET

        def log_message(self, *_) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        agent.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield agent
        finally:
            server.shutdown()
            thread.join()


def says(response: object) -> Behaviour:
    return lambda connection: connection.answer({"response": response})


def echo(connection: Connection) -> None:
    connection.answer({"response": connection.asked.json()["message"]})


def come_aboard(owner: Account, name: str, agent: Callee, **more) -> dict:
    """Takes an agent aboard and waits until it can be called."""
    endpoints = [{"path": path, "method": "POST"} for path in agent.behaviours]
    more = {"endpoints": endpoints, "agent_url": agent.url, "capabilities_requested": []} | more
    bundle = aboard(owner.http, card(name, **more), "remote")

    def is_live() -> bool:
        return owner.http.get(f"/v1/agents/{name}").json()["state"] == "LIVE"

    wait_until(f"{name} is live", is_live)
    return bundle


def skill(id: str, **more) -> dict:
    return {"id": id, "name": id, "description": "A skill of the tests"} | more


def chat(account: Account, name: str, message: object = "hi", **more) -> httpx.Response:
    return account.http.post(f"/v1/agents/{name}/chat", json={"message": message} | more)


def task(account: Account, **body) -> httpx.Response:
    return account.http.post("/v1/a2a/tasks", json=body)


def call(account: Account, name: str, endpoint: str, **more) -> httpx.Response:
    return account.http.post(f"/v1/agents/{name}/call", json={"endpoint": endpoint} | more)


def shown(account: Account, task_id: str) -> dict:
    answer = account.http.get(f"/v1/a2a/tasks/{task_id}")
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text, parse_float=Decimal)


def wait_for_status(account: Account, task_id: str, status: str) -> dict:
    wait_until(f"the task is {status}", lambda: shown(account, task_id)["status"] == status)
    return shown(account, task_id)


def unchanged(account: Account, before: Decimal) -> None:
    """Nothing was charged and nothing is held any more."""
    wait_until("nothing is held", lambda: account.balance()["held"] == 0)
    assert account.tokens() == before


def events(answer: httpx.Response) -> Iterator[tuple[str, dict]]:
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "), parse_float=Decimal)


class Known(Account):
    """An account that was made before, after its node has moved."""

    def __init__(self, node: Node, known: Account):
        self.id, self.key = known.id, known.key
        self.http = with_key(node, known.key)
