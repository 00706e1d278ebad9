"""The two engines as processes that obey the same lines."""

import json
import os
import pathlib
import subprocess
import time

from models import Failure


class Engine:
    """A process that has a model loaded, and answers a line with a line of JSON."""

    def __init__(self, command: list, environment: "dict | None" = None):
        self.name = pathlib.Path(command[0]).name
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.about = self.answer("start")

    def ask(self, line: str) -> dict:
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self.died(line) from None
        return self.answer(line)

    def answer(self, line: str) -> dict:
        text = self.process.stdout.readline()
        if not text:
            raise self.died(line)
        found = json.loads(text)
        if "error" in found:
            raise Failure(f"{self.name} cannot do {line!r}: {found['error']}")
        return found

    def died(self, line: str) -> Failure:
        status = self.process.wait()
        hint = ""
        if status == -4:
            hint = ": an illegal instruction; build it for what this machine really has"
        return Failure(f"{self.name} ended with status {status} at {line!r}{hint}")

    def seconds_since_start(self) -> float:
        return time.perf_counter() - self.started

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_unused) -> None:
        self.close()


class Engines:
    """Starts either engine, or the reader of plain memory."""

    def __init__(self, bench: pathlib.Path, python: pathlib.Path, worker: pathlib.Path, options):
        self.bench, self.python, self.worker = bench, python, worker
        self.threads = options.threads
        # What it has at most; AMX it never uses.
        self.limit = ["--instructions", "avx2"] if options.instructions == "avx2" else []
        self.environment = dict(os.environ)
        if options.perplexity:
            # Nothing is timed then, and threads that spin would only be in each other's way.
            self.environment["OMP_WAIT_POLICY"] = "passive"

    def ours(self, model: pathlib.Path) -> Engine:
        return Engine([self.bench, model, "--threads", self.threads, *self.limit])

    def llama(self, model: pathlib.Path) -> Engine:
        command = [self.python, self.worker, "serve", model, self.threads]
        return Engine(command, self.environment)

    def reader(self, megabytes: int) -> Engine:
        return Engine([self.bench, "--bandwidth", megabytes, "--threads", self.threads])
