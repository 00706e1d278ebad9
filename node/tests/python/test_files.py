"""Files on the real binary: no path leaves its folder, no plan is exceeded, no document harms."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import pathlib
import resource
import socket
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import DEADLINE_SECONDS, Node, required, wait_until
from onboarding import aboard, assert_problem, card, of_tier, with_key
from test_agents import set_plan
from test_billing import Account, operator

FILES = ["file_upload", "document_analysis"]
# Refused with 422 wherever they stand: in a body, in a query, decoded once.
HOSTILE = [
    "",
    "/",
    "/etc/passwd",
    "//etc/passwd",
    "..",
    ".",
    "../../admin.key",
    "data/../../admin.key",
    "data/..",
    "./data/x",
    "data/./x",
    "data//x",
    "data/",
    "..\\..\\admin.key",
    "data\\x",
    "\\\\server\\share",
    "C:/windows",
    "C:x",
    "data/x\0",
    "data/x\0/../../admin.key",
    "\0",
    "data/\n",
    "data/\r\nX: y",
    "data/\x7f",
    "data/\u0085",
    "a/" * 40 + "x",
    "n" * 256,
    "n/" * 600,
]
# Raw queries: what a client would write that encodes by itself, and decoders read differently.
HOSTILE_QUERIES = [
    "%2e%2e%2fadmin.key",
    "..%2fadmin.key",
    "%2e%2e/admin.key",
    "data%2f..%2f..%2fadmin.key",
    "%2fetc%2fpasswd",
    "..%5cadmin.key",
    "data%2fx%00",
    "data%2f%0a",
    "%ff%fe",
    "%c0%ae%c0%ae/admin.key",
    "%c0%af",
    "%e0%80%ae",
    "data/x&path=../../admin.key",
]
# Names that only look dangerous: they are taken literally, and stay inside.
LITERAL = [
    "%2e%2e/%2e%2e/admin.key",
    "..%2f..%2fadmin.key",
    "%252e%252e%252f",
    ".../x",
    "\u2025/x",
    "\uff0e\uff0e/admin.key",
    "data/-rf",
    "data/$(id)",
    "data/a b?c#d&e",
    "~/.ssh",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("files"))
    yield node
    assert node.stop() == 0


@pytest.fixture(scope="module")
def owner(home: Node) -> Account:
    return Account(home, "files@example.org")


def agent(node: Node, account: Account, name: str) -> tuple[httpx.Client, dict]:
    more = {"capabilities_requested": FILES, "billing": of_tier("agent")}
    bundle = aboard(account.http, card(name, **more))
    return with_key(node, bundle["api_key"]), bundle


def write(http: httpx.Client, path: str, data: str = "x", **more) -> httpx.Response:
    body = {"path": path, "data": data} | more
    return http.post("/api/workspaces/@me/write", json=body)


def read(http: httpx.Client, path: str, **more) -> httpx.Response:
    return http.get("/api/workspaces/@me/read", params={"path": path} | more)


def delete(http: httpx.Client, path: str) -> httpx.Response:
    return http.delete("/api/workspaces/@me/delete", params={"path": path})


def listed(http: httpx.Client, **more) -> list[str]:
    answer = http.get("/api/workspaces/@me/files", params={"recursive": "true"} | more)
    assert answer.status_code == 200, answer.text
    return [file["path"] for file in answer.json()["files"]]


def tree(directory: pathlib.Path) -> set[str]:
    """Everything in a node's directory but what its files have in them."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def store(http: httpx.Client, data: bytes, **metadata) -> httpx.Response:
    files = {"file": ("a.txt", data, "text/plain")}
    return http.post("/v1/artifacts/store", files=files, data={"metadata": json.dumps(metadata)})


def analyze(http: httpx.Client, name: str, data: bytes) -> httpx.Response:
    return http.post("/v1/documents/analyze", files={"file": (name, data)})


