"""SQLite within this process: the same tables, a log that every commit waits for the disk with.

SQLite has one writer at a time. So beside threads that take turns, one of them does what all
clients wait for, a transaction for each step or one for all that wait, as our ledger does.
"""

import pathlib
import random
import sqlite3
import threading
import time

from models import Failure

SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE accounts (
  id INTEGER PRIMARY KEY, is_bounded INTEGER NOT NULL,
  debits_posted INTEGER NOT NULL DEFAULT 0, debits_pending INTEGER NOT NULL DEFAULT 0,
  credits_posted INTEGER NOT NULL DEFAULT 0, credits_pending INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE holds (
  id INTEGER PRIMARY KEY, debit INTEGER NOT NULL, credit INTEGER NOT NULL,
  amount INTEGER NOT NULL, expires INTEGER NOT NULL, posted INTEGER
);
CREATE TABLE journal (
  sequence INTEGER PRIMARY KEY, at INTEGER NOT NULL, hold INTEGER NOT NULL,
  is_post INTEGER NOT NULL, debit INTEGER NOT NULL, credit INTEGER NOT NULL,
  amount INTEGER NOT NULL
);
"""

HOLD = "INSERT OR IGNORE INTO holds (id, debit, credit, amount, expires) VALUES (?, ?, ?, ?, ?)"
HOLD_DEBIT = """UPDATE accounts SET debits_pending = debits_pending + ?2 WHERE id = ?1
  AND (NOT is_bounded OR debits_posted + debits_pending + ?2 <= credits_posted)"""
HOLD_CREDIT = "UPDATE accounts SET credits_pending = credits_pending + ?2 WHERE id = ?1"
END = """UPDATE holds SET posted = ?2
  WHERE id = ?1 AND posted IS NULL AND amount >= ?2 AND expires > ?3
  RETURNING debit, credit, amount"""
END_DEBIT = """UPDATE accounts SET debits_pending = debits_pending - ?2,
  debits_posted = debits_posted + ?3 WHERE id = ?1"""
END_CREDIT = """UPDATE accounts SET credits_pending = credits_pending - ?2,
  credits_posted = credits_posted + ?3 WHERE id = ?1"""
ENTRY = "INSERT INTO journal (at, hold, is_post, debit, credit, amount) VALUES (?, ?, ?, ?, ?, ?)"

EXPIRES = 4102444800


def connect(file: pathlib.Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        file, isolation_level=None, check_same_thread=False, timeout=60, cached_statements=64
    )
    # As much memory as our ledger takes.
    connection.execute("PRAGMA cache_size = -65536")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def create(file: pathlib.Path) -> None:
    connection = sqlite3.connect(file)
    connection.executescript(SCHEMA)
    payers = [(1_000_000 + number, 1, 10**12) for number in range(1000)]
    receivers = [(2_000_000 + number, 0, 0) for number in range(100)]
    command = "INSERT INTO accounts (id, is_bounded, credits_posted) VALUES (?, ?, ?)"
    connection.executemany(command, payers + receivers)
    connection.commit()
    connection.close()


def reserve(connection, hold: int, debit: int, credit: int, amount: int) -> str:
    execute = connection.execute
    if execute(HOLD, (hold, debit, credit, amount, EXPIRES)).rowcount == 0:
        found = execute("SELECT debit, credit, amount FROM holds WHERE id = ?", (hold,)).fetchone()
        return "replayed" if found == (debit, credit, amount) else "conflict"
    if execute(HOLD_DEBIT, (debit, amount)).rowcount == 0:
        execute("DELETE FROM holds WHERE id = ?", (hold,))
        return "exceeds credits"
    execute(HOLD_CREDIT, (credit, amount))
    execute(ENTRY, (time.time_ns(), hold, 0, debit, credit, amount))
    return "done"


def post(connection, hold: int, amount: int) -> str:
    execute = connection.execute
    held = execute(END, (hold, amount, time.time())).fetchall()
    if not held:
        found = execute("SELECT posted FROM holds WHERE id = ?", (hold,)).fetchone()
        return "replayed" if found == (amount,) else "refused"
    debit, credit, held_amount = held[0]
    execute(END_DEBIT, (debit, held_amount, amount))
    execute(END_CREDIT, (credit, held_amount, amount))
    execute(ENTRY, (time.time_ns(), hold, 1, debit, credit, amount))
    return "done"


class Client:
    """Makes pairs: each call of `step` is a hold, or the post of the one before."""

    def __init__(self, number: int, ids):
        self.random = random.Random(number)
        self.ids = ids
        self.held = None

    def step(self, connection) -> int:
        """Returns how many pairs it has ended: 0 or 1."""
        if self.held:
            hold, amount = self.held
            self.held = None
            done = post(connection, hold, amount - amount // 4)
        else:
            draw = self.random.random
            hold, amount = next(self.ids), 1 + int(draw() * 1000)
            self.held = hold, amount
            payer, receiver = 1_000_000 + int(draw() * 1000), 2_000_000 + int(draw() * 100)
            done = reserve(connection, hold, payer, receiver, amount)
        if done != "done":
            raise Failure(f"a step of SQLite was {done}")
        return 0 if self.held else 1


def one_writer(file: pathlib.Path, clients: "list[Client]", batch: int, seconds: float) -> float:
    """Pairs a second where one thread does all clients' steps, so many in a transaction."""
    connection = connect(file)
    done, begin = 0, time.monotonic()
    while time.monotonic() < begin + seconds:
        for first in range(0, len(clients), batch):
            connection.execute("BEGIN IMMEDIATE")
            for client in clients[first : first + batch]:
                done += client.step(connection)
            connection.execute("COMMIT")
    took = time.monotonic() - begin
    connection.close()
    return done / took


def many_writers(file: pathlib.Path, clients: "list[Client]", seconds: float) -> float:
    """Pairs a second where each client has a thread and a connection."""
    done, failures = [], []
    begin = time.monotonic()

    def work(client: Client) -> None:
        connection = connect(file)
        own = 0
        try:
            while time.monotonic() < begin + seconds:
                connection.execute("BEGIN IMMEDIATE")
                ended = client.step(connection)
                connection.execute("COMMIT")
                own += ended
        except (sqlite3.Error, Failure) as error:
            failures.append(error)
        connection.close()
        done.append(own)

    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise Failure(f"a thread with SQLite failed: {failures[0]}")
    return sum(done) / (time.monotonic() - begin)


class Sqlite:
    name = "SQLite"
    variants = {
        "closed": [
            "one writer, all that wait in a transaction",
            "one writer, a transaction for each step",
            "64 threads, a transaction for each step",
        ],
        "flight": ["one writer, all that wait in a transaction"],
    }

    def __init__(self, folder: pathlib.Path):
        self.file = folder / "sqlite.db"
        self.version = sqlite3.sqlite_version
        self.ids = iter(())

    def begin_round(self) -> None:
        self.close()
        create(self.file)
        self.ids = iter(range(1, 10**12))

    def measure(self, load: str, variant: str, options) -> float:
        count = options.clients * (1 if load == "closed" else options.depth)
        clients = [Client(number, self.ids) for number in range(count)]
        if variant.startswith("64 threads"):
            return many_writers(self.file, clients, options.seconds)
        batch = 1 if "each step" in variant else count
        return one_writer(self.file, clients, batch, options.seconds)

    def close(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            pathlib.Path(f"{self.file}{suffix}").unlink(missing_ok=True)
