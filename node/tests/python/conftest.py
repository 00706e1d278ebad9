"""Starts the real binary on the real model; every test talks to it over HTTP.

Environment: AITHER_NODE_BIN, the binary; AITHER_TEST_MODEL, a SmolLM2-135M-Instruct GGUF file;
AITHER_TEST_EMBEDDING_MODEL, all-MiniLM-L6-v2 as the node stores it. `scripts/test.sh` sets them.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import httpx
import ollama
import openai
import pytest

MODEL = "smollm2:135m"
# Waiting for anything; a loaded machine may need minutes to load a model.
DEADLINE_SECONDS = 180


def required(name: str) -> str:
    value = os.environ.get(name)
    if not value or not pathlib.Path(value).is_file():
        pytest.exit(f"{name} must be the path of a file, see conftest.py; it is {value!r}", 2)
    return value


def wait_until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


class Node:
    """A running node in a directory of its own."""

    def __init__(self, directory: pathlib.Path, config: str = "", model: str | None = None):
        self.data_dir = directory / "data"
        config_file = directory / "config.toml"
        config_file.write_text(config)
        model = model or required("AITHER_TEST_MODEL")
        command = [required("AITHER_NODE_BIN"), "run", "--http", "127.0.0.1:0", "--no-federation"]
        command += ["--model", f"{MODEL}={model}", "--backend", "cpu"]
        command += ["--data-dir", str(self.data_dir), "--config", str(config_file)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AITHER_")}
        self.log_file = directory / "log"
        self.command, self.environment = command, environment
        self.start()

    def start(self) -> None:
        self.log = self.log_file.open("ab")
        # A file that may not grow any more is to be an error for the node, not a signal.
        self.process = subprocess.Popen(
            self.command, stderr=self.log, env=self.environment, restore_signals=False
        )
        run_file = self.data_dir / "run.json"

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log_file.read_text()
            try:
                # A killed node leaves its own behind.
                return json.loads(run_file.read_text())["pid"] == self.process.pid
            except FileNotFoundError:
                return False

        wait_until("the node is ready", is_ready)
        run = json.loads(run_file.read_text())
        self.url: str = run["http"]
        self.peer_id: str = run["peer_id"]
        self.key = (self.data_dir / "admin.key").read_text().strip()

    def restart(self) -> None:
        """Starts it again on its directory, after it was killed or stopped."""
        self.process.kill()
        self.process.wait()
        self.start()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=30)
        finally:
            self.process.kill()
            self.log.close()

    @property
    def http(self) -> httpx.Client:
        """A client without a key."""
        return httpx.Client(base_url=self.url, timeout=DEADLINE_SECONDS)

    @property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=DEADLINE_SECONDS
        )

    @property
    def ollama(self) -> ollama.Client:
        return ollama.Client(host=self.url, timeout=DEADLINE_SECONDS)

    def metric(self, name: str) -> float:
        text = self.http.get("/metrics").text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        assert found, f"{name} not in\n{text}"
        return float(found.group(1))

    def running(self) -> int:
        return int(self.metric("aither_inference_running_requests"))

    def assert_serves(self) -> None:
        """The next request is served, whatever the last one was."""
        answer = self.http.post("/v1/llm/generate", json={"prompt": "Hi", "max_tokens": 2})
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("node"))
    yield node
    assert node.stop() == 0


@pytest.fixture
def start_node(tmp_path: pathlib.Path) -> Iterator[Callable[..., Node]]:
    """Starts nodes with settings of their own."""
    started: list[Node] = []

    def start(
        config: str = "", model: str | None = None, directory: pathlib.Path | None = None
    ) -> Node:
        directory = directory or tmp_path / f"node-{len(started)}"
        directory.mkdir(exist_ok=True)
        started.append(Node(directory, config, model))
        return started[-1]

    yield start
    for node in started:
        node.stop()