def docx(document: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", document)
    return file.getvalue()


def test_the_routes_of_the_bundle_work_as_they_are(home: Node, owner: Account):
    http, bundle = agent(home, owner, "bundled")
    api = bundle["workspace"]["api"]
    assert bundle["workspace"]["quota_gb"] == 100
    written = http.post(api["write"], json={"path": "data/n.txt", "data": "h\u00f6"})
    assert written.status_code == 200, written.text
    expected = {"success": True, "path": "data/n.txt", "size": 3}
    assert written.json() == expected | {"workspace": bundle["agent_id"]}
    found = http.get(api["read"], params={"path": "data/n.txt"}).json()
    assert found == {"data": "h\u00f6", "path": "data/n.txt", "size": 3, "encoding": "utf-8"}
    files = http.get(api["list"], params={"recursive": "true"}).json()
    assert files["total"] == 1 and files["next_cursor"] is None
    assert files["files"][0]["path"] == "data/n.txt" and files["files"][0]["size"] == 3
    assert files["files"][0]["modified"].endswith("Z")
    assert http.get(api["list"]).json()["files"] == []
    assert http.get(api["list"], params={"path": "data"}).json()["total"] == 1
    gone = http.delete(api["delete"], params={"path": "data/n.txt"})
    assert gone.status_code == 200 and gone.json()["success"] is True
    assert_problem(http.delete(api["delete"], params={"path": "data/n.txt"}), 404, "not_found")
    assert_problem(read(http, "data/n.txt"), 404, "not_found")


def test_bytes_come_back_as_they_were(home: Node, owner: Account):
    http, _ = agent(home, owner, "bytes")
    data = bytes(range(256)) * 3
    coded = base64.b64encode(data).decode()
    assert write(http, "db/x.bin", coded, encoding="base64").json()["size"] == 768
    found = read(http, "db/x.bin", encoding="base64").json()
    assert base64.b64decode(found["data"]) == data
    body = assert_problem(read(http, "db/x.bin"), 422, "validation_failed")
    assert "base64" in body["detail"]
    piece = read(http, "db/x.bin", encoding="base64", offset=65, length=2).json()
    assert base64.b64decode(piece["data"]) == b"AB" and piece["size"] == 768
    for number in range(3):
        assert write(http, "logs/l", f"{number}\n", append=True).status_code == 200
    assert read(http, "logs/l").json()["data"] == "0\n1\n2\n"
    assert_problem(write(http, "a", "%", encoding="base64"), 422, "validation_failed")
    assert_problem(write(http, "a", "x", encoding="rot13"), 422, "validation_failed")


def test_a_file_larger_than_an_answer_is_read_in_pieces(home: Node, owner: Account):
    http, _ = agent(home, owner, "pieces")
    for _ in range(3):
        assert write(http, "data/big", "x" * (2 << 20), append=True).status_code == 200
    assert_problem(read(http, "data/big"), 413, "payload_too_large")
    piece = read(http, "data/big", offset=(6 << 20) - 3, length=10).json()
    assert piece["data"] == "xxx" and piece["size"] == 6 << 20


def test_lists_have_pages(home: Node, owner: Account):
    http, _ = agent(home, owner, "pages")
    names = sorted(f"data/{number:03}" for number in range(25))
    for name in names:
        write(http, name)
    found: list[str] = []
    cursor = None
    while True:
        params = {"limit": 10, "recursive": "true"} | ({"cursor": cursor} if cursor else {})
        page = http.get("/api/workspaces/@me/files", params=params).json()
        assert page["total"] == 25
        found += [file["path"] for file in page["files"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == names


def test_no_path_leaves_its_workspace(home: Node, owner: Account):
    http, _ = agent(home, owner, "hostile")
    assert write(http, "data/x", "inside").status_code == 200
    before = tree(home.data_dir)
    for path in HOSTILE:
        # An answer of its own for each, and never a file.
        for answer in (write(http, path), read(http, path), delete(http, path)):
            assert_problem(answer, 422, "validation_failed")
        assert_problem(
            http.post("/v1/documents/analyze", json={"path": path}), 422, "validation_failed"
        )
    for path in HOSTILE[4:12]:
        answer = http.get("/api/workspaces/@me/files", params={"path": path})
        # The folder itself is a folder to list.
        assert answer.status_code in (422, 200 if path == "." else 422), path
    assert tree(home.data_dir) == before
    assert read(http, "data/x").json()["data"] == "inside"


def test_no_encoding_of_a_query_leaves_the_workspace(home: Node, owner: Account):
    http, bundle = agent(home, owner, "queries")
    base = httpx.URL(home.url)
    for query in HOSTILE_QUERIES:
        for route in ("read", "delete", "files"):
            raw = f"/api/workspaces/{bundle['agent_id']}/{route}?path={query}".encode()
            url = base.copy_with(raw_path=raw)
            method = "DELETE" if route == "delete" else "GET"
            answer = http.request(method, url)
            assert answer.status_code in (400, 404, 422), (query, answer.text)
            assert home.key not in answer.text and "root:" not in answer.text
    for name in ("..", "%2e%2e", "%2e%2e%2f..", "..%2f..", "%00", "@me%2f..", "a%2fb"):
        raw = f"/api/workspaces/{name}/read?path=admin.key".encode()
        answer = http.get(base.copy_with(raw_path=raw))
        assert answer.status_code in (400, 404), (name, answer.text)


def test_what_no_client_would_send_is_refused_too(home: Node, owner: Account):
    http, _ = agent(home, owner, "sockets")
    key = http.headers["Authorization"]
    port = httpx.URL(home.url).port
    for target in (
        "/api/workspaces/../../etc/passwd",
        "/api/workspaces/@me/../../read?path=admin.key",
        "/api/workspaces/@me/read?path=..%2f..%2fadmin.key",
        "/api/workspaces/@me/read/../../../admin.key",
        "/api/workspaces/@me/read?path=data/%00",
        "/api//workspaces/@me/read?path=/etc/passwd",
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS) as raw:
            head = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {key}\r\n"
            raw.sendall(f"{head}Connection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda raw=raw: raw.recv(65536), b""))
        assert answer.split(b" ")[1] in (b"400", b"404", b"422"), answer
        assert home.key.encode() not in answer and b"root:" not in answer


def test_names_that_only_look_dangerous_are_names(home: Node, owner: Account):
    http, bundle = agent(home, owner, "literal")
    for path in LITERAL:
        assert write(http, path, path).status_code == 200, path
        assert read(http, path).json()["data"] == path
    assert sorted(listed(http)) == sorted(LITERAL)
    folder = home.data_dir / "workspaces" / bundle["agent_id"]
    assert (folder / "%2e%2e/%2e%2e/admin.key").is_file()
    for path in LITERAL:
        assert delete(http, path).status_code == 200
    assert listed(http) == []


def test_links_placed_by_hand_are_not_followed(home: Node, owner: Account):
    http, bundle = agent(home, owner, "links")
    write(http, "data/own")
    folder = home.data_dir / "workspaces" / bundle["agent_id"] / "data"
    key = home.data_dir / "admin.key"
    (folder / "file").symlink_to(key)
    (folder / "folder").symlink_to(home.data_dir)
    (folder / "up").symlink_to("../..")
    os.link(key, folder / "hard")
    os.mkfifo(folder / "pipe")
    for path in ("file", "folder/admin.key", "up/x", "hard", "pipe", "folder"):
        path = f"data/{path}"
        for answer in (read(http, path), write(http, path), delete(http, path)):
            assert_problem(answer, 409, "conflict")
        answer = http.post("/v1/documents/analyze", json={"path": path})
        assert_problem(answer, 409, "conflict")
    assert key.read_text().strip() == home.key
    assert "data/own" in listed(http) and not any("admin" in path for path in listed(http))


def test_a_plan_is_never_exceeded_however_many_write(start_node: Callable[..., Node]):
    node = start_node()
    account = Account(node, "quota@example.org")
    http, bundle = agent(node, account, "fills")
    set_plan(node, account, "explorer")
    assert write(http, "data/large", "x").status_code == 200
    # As if it were large: it takes no room on the disk, and is counted at the start.
    large = node.data_dir / "workspaces" / bundle["agent_id"] / "data/large"
    os.truncate(large, 1000 << 20)
    node.restart()
    http, piece = with_key(node, bundle["api_key"]), "x" * (3 << 20)
    account.http.base_url = node.url

    def fill(number: int) -> int:
        client = with_key(node, bundle["api_key"])
        if number % 4:
            return write(client, f"data/{number}", piece).status_code
        # The plan lets one be stored at a time.
        while (status := store(client, piece.encode()[:-1000]).status_code) == 429:
            pass
        return status

    # There are 24 MiB left: for eight of either kind.
    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(fill, range(20)))
    assert statuses.count(403) == 12, statuses
    assert_problem(store(http, piece.encode()), 403, "quota_exceeded")
    body = assert_problem(write(http, "data/more", piece), 403, "quota_exceeded")
    assert body["measure"] == "bytes" and "used" not in body
    whole = {"path": "data/more", "data": piece}
    told = account.http.post(f"/api/workspaces/{bundle['agent_id']}/write", json=whole)
    body = assert_problem(told, 403, "quota_exceeded")
    assert body["allowed"] == 1 << 30 and body["used"] <= 1 << 30
    # What does not fit leaves nothing behind, and what is removed makes room, also after a start.
    node.restart()
    http = with_key(node, bundle["api_key"])
    assert_problem(write(http, "data/more", piece), 403, "quota_exceeded")
    assert delete(http, "data/large").status_code == 200
    assert write(http, "data/more", piece).status_code == 200
    for folder in ("workspaces", "artifacts"):
        assert list((node.data_dir / folder / ".tmp").iterdir()) == []


def test_a_full_disk_is_told_and_leaves_what_was_there(start_node: Callable[..., Node]):
    node = start_node()
    http = operator(node)
    assert write(http, "data/a", "x" * 1000).status_code == 200
    limits = (500_000, resource.RLIM_INFINITY)
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, limits)
    large = "y" * 600_000
    for answer in (
        write(http, "data/a", large),
        write(http, "data/a", large, append=True),
        write(http, "data/b", large),
        store(http, large.encode()),
    ):
        body = assert_problem(answer, 507, "insufficient_storage")
        assert "disk" in body["detail"] and str(node.data_dir) not in body["detail"]
        assert "retry-after" in answer.headers
    assert read(http, "data/a").json()["data"] == "x" * 1000
    assert listed(http) == ["data/a"] and http.get("/v1/artifacts").json()["items"] == []
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert write(http, "data/a", large).status_code == 200


def test_what_was_acknowledged_survives_a_kill(start_node: Callable[..., Node]):
    node = start_node()
    account = Account(node, "kill-files@example.org")
    _, bundle = agent(node, account, "killed")
    acknowledged: dict[str, str] = {}

    def load(worker: int) -> None:
        http = with_key(node, bundle["api_key"])
        for number in range(10_000):
            path = f"data/{worker}/{number % 5}"
            try:
                answer = write(http, path, f"{number}")
            except httpx.HTTPError:
                return
            assert answer.status_code == 200, answer.text
            acknowledged[path] = f"{number}"

    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(load, worker) for worker in range(4)]
        wait_until("there is load", lambda: len(acknowledged) == 20)
        node.restart()
        for one in done:
            one.result()
    http = with_key(node, bundle["api_key"])
    for path, data in acknowledged.items():
        # The write after it may have been done, and its answer not have come.
        assert int(read(http, path).json()["data"]) in (int(data), int(data) + 5), path
    assert list((node.data_dir / "workspaces" / ".tmp").iterdir()) == []


def test_a_purge_leaves_no_files_and_a_tear_down_keeps_them(home: Node, owner: Account):
    http, bundle = agent(home, owner, "purged")
    write(http, "data/x")
    stored = store(http, b"kept").json()
    other = store(owner.http, b"the account's").json()
    folder = home.data_dir / "workspaces" / bundle["agent_id"]
    artifacts = home.data_dir / "artifacts" / bundle["agent_id"]
    assert owner.http.delete("/v1/agents/purged").status_code == 204
    assert (folder / "data/x").is_file() and artifacts.is_dir()
    purged = owner.http.delete(f"/v1/agents/{bundle['agent_id']}", params={"purge": "true"})
    assert purged.status_code == 204, purged.text
    assert not folder.exists() and not artifacts.exists()
    gone = owner.http.get(f"/v1/artifacts/{stored['artifact_id']}")
    assert_problem(gone, 404, "not_found")
    assert owner.http.get(f"/v1/artifacts/{other['artifact_id']}").content == b"the account's"


def test_an_artifact_comes_back_as_it_was(home: Node, owner: Account):
    http, bundle = agent(home, owner, "artifacts")
    data = os.urandom(5 << 20)
    answer = store(http, data, name="r\u00e9sum\u00e9.bin", content_type="application/x-y", k=1)
    assert answer.status_code == 201, answer.text
    stored = answer.json()
    assert stored["size_bytes"] == len(data) and stored["cost_tokens"] == 0
    assert stored["sha256"] == hashlib.sha256(data).hexdigest()
    assert stored["agent_id"] == bundle["agent_id"]
    found = http.get(stored["url"])
    assert found.content == data
    assert found.headers["content-type"] == "application/x-y"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert "attachment" in found.headers["content-disposition"]
    assert "r%C3%A9sum%C3%A9.bin" in found.headers["content-disposition"]
    etag = found.headers["etag"]
    same = http.get(stored["url"], headers={"If-None-Match": etag})
    assert same.status_code == 304 and same.content == b""
    part = http.get(stored["url"], headers={"Range": "bytes=100-199"})
    assert part.status_code == 206 and part.content == data[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{len(data)}"
    other = http.get(stored["url"], headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert other.status_code == 200 and len(other.content) == len(data)
    meta = http.get(stored["url"], params={"meta": "1"}).json()
    assert meta["metadata"]["k"] == 1 and meta["name"] == "r\u00e9sum\u00e9.bin"
    assert http.delete(stored["url"]).status_code == 204
    assert_problem(http.get(stored["url"]), 404, "not_found")


def test_artifacts_have_pages_and_survive_a_restart(start_node: Callable[..., Node]):
    node = start_node('[files]\nartifact_bytes_max = "1MiB"')
    http = operator(node)
    stored = [store(http, f"{number}".encode()).json() for number in range(7)]
    assert_problem(store(http, b"x" * ((1 << 20) + 1)), 413, "payload_too_large")
    assert_problem(store(http, b"x", public="yes"), 422, "validation_failed")
    assert node.stop() == 0
    again = start_node(directory=node.data_dir.parent)
    http = operator(again)
    page = http.get("/v1/artifacts", params={"limit": 4}).json()
    rest = http.get("/v1/artifacts", params={"cursor": page["next_cursor"]}).json()
    ids = [item["artifact_id"] for item in page["items"] + rest["items"]]
    assert sorted(ids) == sorted(item["artifact_id"] for item in stored)
    assert rest["next_cursor"] is None
    for number, item in enumerate(stored):
        assert http.get(f"/v1/artifacts/{item['artifact_id']}").text == f"{number}"


def test_an_upload_that_breaks_off_leaves_nothing(home: Node, owner: Account):
    http, _ = agent(home, owner, "breaks-off")
    waiting = home.data_dir / "artifacts" / ".tmp"
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'

    def body() -> Iterator[bytes]:
        yield head + b"x" * (1 << 20)
        wait_until("it is being stored", lambda: any(waiting.iterdir()))
        raise ConnectionError("the client has gone")

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    with contextlib.suppress(ConnectionError):
        http.post("/v1/artifacts/store", content=body(), headers=headers)
    wait_until("nothing is left", lambda: not any(waiting.iterdir()))
    assert http.get("/v1/artifacts").status_code == 200


def test_documents_of_every_format_are_read(home: Node, owner: Account):
    http, _ = agent(home, owner, "documents")
    page = analyze(http, "a", b"<!doctype html><title>T</title><h2>Top</h2><p>w\xc3\xb6rds").json()
    assert (page["format"], page["title"], page["truncated"]) == ("html", "T", False)
    assert page["headings"] == [{"level": 2, "text": "Top"}] and "w\u00f6rds" in page["text"]
    assert page["words"] == 2 and page["characters"] == len(page["text"])
    assert analyze(http, "a.md", b"# T\n\n*w*").json()["text"] == "T\n\nw"
    assert analyze(http, "a.txt", b"caf\xe9").json()["text"] == "caf\u00e9"
    word = b"<w:document xmlns:w='w'><w:p><w:r><w:t>Hi</w:t></w:r></w:p></w:document>"
    found = analyze(http, "a.docx", docx(word)).json()
    assert (found["format"], found["text"]) == ("docx", "Hi")
    stored = store(http, docx(word), name="b.docx").json()
    answer = http.post("/v1/documents/analyze", json={"artifact_id": stored["artifact_id"]})
    assert answer.json()["text"] == "Hi", answer.text
    body = assert_problem(analyze(http, "a.exe", b"MZ\0\0"), 415, "unsupported_media_type")
    assert body["formats"] == ["pdf", "docx", "html", "markdown", "text"]
    assert analyze(with_key(home, owner.key), "a.md", b"x").status_code == 200


def test_documents_need_their_capability(home: Node, owner: Account):
    bundle = aboard(owner.http, card("no-documents"))
    http = with_key(home, bundle["api_key"])
    body = assert_problem(analyze(http, "a.md", b"x"), 403, "capability_missing")
    assert body["capability"] == "document_analysis"
    body = assert_problem(store(http, b"x"), 403, "capability_missing")
    assert body["capability"] == "file_upload"
    # Its own files need none.
    assert write(http, "data/x").status_code == 200


def test_hostile_documents_end_their_reader_and_not_the_node(home: Node, owner: Account):
    http, _ = agent(home, owner, "hostile-documents")
    bomb = docx(b" " * (200 << 20))
    assert len(bomb) < 1 << 20
    body = assert_problem(analyze(http, "a.docx", bomb), 422, "invalid_document")
    assert body["reason"] == "too_large"
    # Tables in tables take a renderer time without end, or memory.
    slow = b"<!doctype html>" + b"<table><tr><td>" * 100_000
    for name, content in (
        ("a.html", slow),
        ("b.html", b"<html>" + b"<b><i>" * 300_000),
        ("a.docx", b"PK\x03\x04" + os.urandom(5000)),
        ("a.pdf", b"%PDF-1.5\n" + os.urandom(5000)),
        ("b.docx", docx(b"<w:p>" * 1_000_000)),
    ):
        answer = analyze(http, name, content)
        if answer.status_code != 200:
            assert_problem(answer, 422, "invalid_document")
        assert home.http.get("/health").status_code == 200
    assert analyze(http, "a.md", b"fine").json()["text"] == "fine"


def test_a_pdf_that_unpacks_without_end_ends_its_reader(home: Node, owner: Account):
    http, _ = agent(home, owner, "pdf-bomb")
    packer = zlib.compressobj(1)
    megabyte = b" " * (1 << 20)
    packed = b"".join(packer.compress(megabyte) for _ in range(1600)) + packer.flush()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R /Resources << >> >>",
        b"<< /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream" % (len(packed), packed),
    ]
    file, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(file))
        file += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    begin = len(file)
    file += b"xref\n0 5\n0000000000 65535 f \n"
    file += b"".join(b"%010d 00000 n \n" % place for place in places)
    file += b"trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % begin
    body = assert_problem(analyze(http, "a.pdf", file), 422, "invalid_document")
    assert body["reason"] == "memory", body
    assert analyze(http, "a.md", b"fine").json()["text"] == "fine"


def test_too_many_documents_at_once_are_told_to_return(home: Node, owner: Account):
    _, bundle = agent(home, owner, "many-documents")
    content = docx(b"<w:p>" + b"<w:t>a</w:t>" * 1_500_000)

    def ask(_: int) -> httpx.Response:
        return analyze(with_key(home, bundle["api_key"]), "a.docx", content)

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(ask, range(40)))
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused and all("retry-after" in answer.headers for answer in refused)
    assert {answer.status_code for answer in answers} <= {200, 422, 503}
    wait_until(
        "there is room again",
        lambda: analyze(with_key(home, bundle["api_key"]), "a.md", b"x").status_code == 200,
    )


