"""Searches, repositories and fetches on the real binary, with a SearXNG of the tests' own."""

from __future__ import annotations

import base64
import http.server
import json
import pathlib
import shutil
import subprocess
import threading
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha1

import httpx
import pytest
from conftest import Node, wait_until
from onboarding import aboard, assert_problem, card, of_tier, with_key
from test_billing import Account, operator

TOOLS = ["web_search", "code_read", "code_write", "external_api"]


@contextmanager
def server(answer: Callable[[str, dict, bytes], tuple[int, dict, bytes]]) -> Iterator[str]:
    """A server whose answers are made from a request's path, headers and body."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, content = answer(self.path, dict(self.headers), body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *_) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


def searxng(pages: str) -> Callable:
    """Answers as a SearXNG with JSON does; `pages` is where its results are."""

    def answer(path: str, _headers: dict, _body: bytes) -> tuple[int, dict, bytes]:
        url = urllib.parse.urlsplit(path)
        query = urllib.parse.parse_qs(url.query)
        asked = query.get("q", [""])[0]
        if url.path != "/search" or query.get("format") != ["json"] or asked == "forbidden":
            return 403, {}, b"Forbidden"
        if asked == "broken":
            return 200, {"Content-Type": "text/html"}, b"<html>"
        results = [
            {"url": f"{pages}/page", "title": f"About {asked}", "content": "A page", "engine": "x"},
            {"url": "https://elsewhere.example/", "title": "Elsewhere", "content": "Another"},
        ]
        body = json.dumps({"query": asked, "results": results, "suggestions": []})
        return 200, {"Content-Type": "application/json"}, body.encode()

    return answer


PAGES: dict[str, tuple[int, dict, bytes]] = {
    "/page": (
        200,
        {"Content-Type": "text/html; charset=utf-8"},
        b"<html><head><title>T</title><style>p{}</style></head><p>The <b>page</b></p>",
    ),
    "/moved": (302, {"Location": "/page"}, b""),
    "/inside": (302, {"Location": "http://localhost:1/"}, b""),
    "/binary": (200, {"Content-Type": "application/octet-stream"}, bytes(range(256))),
    "/long": (200, {"Content-Type": "text/plain"}, b"x" * 5000),
}


def site(path: str, headers: dict, body: bytes) -> tuple[int, dict, bytes]:
    """Its pages; elsewhere it tells what it was asked."""
    told = {"headers": {k.lower(): v for k, v in headers.items()}, "body": body.decode()}
    echo = (200, {"Content-Type": "application/json"}, json.dumps(told).encode())
    return PAGES.get(urllib.parse.urlsplit(path).path, echo)


def put_object(git_dir: pathlib.Path, kind: str, content: bytes) -> str:
    """Writes an object as git does, for machines without git."""
    data = f"{kind} {len(content)}\0".encode() + content
    name = sha1(data, usedforsecurity=False).hexdigest()
    path = git_dir / "objects" / name[:2] / name[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zlib.compress(data))
    return name


def repository(folder: pathlib.Path) -> pathlib.Path:
    """A repository with a checkout, one branch and one commit."""
    git_dir = folder / ".git"
    for part in ["objects/info", "objects/pack", "refs/heads", "refs/tags"]:
        (git_dir / part).mkdir(parents=True)
    config = "[core]\n\trepositoryformatversion = 0\n\tbare = false\n"
    (git_dir / "config").write_text(config)
    (git_dir / "HEAD").write_text("ref: refs/heads/main\n")
    blob = put_object(git_dir, "blob", b"hello\n")
    tree = put_object(git_dir, "tree", b"100644 README.md\0" + bytes.fromhex(blob))
    person = "Ann <ann@example.org> 1000 +0000"
    message = f"tree {tree}\nauthor {person}\ncommitter {person}\n\nBegin\n"
    commit = put_object(git_dir, "commit", message.encode())
    (git_dir / "refs/heads/main").write_text(f"{commit}\n")
    (folder / "README.md").write_text("as somebody edits it")
    return folder


class World:
    """A node with everything configured, and what it may reach."""

    def __init__(self, node: Node, site: str, repository: pathlib.Path, docs: pathlib.Path):
        self.node, self.site, self.repository, self.docs = node, site, repository, docs
        self.account = Account(node, "tools@example.org")
        self.agent = self.agent_with("bot", TOOLS)

    def agent_with(self, name: str, capabilities: list[str]) -> httpx.Client:
        more = {"capabilities_requested": capabilities, "billing": of_tier("reasoning")}
        return with_key(self.node, aboard(self.account.http, card(name, **more))["api_key"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("tools")
    docs = folder / "docs"
    docs.mkdir()
    (docs / "tea.md").write_text("# On tea\n\nBrew it for three minutes.\n")
    (docs / ".secret").write_text("three minutes")
    checkout = repository(folder / "site")
    with server(site) as site_url, server(searxng(site_url)) as searxng_url:
        config = f"""
            [search]
            searxng_url = "{searxng_url}"
            folders = ["{docs}"]
            refresh = "1s"
            [code.repositories.site]
            path = "{checkout}"
            write = true
            [code.repositories.others]
            path = "{checkout}"
            allow = ["01ARZ3NDEKTSV4RRFFQ69G5FAV/bot"]
            [fetch]
            allow = ["{site_url}", "*.example.org"]
            allow_private = true
        """
        node = Node(folder, config)
        yield World(node, site_url, checkout, docs)
        assert node.stop() == 0


def test_nothing_is_there_until_the_operator_names_it(node: Node):
    files = [{"path": "a", "content": "x"}]
    for path, body in {
        "/v1/search": {"query": "tea"},
        "/v1/code/read": {"repo": "site"},
        "/v1/code/write": {"repo": "site", "message": "x", "files": files},
        "/v1/http/fetch": {"url": "https://example.org/"},
    }.items():
        problem = assert_problem(operator(node).post(path, json=body), 503, "not_configured")
        assert "[" in problem["detail"] and " = " in problem["detail"], problem


def test_an_agent_needs_the_capability(world: World):
    none = world.agent_with("none", ["llm_inference"])
    answer = none.post("/v1/search", json={"query": "tea"})
    problem = assert_problem(answer, 403, "capability_missing")
    assert problem["capability"] == "web_search"


def search(world: World, query: str, **more) -> dict:
    answer = world.agent.post("/v1/search", json={"query": query} | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def local(world: World, query: str) -> list[str]:
    results = search(world, query)["results"]
    return [result["url"] for result in results if result["url"].startswith("local:")]


def test_the_web_and_folders_are_searched_together(world: World):
    wait_until("the folder is indexed", lambda: local(world, "brew minutes") != [])
    found = search(world, "brew minutes", include_content=True)
    assert found["source"] == "searxng+folders" and found["cost_tokens"] == 0
    results = {result["url"]: result for result in found["results"]}
    tea = results["local:docs/tea.md"]
    assert tea["title"] == "On tea" and "three minutes" in tea["snippet"]
    assert "Brew it for three minutes." in tea["content"]
    page = results[f"{world.site}/page"]
    assert page["title"] == "About brew minutes" and page["snippet"] == "A page"
    assert page["content"] == "The page"
    # The fetch service's rules are those of pages as well.
    assert results["https://elsewhere.example/"]["content"] is None
    assert "local:docs/.secret" not in results
    assert str(world.docs) not in json.dumps(found)
    assert len(search(world, "brew minutes", max_results=1)["results"]) == 1


def test_a_folder_is_followed_as_it_changes(world: World):
    (world.docs / "coffee.txt").write_text("Grind the beans finely.")
    wait_until("the file is found", lambda: local(world, "grind") == ["local:docs/coffee.txt"])
    (world.docs / "coffee.txt").unlink()
    wait_until("it is not found any more", lambda: local(world, "grind") == [])


def test_half_of_an_answer_is_more_than_none(world: World):
    wait_until("the folder is indexed", lambda: local(world, "tea") != [])
    assert search(world, "broken")["source"] == "folders"


def test_a_searxng_that_refuses_json_is_told_so(start_node: Callable[..., Node]):
    with server(searxng("http://127.0.0.1:1")) as url:
        node = start_node(f'[search]\nsearxng_url = "{url}"\n')
        ask = lambda query: operator(node).post("/v1/search", json={"query": query})  # noqa: E731
        assert ask("tea").json()["source"] == "searxng"
        problem = assert_problem(ask("forbidden"), 502, "upstream_failed")
        assert "search.formats" in problem["detail"]
        assert_problem(ask("broken"), 502, "upstream_failed")
    assert_problem(ask("tea"), 502, "upstream_failed")


def read(world: World, **body) -> dict:
    answer = world.agent.post("/v1/code/read", json={"repo": "site"} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def commit(http: httpx.Client, path: str, content: str, key: str = "", **more) -> httpx.Response:
    files = [{"path": path, "content": content}]
    body = {"repo": "site", "message": "Write a file", "files": files} | more
    return http.post("/v1/code/write", json=body, headers={"Idempotency-Key": key} if key else {})


def test_a_repository_is_read(world: World):
    known = world.agent.post("/v1/code/read", json={"op": "repositories"}).json()
    assert known["repositories"] == [{"repo": "site", "write": True}]
    assert read(world, path="README.md")["content"] == "hello\n"
    listed = read(world)
    assert [entry["path"] for entry in listed["entries"]] == ["README.md"]
    log = read(world, op="log")
    assert [line["subject"] for line in log["commits"]] == ["Begin"]
    assert log["commits"][0]["author"]["time"] == "1970-01-01T00:16:40Z"
    branches = read(world, op="branches")["names"]
    assert {"name": "main", "commit": log["commit"], "is_head": True} in branches
    for path in ["../../etc/passwd", "/etc/passwd", ".git/config"]:
        answer = world.agent.post("/v1/code/read", json={"repo": "site", "path": path})
        assert answer.status_code in (404, 422), answer.text
    answer = world.agent.post("/v1/code/read", json={"repo": "others"})
    assert_problem(answer, 404, "not_found")


def test_a_commit_goes_to_a_branch_of_ones_own(world: World):
    first = commit(world.agent, "notes/a.md", "one", branch="ideas").json()
    owner = world.account.id[-8:].lower()
    assert first["branch"] == f"aither/bot-{owner}/ideas" and first["files_changed"] == 1
    of_branch = {"path": "notes/a.md", "ref": first["branch"]}
    assert read(world, **of_branch)["content"] == "one"
    # Nobody's checkout is touched.
    assert (world.repository / "README.md").read_text() == "as somebody edits it"
    assert not (world.repository / "notes").exists()
    assert not (world.repository / ".git/index").exists()
    assert "notes" not in json.dumps(read(world))
    second = commit(world.agent, "notes/a.md", "two", branch="ideas", expected_head=first["commit"])
    assert second.status_code == 200, second.text
    stale = commit(world.agent, "b", "x", branch="ideas", expected_head=first["commit"])
    problem = assert_problem(stale, 409, "conflict")
    assert problem["current_head"] == second.json()["commit"]
    of_account = commit(world.account.http, "a", "x").json()["branch"]
    assert of_account == f"aither/_{world.account.id.lower()}/work"
    if git := shutil.which("git"):
        subprocess.run([git, "-C", world.repository, "fsck", "--strict"], check=True)


def test_the_same_write_again_makes_one_commit(world: World):
    first = commit(world.agent, "once", "x", key="once", branch="once")
    again = commit(world.agent, "once", "x", key="once", branch="once")
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json() and first.json()["files_changed"] == 1
    assert again.headers["idempotent-replayed"] == "true"


def test_paths_that_lead_elsewhere_are_not_written(world: World):
    for path in [
        "../x",
        "/etc/x",
        "a/../../x",
        ".git/hooks/pre-commit",
        ".GIT/config",
        "git~1/config",
        ".git /config",
        "a\x00b",
        "a\\..\\b",
        ".gitmodules",
    ]:
        problem = assert_problem(commit(world.agent, path, "x"), 422, "validation_failed")
        assert problem["errors"][0]["field"] == "files[0].path", path
    for branch in ["../main", "/main", "a..b", "a b", "a.lock", ""]:
        answer = commit(world.agent, "a", "x", branch=branch)
        assert_problem(answer, 422, "validation_failed")


def fetch(world: World, path: str, **body) -> httpx.Response:
    url = path if "://" in path else f"{world.site}{path}"
    return world.agent.post("/v1/http/fetch", json={"url": url} | body)


def test_an_allowed_address_is_fetched(world: World):
    answer = fetch(
        world,
        "/echo",
        method="POST",
        headers={"Authorization": "Bearer of-the-site"},
        body={"a": 1},
        timeout="10s",
    ).json()
    assert answer["status"] == 200 and answer["encoding"] == "utf-8" and not answer["truncated"]
    assert answer["headers"]["content-type"] == "application/json"
    told = json.loads(answer["body"])
    assert told["headers"]["authorization"] == "Bearer of-the-site"
    assert told["headers"]["content-type"] == "application/json" and told["body"] == '{"a":1}'
    # What opens the node is nobody else's to see.
    assert "aither_ak_" not in answer["body"]
    moved = fetch(world, "/moved").json()
    assert moved["url"] == f"{world.site}/page" and "<title>T</title>" in moved["body"]
    binary = fetch(world, "/binary").json()
    assert binary["encoding"] == "base64"
    assert base64.b64decode(binary["body"]) == bytes(range(256))
    cut = fetch(world, "/long", max_bytes=100).json()
    assert cut["truncated"] and len(cut["body"]) == 100


def test_other_addresses_are_not_fetched(world: World):
    port = world.site.rsplit(":", 1)[1]
    for url in [
        f"http://localhost:{port}/page",
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data",
        "http://example.com/",
        "https://a.example.org:8443/",
        "https://user:password@a.example.org/",
        "ftp://a.example.org/",
        "file:///etc/passwd",
        world.node.url,
        "/inside",
    ]:
        assert_problem(fetch(world, url), 403, "target_forbidden")
    for headers in [{"Host": "a"}, {"Connection": "close"}, {"X-Forwarded-For": "1.1.1.1"}]:
        assert_problem(fetch(world, "/page", headers=headers), 422, "validation_failed")
