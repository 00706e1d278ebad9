"""Agents made by `aither-cli init`, run as they stand against the real node.

Environment: AITHER_CLI_BIN, the client's binary, beside what conftest.py needs. The Python agent
runs on the interpreter of the tests, which has what its requirements.txt asks for. The Node.js one
has its packages installed by npm, in a temporary folder; without npm there is nothing to test it
with, which CI does not accept.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx
import pytest
from conftest import DEADLINE_SECONDS, Node, required, wait_until
from packaging.requirements import Requirement

LANGUAGES = ["python3.12", "node22"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("agents"))
    yield node
    assert node.stop() == 0


def environment_of(node: Node) -> dict[str, str]:
    """What an agent or a client of this node is started with: its address, and where its key is."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AITHER", "PORT", "HOST"))}
    return kept | {"AITHEROS_SERVER": node.url, "AITHER_DATA_DIR": str(node.data_dir)}


def cli(node: Node, *arguments: str, cwd: pathlib.Path | None = None) -> str:
    """Runs the client; returns what it printed."""
    done = subprocess.run(
        [required("AITHER_CLI_BIN"), *arguments],
        env=environment_of(node),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def npm_packages(home: Node, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Installs what a Node.js agent asks for, once: the folder `node_modules`."""
    npm = shutil.which("npm")
    if npm is None:
        assert "CI" not in os.environ, "npm is missing; install Node.js 20 or newer"
        pytest.skip("npm is missing; install Node.js 20 or newer")
    directory = tmp_path_factory.mktemp("npm") / "packages"
    cli(home, "init", str(directory), "--language", "node22")
    command = [npm, "install", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory / "node_modules"


class Agent:
    """A generated agent as a process."""

    def __init__(self, node: Node, command: list[str], directory: pathlib.Path):
        self.node, self.directory, self.name = node, directory, directory.name
        self.log_file = directory.with_suffix(".log")
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=directory, env=environment_of(node), stdout=log, stderr=log
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def bundle_file(self) -> pathlib.Path:
        return self.directory / ".aither" / "bundle.json"

    def wait_until_live(self) -> dict:
        """Returns the node's entry for it."""
        found: dict = {}

        def is_live() -> bool:
            assert self.process.poll() is None, self.log
            for agent in listed(self.node):
                if agent["name"] == self.name and agent["state"] == "LIVE":
                    found.update(agent)
            # The line is the last thing that it does before it only answers.
            return bool(found) and "is aboard" in self.log

        wait_until(f"{self.name} is LIVE", is_live)
        return found

    def chat(self, body: dict) -> httpx.Response:
        url = re.search(r"curl (http://127\.0\.0\.1:\d+/chat) ", self.log)
        assert url, self.log
        return httpx.post(url[1], json=body, timeout=DEADLINE_SECONDS, trust_env=False)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        finally:
            self.process.kill()


def listed(node: Node) -> list[dict]:
    headers = {"authorization": f"Bearer {node.key}"}
    answer = node.http.get("/v1/agents", params={"local": "true", "limit": 500}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


Start = Callable[[str, str], Agent]


@pytest.fixture
def start_agent(
    home: Node, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> Iterator[Start]:
    """Makes an agent in a language, of a name that says so, and starts it."""
    started: list[Agent] = []

    def start(name: str, language: str) -> Agent:
        directory = tmp_path / f"{name}-{language.replace('.', '-')}"
        is_python = language == "python3.12"
        command = [sys.executable, "main.py"] if is_python else ["node", "main.mjs"]
        if not directory.exists():
            cli(home, "init", str(directory), "--language", language)
            if not is_python:
                packages = request.getfixturevalue("npm_packages")
                shutil.copytree(packages, directory / "node_modules", symlinks=True)
        started.append(Agent(home, command, directory))
        return started[-1]

    yield start
    for agent in started:
        agent.stop()


@pytest.mark.parametrize("language", LANGUAGES)
def test_made_agent_comes_aboard_and_answers(home: Node, start_agent: Start, language: str):
    agent = start_agent("answering", language)
    entry = agent.wait_until_live()
    assert entry["local"] is True
    assert "chat" in json.dumps(entry["skills"])
    answer = agent.chat({"message": "What is the capital of France? Answer in one word."})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["response"].strip() and body["tokens_used"] > 0, body
    assert agent.name in cli(home, "agents", "--skill", "chat")


@pytest.mark.parametrize("language", LANGUAGES)
def test_agent_keeps_its_key_to_itself(home: Node, start_agent: Start, language: str):
    agent = start_agent("discreet", language)
    agent.wait_until_live()
    bundle = json.loads(agent.bundle_file.read_text())
    assert bundle["agent_name"] == agent.name
    assert stat.S_IMODE(agent.bundle_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(agent.bundle_file.parent.stat().st_mode) == 0o700
    assert bundle["api_key"] not in agent.log
    # Its own key, not the one that rules the node.
    assert bundle["api_key"].startswith("aither_ak_") and home.key not in json.dumps(bundle)


@pytest.mark.parametrize("language", LANGUAGES)
def test_agent_that_starts_again_is_the_same_one(home: Node, start_agent: Start, language: str):
    agent = start_agent("returning", language)
    agent.wait_until_live()
    first = json.loads(agent.bundle_file.read_text())
    agent.stop()
    again = start_agent("returning", language)
    again.wait_until_live()
    second = json.loads(again.bundle_file.read_text())
    assert second["agent_id"] == first["agent_id"]
    assert second["api_key"] != first["api_key"]
    assert again.chat({"message": "Hi"}).status_code == 200
    assert [entry["name"] for entry in listed(home)].count(again.name) == 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_message_that_is_none_is_refused(home: Node, start_agent: Start, language: str):
    agent = start_agent("strict", language)
    agent.wait_until_live()
    for body in ({}, {"message": ""}, {"message": 7}):
        assert agent.chat(body).status_code == 422, body


def test_onboard_takes_an_agent_aboard_without_starting_it(home: Node, tmp_path: pathlib.Path):
    cli(home, "init", "sleeping", cwd=tmp_path)
    shown = cli(home, "onboard", "sleeping", "--json", cwd=tmp_path)
    bundle = json.loads((tmp_path / "sleeping" / ".aither" / "bundle.json").read_text())
    assert json.loads(shown)["agent_id"] == bundle["agent_id"]
    assert bundle["api_key"] not in shown
    assert "llm_inference" in bundle["capabilities"]
    names = [agent["name"] for agent in json.loads(cli(home, "agents", "--json"))["items"]]
    assert "sleeping" in names


def test_client_shows_what_it_paid(home: Node):
    before = json.loads(cli(home, "balance", "--json"))["tokens"]
    cli(home, "topup", "12.5")
    assert json.loads(cli(home, "balance", "--json"))["tokens"] == pytest.approx(before + 12.5)
    assert cli(home, "usage", "--period", "24h").startswith("PERIOD")


def test_interpreter_of_the_tests_has_what_the_agent_asks_for(home: Node, tmp_path: pathlib.Path):
    cli(home, "init", "asking", cwd=tmp_path)
    for line in (tmp_path / "asking" / "requirements.txt").read_text().splitlines():
        wanted = Requirement(line)
        assert wanted.specifier.contains(importlib.metadata.version(wanted.name)), line