def reader(document: bytes, **more) -> subprocess.CompletedProcess:
    """The reader by itself, as the node starts it."""
    words = [required("AITHER_NODE_BIN"), "extract-text", "--format", "text"]
    return subprocess.run(
        words, input=document, capture_output=True, env={}, timeout=DEADLINE_SECONDS, **more
    )


def test_the_reader_is_hidden_and_touches_nothing(tmp_path: pathlib.Path):
    help_text = subprocess.run(
        [required("AITHER_NODE_BIN"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "extract-text" not in help_text
    done = reader(b"some words", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == b""
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said["extracted"]["text"] == "some words"
    assert list(tmp_path.iterdir()) == []


def test_the_reader_bounds_itself(tmp_path: pathlib.Path):
    words = [required("AITHER_NODE_BIN"), "extract-text", "--format", "text"]
    # It waits for its document, so its bounds can be looked at.
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}) as process:
        limits = pathlib.Path(f"/proc/{process.pid}/limits")

        def bounds() -> dict[str, str]:
            lines = [line for line in limits.read_text().splitlines() if line.startswith("Max")]
            return {line[:25].strip(): line[25:].split()[1] for line in lines}

        wait_until("it has bounded itself", lambda: bounds()["Max open files"] == "3")
        found = bounds()
        # A second after the signal that says so.
        assert found["Max cpu time"] == "11"
        assert found["Max file size"] == found["Max core file size"] == "0"
        assert int(found["Max address space"]) < 4 << 30
        assert pathlib.Path(f"/proc/{process.pid}/environ").read_bytes() == b""
        process.communicate(b"x")
        assert process.returncode == 0
