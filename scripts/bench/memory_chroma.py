"""Chroma's server beside the node: the same texts with the same vectors.

It is given the vectors, where the node makes them itself; so its searches leave out what the
node's include, the embedding of the query.
"""

import array
import json
import pathlib
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from models import Failure, say

VERSION = "1.5.9"
DATABASE = "/api/v2/tenants/default_tenant/databases/default_database"
DIMENSIONS = 384
START_SECONDS = 60
# Added at once where it is not writing that is measured.
BATCH = 500
NEAREST = 10


class Chroma:
    """A server of its own, with one collection."""

    def __init__(self, kept: pathlib.Path, folder: pathlib.Path):
        self.venv, self.data = kept / "chroma", folder / "chroma"
        self.log = folder / "chroma.log"

    def __enter__(self) -> "Chroma":
        program = self.venv / "bin" / "chroma"
        if not program.exists():
            say(f"installing chromadb {VERSION}")
            subprocess.run([sys.executable, "-m", "venv", self.venv], check=True)
            pip = [self.venv / "bin" / "pip", "install", "--quiet", f"chromadb=={VERSION}"]
            subprocess.run(pip, check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [program, "run", "--path", self.data, "--port", str(self.port)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.wait()
        answer = self.post(f"{DATABASE}/collections", {"name": "memory"})
        self.collection = f"{DATABASE}/collections/{answer['id']}"
        return self

    def __exit__(self, *_unused) -> None:
        self.process.terminate()
        self.process.wait(30)

    def wait(self) -> None:
        begun = time.perf_counter()
        while time.perf_counter() - begun < START_SECONDS:
            try:
                address = f"http://127.0.0.1:{self.port}/api/v2/heartbeat"
                return urllib.request.urlopen(address, timeout=5).close()
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise Failure(f"Chroma does not start: {self.log.read_text()[-2000:]}")

    def post(self, path: str, body: dict) -> dict:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def measure(self, load, dump: pathlib.Path, options, searches: int) -> dict:
        vectors = array.array("f")
        with dump.open("rb") as file:
            vectors.frombytes(file.read())
        total = len(vectors) // DIMENSIONS

        def vector(number: int) -> list:
            start = number % total * DIMENSIONS
            return [round(part, 7) for part in vectors[start : start + DIMENSIONS]]

        def added(numbers: range) -> dict:
            return {
                "ids": [f"note-{number}" for number in numbers],
                "embeddings": [vector(number) for number in numbers],
                "documents": [f"note number {number}" for number in numbers],
            }

        few = min(options.requests, total) // 4
        bodies = (added(range(number, number + 1)) for number in range(few))
        path, key = self.collection, "none"
        found = {"write": load.ask(self.port, key, f"{path}/add", bodies, 64, 201)}
        for start in range(few, total, BATCH):
            self.post(f"{path}/add", added(range(start, min(start + BATCH, total))))
        rng = random.Random(1)
        reads = [{"ids": [f"note-{rng.randrange(total)}"]} for _ in range(few)]
        found["read"] = load.ask(self.port, key, f"{path}/get", reads)
        asked = [
            {"query_embeddings": [vector(rng.randrange(total))], "n_results": NEAREST}
            for _ in range(searches)
        ]
        found["search"] = load.ask(self.port, key, f"{path}/query", asked)
        return found
