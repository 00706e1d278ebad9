"""What the onboarding benchmark makes of its figures, and the agents it makes up."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench"))

import onboarding  # noqa: E402


def outcome(**more) -> dict:
    times = {"p50": 0.001, "p99": 0.002}
    return {
        "machine": {"processor": "a processor", "cores": 2, "system": "Linux 6"},
        "commit": "abc",
        "profile": "release",
        "agents": 1000,
        "connections": 16,
        "stolen_share": 0.0,
        "empty": {"ready": 0.2, "memory": 30e6},
        "onboard": {"rate": 500.0, "processor": 300e-6, **times},
        "auth": {"none": 50e-6, "key": 52e-6, "key_over_none": 2e-6, "token_over_none": 6e-6},
        "find": {"first page": times},
        "ready": {"stopped": 0.5, "killed": 0.6},
        "memory": {"aboard": 60e6, "aboard_peak": 500e6},
        "bytes": 5e6,
    } | more


class Figures(unittest.TestCase):
    def verdict(self, of: str, found: dict) -> "bool | None":
        return next(row[3] for row in onboarding.rows(found) if row[0] == of)

    def test_what_is_within_its_target_is_met(self):
        found = outcome(within={"agents": 1000, "key": 1e-6, "token": 19e-6, "admit": 2e-6})
        self.assertTrue(self.verdict("within the process: an agent's key", found))
        self.assertFalse(self.verdict("within the process: a capability token", found))
        self.assertTrue(self.verdict("list first page, p50", found))
        self.assertTrue(self.verdict("memory, aboard", found))
        # Of the peak nothing is asked.
        self.assertIsNone(self.verdict("memory, aboard, peak", found))
        late = outcome(ready={"stopped": 3.5, "killed": 0.6})
        self.assertFalse(self.verdict("ready after it was stopped", late))
        self.assertIn("MISSED", onboarding.markdown(late))

    def test_the_table_names_its_profile(self):
        self.assertIn(
            "profile release; 1000 agents over 16 connections", onboarding.markdown(outcome())
        )


class Agents(unittest.TestCase):
    def test_they_are_the_same_each_time_and_have_names_of_their_own(self):
        first, second = (onboarding.Cards() for _ in range(2))
        cards = [first.card(number) for number in range(500)]
        self.assertEqual(cards, [second.card(number) for number in range(500)])
        self.assertEqual(len({card["name"] for card in cards}), 500)
        ids = [skill["id"] for skill in cards[0]["skills"]]
        self.assertEqual(len(set(ids)), 3)


if __name__ == "__main__":
    unittest.main()
