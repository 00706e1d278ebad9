"""Our ledger, as its example of the same name obeys lines: a process for each file."""

import json
import pathlib
import subprocess
import time

from models import Failure


class Process:
    """An open ledger."""

    def __init__(self, program: pathlib.Path, file: pathlib.Path):
        self.program = program
        # Where to find it is the caller's; what the clock says, the ledger is told.
        command = [program, file, str(time.time_ns() // 1_000_000)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, **pipes)
        self.open_seconds = self.answer()["open_seconds"]

    def ask(self, line: str) -> dict:
        self.send(line)
        return self.answer()

    def send(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise Failure(f"{self.program.name} ended: {self.process.stderr.read().strip()}")
        return json.loads(line)

    def kill(self) -> None:
        """Ends it in the middle of what it does."""
        self.process.kill()
        self.close()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


class Ours:
    """Our ledger, beginning each round with a new file."""

    name = "aither-ledger"
    variants = {"closed": ["one loop"], "flight": ["one loop"]}

    def __init__(self, program: pathlib.Path, folder: pathlib.Path):
        self.program, self.folder = program, folder
        self.process = None

    def begin_round(self) -> None:
        self.close()
        file = self.folder / "ledger.redb"
        file.unlink(missing_ok=True)
        self.process = Process(self.program, file)

    def measure(self, load: str, _variant: str, options) -> float:
        return pairs(self.process, load, options)

    def steps(self, rate: float, options) -> dict:
        return self.process.ask(f"steps {rate} {options.seconds}")

    def close(self) -> None:
        if self.process:
            self.process.close()
            self.process = None


class Large(Ours):
    """Our ledger with many transfers in its file, which is kept over all rounds."""

    def __init__(self, program: pathlib.Path, folder: pathlib.Path, transfers: int):
        super().__init__(program, folder)
        self.name = f"aither-ledger, {transfers / 1e6:g} M transfers before"
        self.file = folder / "large.redb"
        self.process = Process(program, self.file)
        self.load_seconds = self.process.ask(f"load {transfers}")["seconds"]
        self.file_bytes = self.file.stat().st_size

    def begin_round(self) -> None:
        """Goes on with what there is."""

    def reopen(self, seconds: float) -> dict:
        """How long opening takes, after a clean end and after one in the midst of writing."""
        self.close()
        self.process = Process(self.program, self.file)
        clean = self.process.open_seconds
        self.process.send(f"pairs 64 32 {seconds + 60}")
        time.sleep(seconds)
        self.process.kill()
        self.process = Process(self.program, self.file)
        killed = self.process.open_seconds
        audit = self.process.ask("audit")
        return {"clean": clean, "killed": killed, "audit": audit["seconds"]}


def pairs(process: Process, load: str, options) -> float:
    """Pairs a second."""
    depth = 1 if load == "closed" else options.depth
    found = process.ask(f"pairs {options.clients} {depth} {options.seconds}")
    return found["pairs"] / found["seconds"]
