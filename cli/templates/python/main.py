"""An agent: a small web service that comes aboard an AitherOS node by itself.

Started with `python main.py`, it first listens, then sends what aither-agent.yaml says to the
node, which gives it a key and the addresses of models, memory and other agents. `answer` is the
place to make it do something of its own.

Environment:
  AITHEROS_SERVER   the node (default http://localhost:8200)
  AITHEROS_API_KEY  an account's key; a node on this machine needs none if this user may read
                    its admin.key (AITHER_DATA_DIR names its data directory)
  HOST, PORT        where to listen (default 127.0.0.1 and any free port)
  AGENT_URL         where the node reaches this agent, if not at http://HOST:PORT
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import json
import os
import pathlib
import secrets
import socket
import sys
from typing import Any
from urllib.parse import urlsplit

import fastapi
import httpx
import pydantic
import uvicorn
import yaml

HERE = pathlib.Path(__file__).resolve().parent
BUNDLE_FILE = HERE / ".aither" / "bundle.json"
SYSTEM_PROMPT = "You are a helpful assistant. Answer in a few sentences."
# Longest wait for an answer of a model, and between two tries to come aboard.
ANSWER_SECONDS = 120
PAUSE_SECONDS_MAX = 5
# A node writes down its address a moment after it starts; until then its key is not found.
KEYLESS_TRIES = 5

app = fastapi.FastAPI()


class Message(pydantic.BaseModel):
    message: str = pydantic.Field(min_length=1, max_length=100_000)


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "healthy"}


@app.post("/chat")
async def chat(body: Message) -> dict[str, Any]:
    return await answer(body.message)


async def answer(message: str) -> dict[str, Any]:
    """Asks a model of the node, with this agent's own key."""
    bundle = read_bundle()
    url = bundle["inference_endpoints"]["chat"]
    messages = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": message},
    ]
    try:
        async with client(url, bundle["api_key"]) as node:
            reply = await node.post(url, json={"messages": messages})
    except httpx.HTTPError as error:
        raise fastapi.HTTPException(502, f"the node does not answer: {error!r}") from error
    if reply.status_code != 200:
        raise fastapi.HTTPException(502, f"the node refused: {problem(reply)}")
    done = reply.json()
    return {"response": done["message"]["content"], "tokens_used": done["tokens_used"]}


def client(url: str, key: str | None) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    # A proxy does not know this machine's own addresses.
    return httpx.AsyncClient(
        headers=headers, timeout=ANSWER_SECONDS, trust_env=not is_loopback(url)
    )


def problem(reply: httpx.Response) -> str:
    """Returns the node's words for a refusal, with what is wrong of each field."""
    try:
        body = reply.json()
        words = [body["detail"]]
        words += [f"{error['field']}: {error['message']}" for error in body.get("errors", [])]
        return f"{'; '.join(words)} ({body['code']})"
    except (ValueError, KeyError, TypeError):
        return f"status {reply.status_code}"


# Coming aboard.


class Refused(Exception):
    """The node does not take this agent; trying again would not help."""


async def come_aboard(agent_url: str) -> None:
    """Sends the card until the node takes it, and saves what it gives."""
    server = os.environ.get("AITHEROS_SERVER") or "http://localhost:8200"
    server = (server if "://" in server else f"http://{server}").rstrip("/")
    card = yaml.safe_load((HERE / "aither-agent.yaml").read_text(encoding="utf-8"))
    body = {"agent_card": card | {"agent_url": agent_url}, "mode": "hybrid"}
    for tries in itertools.count(1):
        key = find_key(server)
        try:
            async with client(server, key) as node:
                reply = await node.post(f"{server}/v1/agents/auto-onboard", json=body)
            if reply.is_success:
                save_bundle(reply.json())
                break
            waits_for = why_not_yet(reply, may_find_key=key is None and tries < KEYLESS_TRIES)
        except httpx.HTTPError as error:
            waits_for = f"does not answer ({error!r})"
        if tries == 1:
            say(f"{server} {waits_for}; trying again until it takes this agent")
        await asyncio.sleep(min(0.5 * 2 ** min(tries - 1, 10), PAUSE_SECONDS_MAX))
    example = json.dumps({"message": "What is gravity?"})
    say(
        f"{card['name']} is aboard {server}; try: curl {agent_url}/chat "
        f"-H 'content-type: application/json' -d '{example}'"
    )


def why_not_yet(reply: httpx.Response, may_find_key: bool) -> str:
    """Returns why the node has to be asked again, unless asking again would not help."""
    status = reply.status_code
    if status == 429 or (status >= 500 and status != 501) or (status == 401 and may_find_key):
        return f"is not ready: {problem(reply)}"
    remedy = "; set AITHEROS_API_KEY" if status == 401 else ""
    raise Refused(f"the node refuses this agent: {problem(reply)}{remedy}")


def find_key(server: str) -> str | None:
    """Returns the key to come aboard with.

    The admin key rules its node, so it goes to the node that runs on its directory and to no
    other server.
    """
    if key := os.environ.get("AITHEROS_API_KEY", "").strip():
        return key
    if not is_loopback(server):
        return None
    share = os.environ.get("XDG_DATA_HOME") or pathlib.Path.home() / ".local" / "share"
    data_dir = pathlib.Path(os.environ.get("AITHER_DATA_DIR") or pathlib.Path(share) / "aither")
    try:
        running = json.loads((data_dir / "run.json").read_text())["http"]
        if port_of(running) == port_of(server):
            return (data_dir / "admin.key").read_text().strip()
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def port_of(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or {"http": 80, "https": 443}[parts.scheme]


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def save_bundle(bundle: dict[str, Any]) -> None:
    """Saves key and endpoints for this user alone; the file is always whole."""
    BUNDLE_FILE.parent.mkdir(mode=0o700, exist_ok=True)
    whole = BUNDLE_FILE.with_name(f"bundle.{secrets.token_hex(8)}.new")
    with open(os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(bundle, file)
    whole.replace(BUNDLE_FILE)


def read_bundle() -> dict[str, Any]:
    try:
        return json.loads(BUNDLE_FILE.read_text())
    except FileNotFoundError:
        raise fastapi.HTTPException(503, "this agent is not aboard a node yet") from None


# Starting.


def say(text: str) -> None:
    print(text, flush=True)


async def main() -> int:
    host = os.environ.get("HOST") or "127.0.0.1"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, int(os.environ.get("PORT") or 0)), family=family)
    shown = f"[{host}]" if ":" in host else host
    agent_url = os.environ.get("AGENT_URL") or f"http://{shown}:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    refusals: list[str] = []

    async def come_aboard_when_listening() -> None:
        # The node looks at once whether this agent is healthy.
        while not server.started:
            await asyncio.sleep(0.02)
        try:
            await come_aboard(agent_url)
        except (Refused, OSError, ValueError, yaml.YAMLError) as error:
            refusals.append(str(error))
            server.should_exit = True

    coming = asyncio.create_task(come_aboard_when_listening())
    await server.serve(sockets=[listener])
    coming.cancel()
    for refusal in refusals:
        print(f"error: {refusal}", file=sys.stderr)
    return 1 if refusals else 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
