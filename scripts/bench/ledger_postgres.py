"""PostgreSQL, in a cluster of its own that answers on a socket only, driven by pgbench.

Everything is as PostgreSQL comes, so a commit waits for the disk. pgbench keeps many requests
outstanding in its pipelines, each step a transaction of its own, or all steps of a pipeline one.
The latter is cheaper, though what fails then fails for all. Two of these would lock the same
accounts in any order and have to be repeated, so they take turns. The best way counts.
"""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from models import Failure

HERE = pathlib.Path(__file__).resolve().parent

# What is drawn for each pair; every client counts for itself. PostgreSQL wants seconds.
DRAW = r"""\set number :number + 1
\set hold :base + :number * 64 + :client_id
\set debit 1000000 + random(0, 999)
\set credit 2000000 + random(0, 99)
\set amount random(1, 1000)
\set posted :amount - :amount / 4
"""
RESERVE = "SELECT reserve(:hold, :debit, :credit, :amount, 4102444800);\n"
POST = "SELECT post(:hold, :posted);\n"


# Until the end of the transaction nobody else has it.
TURN = "SELECT pg_advisory_xact_lock(1);\n"


def script(pairs: int, is_apart: bool) -> str:
    """A pipeline of so many pairs, each step a transaction of its own or all one."""
    steps = [RESERVE, POST]
    begin = "\\startpipeline\n" + ("" if is_apart else TURN)
    if is_apart:
        steps = [f"BEGIN;\n{step}COMMIT;\n" for step in steps]
    return begin + (DRAW + "".join(steps)) * pairs + "\\endpipeline\n"


def rate(output: str) -> float:
    """What pgbench ran a second, without what failed."""
    found = re.search(r"^tps = ([\d.]+) ", output, re.MULTILINE)
    if not found:
        raise Failure(f"pgbench says no rate: {output[-500:]}")
    return float(found.group(1))


def find_programs() -> pathlib.Path:
    """Where Debian, or else the path, has the newest PostgreSQL."""
    homes = pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(homes, key=lambda path: int(path.parts[4]), default=None)
    found = newest or shutil.which("initdb")
    if not found:
        raise Failure("PostgreSQL is missing")
    return pathlib.Path(found).parent


class Postgres:
    name = "PostgreSQL"
    variants = {
        "closed": ["pgbench"],
        "flight": [
            "64 pipelines, a transaction for each step",
            "64 pipelines in turn, each one transaction",
            "1 pipeline, one transaction",
        ],
    }

    def __init__(self, parent: pathlib.Path):
        self.programs = find_programs()
        self.base = 0
        # It refuses to run as root.
        self.as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.folder = tempfile.TemporaryDirectory(prefix="postgres-", dir=parent)
        if self.as_user:
            shutil.chown(self.folder.name, "postgres", "postgres")
        self.data = f"{self.folder.name}/data"
        flags = ["-A", "trust", "-U", "bench", "--no-locale", "-E", "UTF8"]
        self.run("initdb", "-D", self.data, *flags)
        self.start()
        self.version = self.query("SHOW server_version")
        kept = ("fsync", "synchronous_commit", "full_page_writes", "wal_sync_method")
        self.settings = {name: self.query(f"SHOW {name}") for name in kept}
        if [self.settings[name] for name in kept[:3]] != ["on"] * 3:
            raise Failure(f"this PostgreSQL does not wait for the disk: {self.settings}")
        self.query((HERE / "ledger.sql").read_text())

    def run(self, program: str, *arguments) -> str:
        command = [*self.as_user, self.programs / program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder.name)
        if done.returncode != 0:
            raise Failure(f"{program} failed: {done.stdout[-500:]} {done.stderr[-2000:]}")
        return done.stdout

    def start(self) -> None:
        options = f"-k {self.folder.name} -c listen_addresses=''"
        log = f"{self.folder.name}/log"
        self.run("pg_ctl", "-D", self.data, "-o", options, "-l", log, "-w", "start")

    def query(self, text: str) -> str:
        flags = ["-h", self.folder.name, "-U", "bench", "-v", "ON_ERROR_STOP=1", "-qAt"]
        return self.run("psql", *flags, "-c", text, "postgres").strip()

    def begin_round(self) -> None:
        self.query("TRUNCATE journal, holds")
        self.query("VACUUM ANALYZE accounts")
        self.query("CHECKPOINT")

    def measure(self, load: str, variant: str, options) -> float:
        clients, pairs = options.clients, 1
        text = DRAW + RESERVE + POST
        if load == "flight":
            clients = min(clients, int(variant.split()[0]))
            pairs = options.clients * options.depth // clients
            text = script(pairs, "for each step" in variant)
        self.base += 10**12
        file = pathlib.Path(self.folder.name) / "pairs.sql"
        file.write_text(text)
        flags = ["-h", self.folder.name, "-U", "bench", "-n", "-M", "prepared", "-c", clients]
        flags += ["-j", min(2, clients), "-T", options.seconds, "--random-seed=1"]
        flags += ["-D", "number=0", "-D", f"base={self.base}", "-f", file]
        found = rate(self.run("pgbench", *flags, "postgres")) * pairs
        self.check()
        return found

    def check(self) -> None:
        """Every hold posted, two rows of the journal for each, and sums that agree."""
        text = """SELECT (SELECT count(*) = 2 * (SELECT count(*) FROM holds) FROM journal),
            NOT EXISTS (SELECT FROM holds WHERE posted IS NULL),
            (SELECT sum(debits_pending) = 0 AND sum(debits_posted) + 1000 * 10::numeric ^ 12
             = sum(credits_posted) FROM accounts)"""
        if self.query(text) != "t|t|t":
            raise Failure("PostgreSQL's tables do not agree with each other")

    def close(self) -> None:
        self.run("pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")
        self.folder.cleanup()
