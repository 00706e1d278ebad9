"""A node's process on a directory of its own."""

import json
import os
import pathlib
import signal
import subprocess
import time

from models import Failure

START_SECONDS = 300


class Node:
    """A node on a directory of its own."""

    def __init__(self, program: pathlib.Path, folder: pathlib.Path, flags: list = ()):
        self.data = folder / "data"
        self.log = folder / "log"
        self.command = [program, "run", "--http", "127.0.0.1:0", "--no-federation"]
        self.command += ["--data-dir", self.data, *flags]
        self.environment = {}
        self.process = None

    def start(self) -> float:
        """Returns after how many seconds it was ready."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AITHER_")}
        environment |= self.environment
        begun = time.perf_counter()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stderr=log, env=environment)
        while (run := self.run_file()) is None:
            if self.process.poll() is not None or time.perf_counter() - begun > START_SECONDS:
                raise Failure(f"the node does not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.005)
        took = time.perf_counter() - begun
        self.port = int(run["http"].rsplit(":", 1)[1])
        return took

    def run_file(self) -> "dict | None":
        """It is written once the node is ready."""
        try:
            run = json.loads((self.data / "run.json").read_text())
        except OSError:
            return None
        # A killed node leaves its own behind.
        return run if run["pid"] == self.process.pid else None

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(60)

    def processor_seconds(self) -> float:
        # Linux's clock of another process, which counts nanoseconds where /proc counts ticks.
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes of memory: held now, or with VmHWM at most so far."""
        lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024
