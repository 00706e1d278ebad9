"""The code graph on the real binary: repositories are indexed, asked about, and nobody else's."""

from __future__ import annotations

import base64
import io
import json
import pathlib
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import DEADLINE_SECONDS, Node, required
from onboarding import assert_problem, spawn, with_key
from test_billing import Account, operator
from test_memory import agent, delete, listed, read, write

FIXTURES = pathlib.Path(__file__).parents[2] / "testdata" / "codegraph"
LANGUAGES = {"rust": "rust", "python": "python", "script": "typescript", "go": "go"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("codegraph"))
    yield node
    assert node.stop() == 0


@pytest.fixture(scope="module")
def owner(home: Node) -> Account:
    return Account(home, "code@example.org")


def sources(name: str) -> list[dict]:
    root = FIXTURES / name
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return [
        {"path": path.relative_to(root).as_posix(), "content": path.read_text()} for path in files
    ]


def index(http: httpx.Client, repo: str, files: list[dict] | None = None, **more) -> dict:
    body = {"repo": repo} | ({} if files is None else {"files": files}) | more
    answer = http.post("/v1/memory/codegraph/index", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["repo"] == repo
    return answer.json()


def ask(http: httpx.Client, **question) -> list[dict]:
    answer = http.post("/v1/memory/codegraph/query", json=question)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def names(rows: list[dict]) -> list[str]:
    return [row["symbol"] for row in rows]


def text(path: str, content: str) -> dict:
    return {"path": path, "content": content}


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_language_is_indexed(home: Node, owner: Account, name: str):
    http, _ = agent(home, owner, f"reads-{name}", "reasoning")
    files = sources(name)
    report = index(http, "shop", files)
    assert report["files"] == report["indexed"] == len(files)
    assert report["skipped"] == []
    assert report["languages"][LANGUAGES[name]] > 0
    assert report["symbols"] and report["calls"] and report["imports"] and report["references"]
    again = index(http, "shop", files)
    assert (again["unchanged"], again["indexed"], again["files"]) == (len(files), 0, len(files))


def test_what_calls_what(home: Node, owner: Account):
    http, _ = agent(home, owner, "calls", "reasoning")
    index(http, "shop", sources("rust"))
    (found,) = ask(http, repo="shop", symbol="Thing::heavy")
    assert found["symbol"] == "app::store::Thing::heavy" and found["kind"] == "method"
    assert found["file"] == "app/src/store.rs" and found["line"] == 41
    assert found["signature"] == "fn heavy(&self) -> Grams" and found["repo"] == "shop"
    callers = ask(http, symbol="total", relation="calls", direction="in", depth=2)
    assert names(callers) == [
        "app::weigh",
        "app::Scale::read",
        "app::tests::nothing_weighs_nothing",
        "tests::flow::a_store_is_weighed",
    ]
    assert [row["depth"] for row in callers] == [1, 1, 2, 2]
    assert callers[0]["site"] == {"file": "app/src/lib.rs", "line": 21}
    assert {row["confidence"] for row in callers} == {"resolved"}
    assert ask(http, symbol="total", relation="callers", depth=2) == callers
    called = ask(http, symbol="weigh", relation="calls", direction="out")
    assert "app::store::Store::total" in names(called)
    outside = [row for row in called if row["confidence"] == "external"]
    assert [row["name"] for row in outside] == ["format!"] and outside[0]["file"] is None
    found = ask(http, query="how much may a customer carry?")
    assert found[0]["symbol"] == "app::LOAD_MAX" and found[0]["score"] > 0
    assert ask(http, symbol="nothing_like_it") == []
    assert ask(http, repo="other", symbol="weigh") == []


def test_a_change_of_one_file_changes_what_others_mean(home: Node, owner: Account):
    http, _ = agent(home, owner, "changes", "reasoning")
    caller = text("src/lib.rs", "mod a;\nuse a::weigh;\nfn run() { weigh(); }\n")
    index(http, "r", [caller, text("src/a.rs", "pub fn other() {}\n")])
    (row,) = ask(http, symbol="run", relation="calls", direction="out")
    assert row["confidence"] == "external"
    report = index(http, "r", [caller, text("src/a.rs", "pub fn weigh() {}\n")])
    assert (report["indexed"], report["unchanged"]) == (1, 1)
    (row,) = ask(http, symbol="run", relation="calls", direction="out")
    assert (row["symbol"], row["confidence"]) == ("r::a::weigh", "resolved")
    # What goes through memory's own routes counts as well.
    assert delete(http, "codegraph", "r/src/a.rs").status_code == 200
    (row,) = ask(http, symbol="run", relation="calls", direction="out")
    assert row["confidence"] == "external"


def test_files_that_are_gone_go(home: Node, owner: Account):
    http, _ = agent(home, owner, "goes", "reasoning")
    files = [text(f"f{number}.py", f"def f{number}():\n    pass\n") for number in range(5)]
    index(http, "r", files)
    index(http, "r-2", files[:1])
    report = index(http, "r", remove=["f0.py", "no.py"])
    assert (report["removed"], report["files"]) == (1, 4)
    assert ask(http, repo="r", symbol="f0") == []
    report = index(http, "r", files[1:2], replace=True, keep=["f2.py"])
    assert (report["removed"], report["unchanged"], report["files"]) == (2, 1, 2)
    assert listed(http, "codegraph", prefix="r/") == ["r/f1.py", "r/f2.py"]
    report = index(http, "r", replace=True)
    assert (report["removed"], report["files"]) == (2, 0)
    assert {row["repo"] for row in ask(http, symbol="f0")} == {"r-2"}


def packed(files: list[dict], kind: str, folder: str = "") -> str:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.writestr(folder + file["path"], file["content"])
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for file in files:
                content = file["content"].encode()
                about = tarfile.TarInfo(folder + file["path"])
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_archives(home: Node, owner: Account, kind: str):
    http, _ = agent(home, owner, f"packs-{kind.replace('.', '-')}", "reasoning")
    files = sources("go")
    report = index(http, "shop", archive=packed(files, kind, "shop-main/"))
    assert report["indexed"] == len(files)
    assert index(http, "shop", files)["unchanged"] == len(files)
    outside = [text("../../evil.py", "x = 1\n"), text("/etc/evil.py", "x = 1\n")]
    report = index(http, "evil", archive=packed(outside, kind))
    assert {row["reason"] for row in report["skipped"]} == {"bad_path"} and report["files"] == 0
    bomb = packed([text("a.py", "\n" * (200 << 20))], kind)
    report = index(http, "bomb", archive=bomb)
    assert report["skipped"] == [{"path": "a.py", "reason": "too_large"}]
    for wrong in ["%", base64.b64encode(b"neither").decode(), bomb[: len(bomb) // 2 // 4 * 4]]:
        answer = http.post("/v1/memory/codegraph/index", json={"repo": "r", "archive": wrong})
        problem = assert_problem(answer, 422, "validation_failed")
        assert problem["errors"][0]["field"] == "archive"


def test_what_is_no_source_is_told(home: Node, owner: Account):
    http, _ = agent(home, owner, "skips", "reasoning")
    files = [
        text("a.txt", "text"),
        text("b.go", "// Code generated by x. DO NOT EDIT.\npackage b\n"),
        text("c.js", "a();" * 10_000),
        text("d.py", "a\0"),
        text("e.rs", "fn a() {}\n" * 110_000),
        text("../f.rs", "fn a() {}"),
        text("g.rs", "fn good( { ]]\n"),
    ]
    report = index(http, "r", files)
    reasons = {row["path"]: row["reason"] for row in report["skipped"]}
    assert reasons == {
        "a.txt": "unknown_language",
        "b.go": "generated",
        "c.js": "minified",
        "d.py": "binary",
        "e.rs": "too_large",
        "../f.rs": "bad_path",
    }
    assert report["indexed"] == 1
    home.assert_serves()


def test_hostile_sources_cost_a_bounded_time(home: Node, owner: Account):
    http, _ = agent(home, owner, "hostile", "reasoning")
    levels = ["(", "[", "{", "a.b().", "fn a() {", "if x {", "m! {"]
    files = [
        text(f"{n}.{end}", level * 100_000 + "\n")
        for n, level in enumerate(levels[:3])
        for end in ("rs", "py", "ts", "go")
    ]
    report = index(http, "deep", files)
    assert report["indexed"] + len(report["skipped"]) == len(files)
    files = [text(f"{n}.rs", (level + "\n") * 2_000) for n, level in enumerate(levels)]
    report = index(http, "deep", files)
    assert report["indexed"] + len(report["skipped"]) == len(files)
    home.assert_serves()


def test_bad_questions_are_refused(home: Node, owner: Account):
    http, _ = agent(home, owner, "asks", "reasoning")
    for body, field in [
        ({}, "symbol"),
        ({"symbol": " "}, "symbol"),
        ({"symbol": "a", "relation": "likes"}, "relation"),
        ({"symbol": "a", "direction": "up"}, "direction"),
        ({"symbol": "a", "depth": 0}, "depth"),
        ({"symbol": "a", "depth": 9}, "depth"),
        ({"symbol": "a", "limit": 501}, "limit"),
        ({"symbol": "a", "limit": -1}, "limit"),
        ({"symbol": "a" * 3000}, "symbol"),
        ({"symbol": "a", "repo": ""}, "repo"),
        ({"symbol": "a", "repo": "a\n"}, "repo"),
    ]:
        answer = http.post("/v1/memory/codegraph/query", json=body)
        problem = assert_problem(answer, 422, "validation_failed")
        assert problem["errors"][0]["field"] == field, body
    for body, field in [
        ({"files": []}, "repo"),
        ({"repo": "r"}, "files"),
        ({"repo": "r" * 101, "files": [text("a.rs", "")]}, "repo"),
        ({"repo": "r", "files": [{"path": "a.rs"}]}, "files[0].content"),
        ({"repo": "r", "files": [text("a.rs", "")] * 5001}, "files"),
    ]:
        answer = http.post("/v1/memory/codegraph/index", json=body)
        problem = assert_problem(answer, 422, "validation_failed")
        assert problem["errors"][0]["field"] == field, body
    large = http.post("/v1/memory/codegraph/index", json={"repo": "r", "archive": "A" * (5 << 20)})
    assert_problem(large, 413, "payload_too_large")


def test_names_of_repositories_are_not_mixed_up(home: Node, owner: Account):
    http, _ = agent(home, owner, "repos", "reasoning")
    for number, repo in enumerate(["a", "a/b", "a%2Fb", "a-b", "a0", "\u00e4 b"]):
        index(http, repo, [text("b/c.py", f"def in_{number}():\n    pass\n")])
        (row,) = ask(http, repo=repo, symbol=f"in_{number}")
        assert row["repo"] == repo
    assert len({row["repo"] for n in range(6) for row in ask(http, symbol=f"in_{n}")}) == 6
    assert index(http, "a", replace=True)["removed"] == 1
    assert len(ask(http, symbol="in_1")) == 1


def test_no_agent_sees_the_code_of_another(home: Node, owner: Account):
    other = Account(home, "other-code@example.org")
    clients = [agent(home, owner, f"apart-{n}", "reasoning")[0] for n in range(3)]
    clients += [agent(home, other, "apart-other", "reasoning")[0], owner.http, operator(home)]
    for number, http in enumerate(clients):
        index(http, "same", [text("a.py", f"def own_{number}():\n    shared()\n")])

    def look(number: int) -> None:
        for other in range(len(clients)):
            for body in ({"symbol": f"own_{other}"}, {"query": f"own {other}", "repo": "same"}):
                found = names(ask(clients[number], **body))
                assert all(name.endswith(f"own_{number}") or name == "a" for name in found)
            assert len(ask(clients[number], symbol=f"own_{other}")) == (other == number)

    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(look, range(len(clients))))


def test_tiers_and_capabilities(home: Node, owner: Account):
    body = {"repo": "r", "files": [text("a.py", "x = 1\n")]}
    index_path, query_path = "/v1/memory/codegraph/index", "/v1/memory/codegraph/query"
    http, _ = agent(home, owner, "low-tier", "agent")
    for path, sent in [(index_path, body), (query_path, {"symbol": "x"})]:
        problem = assert_problem(http.post(path, json=sent), 403, "tier_forbidden")
        assert problem["tier_required"] == "reasoning"
    asked = {"capabilities_requested": ["memory_read"]}
    http, _ = agent(home, owner, "reads-only", "reasoning", **asked)
    assert_problem(http.post(index_path, json=body), 403, "capability_missing")
    assert ask(http, symbol="x") == []
    for path in (index_path, query_path):
        assert_problem(home.http.post(path, json=body), 401, "unauthorized")


def test_a_token_for_some_keys_sees_those_files(home: Node, owner: Account):
    asked = {"capabilities_requested": ["memory_read", "memory_write", "agent_spawn"]}
    http, bundle = agent(home, owner, "narrows", "orchestrator", **asked)
    files = [text("pub/a.py", "def seen():\n    pass\n"), text("b.py", "def hidden():\n    pass\n")]
    index(http, "r", files)
    terms = {"capabilities": ["memory_read", "memory_write"], "key_prefixes": ["r/pub/"]}
    spawned = spawn(home, bundle, **terms)
    assert spawned.status_code == 201, spawned.text
    child = with_key(home, spawned.json()["capability_token"])
    assert len(ask(child, symbol="seen")) == len(ask(child, repo="r", symbol="seen")) == 1
    assert ask(child, symbol="hidden") == ask(child, repo="r", symbol="hidden") == []
    answer = child.post("/v1/memory/codegraph/index", json={"repo": "s", "files": files})
    assert_problem(answer, 403, "capability_missing")
    changed = [text("pub/a.py", "def new():\n    pass\n"), text("b.py", "def new():\n    pass\n")]
    report = index(child, "r", changed)
    assert report["indexed"] == 1
    assert report["skipped"] == [{"path": "b.py", "reason": "forbidden"}]
    assert len(ask(http, symbol="hidden")) == 1 and len(ask(http, symbol="new")) == 1


def test_what_others_put_there_does_no_harm(home: Node, owner: Account):
    http, _ = agent(home, owner, "writes", "reasoning")
    index(http, "r", [text("a.py", "def f():\n    g()\n\ndef g():\n    pass\n")])
    graph = read(http, "codegraph", "r/a.py").json()["value"]
    assert graph["symbols"][0]["name"] == "f"
    for number, change in enumerate(
        [
            {"calls": [["g", None, 4_000_000_000, 1]]},
            {"bindings": [["x", 9, None, "y"]]},
            {"format": 99},
            {"symbols": "none"},
            {"symbols": [graph["symbols"][0] | {"in": ["f"], "line": 4_294_967_295}]},
            {"bases": [["f", "f"]]},
        ]
    ):
        write(http, "codegraph", f"r/wrong{number}.py", graph | change)
    write(http, "codegraph", "r/text.py", "no graph")
    write(http, "codegraph", "no-repository", 1)
    callers = ask(http, symbol="g", relation="callers")
    assert "a.f" in names(callers)
    ask(http, query="f g", relation="references", depth=8)
    home.assert_serves()


def test_it_is_there_after_a_restart_and_goes_with_its_agent(start_node: Callable[..., Node]):
    node = start_node()
    account = Account(node, "keeps@example.org")
    http, bundle = agent(node, account, "keeps", "reasoning")
    index(http, "shop", sources("python"))
    before = ask(http, symbol="Store", relation="references", limit=500)
    assert before
    node.restart()
    http = with_key(node, bundle["api_key"])
    assert ask(http, symbol="Store", relation="references", limit=500) == before
    unchanged = index(http, "shop", sources("python"))["unchanged"]
    assert unchanged == len(sources("python"))
    gone = with_key(node, account.key).delete("/v1/agents/keeps", params={"purge": True})
    assert gone.status_code == 204, gone.text
    assert node.stop() == 0
    assert b"double" not in (node.data_dir / "memory.redb").read_bytes()


def test_the_command_line_indexes_a_folder(home: Node, tmp_path: pathlib.Path):
    def cli(*args: str, code: int = 0) -> subprocess.CompletedProcess:
        words = [required("AITHER_CLI_BIN"), "memory", "codegraph", *args, "--server", home.url]
        environment = {"AITHEROS_API_KEY": home.key, "PATH": "/usr/bin:/bin"}
        run = subprocess.run(
            words, capture_output=True, text=True, env=environment, timeout=DEADLINE_SECONDS
        )
        assert run.returncode == code, run.stderr
        return run

    folder = tmp_path / "project"
    (folder / "target").mkdir(parents=True)
    (folder / "target" / "built.rs").write_text("fn built() {}\n")
    (folder / "a.py").write_text("from b import g\n\n\ndef weigh():\n    g()\n")
    (folder / "b.py").write_text("def g():\n    pass\n")
    (folder / "c.py").write_bytes(b"\xff")
    run = cli("index", str(folder))
    assert "project has 2 files: 2 indexed" in run.stdout and "c.py: binary" in run.stderr
    lines = cli("query", "g", "--relation", "callers").stdout.splitlines()
    assert len(lines) == 2 and lines[1].split()[:5] == ["calls", "(in)", "1", "function", "a.weigh"]
    (folder / "b.py").unlink()
    report = json.loads(cli("index", str(folder), "--repo", "project", "--json").stdout)
    assert (report["removed"], report["unchanged"], report["files"]) == (1, 1, 1)
    assert "nothing was found" in cli("query", "g").stderr
    found = json.loads(cli("query", "--words", "weigh", "--json", "--repo", "project").stdout)
    assert found["results"][0]["symbol"] == "a.weigh"
    # Many files go in parts; the last part says which there are.
    for number in range(600):
        (folder / f"n{number}.py").write_text(f"def n{number}():\n    weigh()\n")
    run = cli("index", str(folder))
    assert "project has 601 files: 600 indexed, 1 unchanged, 0 removed" in run.stdout
    assert "sent 500 of" in run.stderr
    cli("index", str(folder / "gone"), code=1)
    cli("query", "g", "--direction", "in", code=2)
