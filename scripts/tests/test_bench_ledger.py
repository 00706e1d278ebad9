"""What the comparison of ledgers derives from what it measured."""

import itertools
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench"))

import ledger_postgres  # noqa: E402
import ledger_sqlite  # noqa: E402
import ledgers  # noqa: E402


def outcome() -> dict:
    ways = {"closed": {"rate": 8000.0, "how": "a way"}, "flight": {"rate": 80_000.0, "how": "b"}}
    slow = {"closed": {"rate": 4000.0, "how": "a way"}, "flight": {"rate": 4000.0, "how": "a way"}}
    step = {"p50": 0.002, "p99": 0.0052}
    return {
        "machine": {"processor": "A processor", "cores": 2, "system": "Linux"},
        "commit": "abc",
        "rounds": 3,
        "seconds": 10,
        "clients": 64,
        "depth": 32,
        "large": None,
        "postgres": "15",
        "sqlite": "3",
        "sync": {"p50": 0.0001, "p99": 0.0002},
        "all": {"PostgreSQL": {"flight": {"a way": [4000.0], "another": [2000.0, 2000.0]}}},
        "stores": {"aither-ledger": ways, "PostgreSQL": slow, "SQLite": slow},
        "steps": {"aither-ledger": {"reserve": step, "post": {**step, "p99": 0.006}}},
        "stolen_share": 0.0,
    }


class Figures(unittest.TestCase):
    def test_the_best_way_counts_by_its_median(self):
        rates = {"a": [1.0, 9.0, 9.5], "b": [8.0, 8.0, 100.0]}
        self.assertEqual(ledgers.best(rates), (9.0, "a"))

    def test_ratios_are_judged(self):
        lines = ledgers.verdicts(outcome())
        self.assertIn("- closed: 2.0 x PostgreSQL (wanted: 4 x): MISSED", lines)
        self.assertIn("- flight: 20.0 x PostgreSQL (wanted: 15 x): met", lines)
        self.assertIn("- flight: 40.0 x PostgreSQL with another", lines)
        self.assertTrue(any("reserve at 40000" in line and line.endswith(" met") for line in lines))
        self.assertTrue(any("post at 40000" in line and line.endswith("MISSED") for line in lines))

    def test_many_transfers_are_compared_with_few(self):
        found = outcome()
        found["stores"]["many"] = {"closed": {"rate": 5000.0}, "flight": {"rate": 60_000.0}}
        opened = {"clean": 0.5, "killed": 2.0, "audit": 30.0}
        found["large"] = {"name": "many", "load_seconds": 60.0, "bytes": 4e9, "open": opened}
        lines = ledgers.large_verdicts(found)
        self.assertEqual(lines[0].split(": ", 1)[1], "1.60 x the time (wanted: 1.5 x): MISSED")
        self.assertTrue(lines[1].endswith("met"))

    def test_every_store_has_a_row(self):
        text = ledgers.markdown(outcome())
        rows = [line for line in text.splitlines() if line.startswith("|")]
        self.assertEqual(len(rows), 5)
        self.assertIn("2048 outstanding", rows[0])
        self.assertIn("a way; b", rows[2])

    def test_syncs_are_measured(self):
        with tempfile.TemporaryDirectory() as folder:
            took = ledgers.measure_syncs(pathlib.Path(folder))
        self.assertEqual(len(took), ledgers.SYNCS)
        self.assertTrue(all(seconds >= 0 for seconds in took))


class Postgres(unittest.TestCase):
    def test_a_rate_is_read(self):
        text = "latency average = 1 ms\ntps = 1234.5 (without initial connection time)\n"
        self.assertEqual(ledger_postgres.rate(text), 1234.5)
        with self.assertRaises(ledger_postgres.Failure):
            ledger_postgres.rate("pgbench: error")

    def test_a_pipeline_has_all_its_pairs(self):
        text = ledger_postgres.script(3, is_apart=False)
        self.assertEqual(text.count("reserve("), 3)
        self.assertEqual(text.count("post("), 3)
        self.assertEqual(text.count("pg_advisory_xact_lock"), 1)
        self.assertNotIn("COMMIT", text)
        apart = ledger_postgres.script(3, is_apart=True)
        self.assertEqual(apart.count("COMMIT"), 6)
        self.assertTrue(apart.endswith("\\endpipeline\n"))


class Sqlite(unittest.TestCase):
    def setUp(self):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.file = pathlib.Path(folder) / "test.db"
        ledger_sqlite.create(self.file)
        self.connection = ledger_sqlite.connect(self.file)
        self.addCleanup(self.connection.close)

    def account(self, number: int) -> tuple:
        command = "SELECT debits_posted, debits_pending, credits_posted, credits_pending "
        return self.connection.execute(command + "FROM accounts WHERE id = ?", (number,)).fetchone()

    def test_a_pair_moves_what_is_posted_and_frees_the_rest(self):
        hold = (self.connection, 1, 1_000_000, 2_000_000, 100)
        self.assertEqual(ledger_sqlite.reserve(*hold), "done")
        self.assertEqual(self.account(1_000_000), (0, 100, 10**12, 0))
        self.assertEqual(ledger_sqlite.post(self.connection, 1, 75), "done")
        self.assertEqual(self.account(1_000_000), (75, 0, 10**12, 0))
        self.assertEqual(self.account(2_000_000), (0, 0, 75, 0))

    def test_repeated_steps_change_nothing(self):
        hold = (self.connection, 1, 1_000_000, 2_000_000, 100)
        found = [ledger_sqlite.reserve(*hold), ledger_sqlite.reserve(*hold)]
        found.append(ledger_sqlite.reserve(*hold[:-1], 99))
        found += [ledger_sqlite.post(self.connection, 1, amount) for amount in (101, 75, 75, 74)]
        wanted = ["done", "replayed", "conflict", "refused", "done", "replayed", "refused"]
        self.assertEqual(found, wanted)

    def test_nobody_spends_more_than_there_is(self):
        found = ledger_sqlite.reserve(self.connection, 1, 1_000_000, 2_000_000, 10**12 + 1)
        self.assertEqual(found, "exceeds credits")
        self.assertEqual(self.account(1_000_000), (0, 0, 10**12, 0))

    def test_all_ways_write_both_rows_of_each_pair(self):
        ids = itertools.count(1)
        clients = [ledger_sqlite.Client(number, ids) for number in range(8)]
        for measure in (
            lambda: ledger_sqlite.one_writer(self.file, clients, 1, 0.05),
            lambda: ledger_sqlite.one_writer(self.file, clients, 8, 0.05),
            lambda: ledger_sqlite.many_writers(self.file, clients, 0.05),
        ):
            self.assertGreaterEqual(measure(), 0)
        held = sum(client.held is not None for client in clients)
        count = self.connection.execute("SELECT count(*) FROM holds").fetchone()[0]
        journal = self.connection.execute("SELECT count(*) FROM journal").fetchone()[0]
        self.assertEqual(journal, 2 * count - held)


if __name__ == "__main__":
    unittest.main()
