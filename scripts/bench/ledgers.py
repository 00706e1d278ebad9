#!/usr/bin/env python3
"""Measures our ledger beside PostgreSQL and SQLite: the same pairs, equally durable, in turns.

Run through scripts/bench-ledger.sh, which builds our side first. A pair is a hold and its post, two
steps, each of which stands on the disk before its client hears of it. Clients wait for each answer
(closed loop), or have many pairs outstanding. Where another store can be driven in several ways,
all are measured and the best counts.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

from compare import commit, count, machine, processor_times, stolen_share
from ledger_ours import Large, Ours
from ledger_postgres import Postgres
from ledger_sqlite import Sqlite
from load import percentile
from models import Failure, say
from report import share, table

LOADS = ("closed", "flight")
# Beside the wait for the disk, what a step may take at half of the greatest load.
STEP_SECONDS = 0.005
# Units times what is in one, and one unit more.
LARGE_TRANSFERS = 10_000_000
SYNCS = 500
# Writing goes on so long before the process is killed.
KILL_SECONDS = 5

TARGETS = {"flight_over_postgres": 15, "closed_over_postgres": 4, "flight": 60_000, "slower": 1.5}


def measure_syncs(folder: pathlib.Path) -> "list[float]":
    """Seconds that the disk takes for 4 KiB within a file that is there."""
    block = os.urandom(4096)
    took = []
    with tempfile.TemporaryFile(dir=folder) as file:
        descriptor = file.fileno()
        os.pwrite(descriptor, block * 256, 0)
        os.fsync(descriptor)
        for number in range(SYNCS):
            os.pwrite(descriptor, block, number * 37 % 256 * 4096)
            begin = time.perf_counter()
            os.fdatasync(descriptor)
            took.append(time.perf_counter() - begin)
    return took


def one_round(stores: list, found: dict, options) -> None:
    """All stores, each in all ways, one after another."""
    for store in stores:
        store.begin_round()
        for load in LOADS:
            for variant in store.variants[load]:
                rate = store.measure(load, variant, options)
                found[store.name][load].setdefault(variant, []).append(rate)
                say(f"{store.name}, {load}, {variant}: {rate:.0f} pairs/s")


def best(variants: "dict[str, list[float]]") -> "tuple[float, str]":
    """The highest median, and of what."""
    return max((statistics.median(rates), variant) for variant, rates in variants.items())


def medians(found: dict) -> dict:
    """Rates by store and load, with how they came about."""
    return {
        name: {load: dict(zip(("rate", "how"), best(loads[load]))) for load in LOADS}
        for name, loads in found.items()
    }


def measure_steps(store: Ours, rate: float, options) -> dict:
    """How long each step takes at half of the load: medians of the rounds."""
    rounds = []
    for _ in range(options.rounds):
        store.begin_round()
        rounds.append(store.steps(rate / 2, options))
        say(f"{store.name}: {rounds[-1]}")
    return {
        step: {key: statistics.median(one[step][key] for one in rounds) for key in ("p50", "p99")}
        for step in ("reserve", "post")
    }


def compare(options) -> dict:
    outcome = {"machine": machine(), "commit": commit(), "rounds": options.rounds}
    outcome |= {name: getattr(options, name) for name in ("seconds", "clients", "depth", "large")}
    before = processor_times()
    with contextlib.ExitStack() as stack:
        made = tempfile.TemporaryDirectory(prefix="bench-ledger-", dir=options.work)
        folder = pathlib.Path(stack.enter_context(made))
        # PostgreSQL, another user, must reach its own folder below.
        folder.chmod(0o711)
        stores = []

        def start(store):
            stack.callback(store.close)
            stores.append(store)
            return store

        ours = start(Ours(options.program, folder))
        postgres, sqlite = start(Postgres(folder)), start(Sqlite(folder))
        outcome |= {"postgres": postgres.version, "postgres_settings": postgres.settings}
        outcome["sqlite"] = sqlite.version
        if options.large:
            say(f"loading {options.transfers} transfers")
            large = start(Large(options.program, folder, options.transfers))
        found = {store.name: {load: {} for load in LOADS} for store in stores}
        syncs = []
        for _ in range(options.rounds):
            syncs += measure_syncs(folder)
            one_round(stores, found, options)
        outcome |= {"all": found, "stores": medians(found)}
        outcome["sync"] = {"p50": percentile(syncs, 0.5), "p99": percentile(syncs, 0.99)}
        rate = outcome["stores"][ours.name]["flight"]["rate"]
        outcome["steps"] = {ours.name: measure_steps(ours, rate, options)}
        if options.large:
            outcome["steps"][large.name] = measure_steps(large, rate, options)
            outcome["large"] = {"load_seconds": large.load_seconds, "bytes": large.file_bytes}
            outcome["large"] |= {"name": large.name, "open": large.reopen(KILL_SECONDS)}
    outcome["stolen_share"] = stolen_share(before)
    return outcome


def judged(text: str, is_met: bool) -> str:
    return f"- {text}: {'met' if is_met else 'MISSED'}"


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def verdicts(outcome: dict) -> "list[str]":
    """What the figures come to, beside what they should."""
    ours, stores = outcome["stores"][Ours.name], outcome["stores"]
    lines = []
    for name, wanted in [
        (Postgres.name, [TARGETS[f"{load}_over_postgres"] for load in LOADS]),
        (Sqlite.name, [None, None]),
    ]:
        for load, factor in zip(LOADS, wanted):
            ratio = ours[load]["rate"] / stores[name][load]["rate"]
            text = f"{load}: {ratio:.1f} x {name}"
            lines.append(
                judged(f"{text} (wanted: {factor} x)", ratio >= factor) if factor else f"- {text}"
            )
    for variant, rates in outcome["all"][Postgres.name]["flight"].items():
        ratio = ours["flight"]["rate"] / statistics.median(rates)
        lines.append(f"- flight: {ratio:.1f} x {Postgres.name} with {variant}")
    rate = ours["flight"]["rate"]
    wanted = TARGETS["flight"]
    lines.append(judged(f"flight: {rate:.0f} pairs/s (wanted: {wanted})", rate >= wanted))
    bound = 2 * outcome["sync"]["p50"] + STEP_SECONDS
    for name, steps in outcome["steps"].items():
        for step, found in steps.items():
            text = f"{name}, {step} at {rate / 2:.0f} pairs/s: p50 {ms(found['p50'])}, "
            text += f"p99 {ms(found['p99'])} (2 syncs + 5 ms: {ms(bound)})"
            lines.append(judged(text, found["p99"] <= bound))
    return lines


def large_verdicts(outcome: dict) -> "list[str]":
    """What many transfers in the file cost."""
    large, wanted = outcome["large"], TARGETS["slower"]
    pairs = [
        (load, outcome["stores"][Ours.name][load]["rate"], found["rate"])
        for load, found in outcome["stores"][large["name"]].items()
    ]
    lines = []
    for load, small, many in pairs:
        text = f"{load} after many transfers: {small / many:.2f} x the time (wanted: {wanted} x)"
        lines.append(judged(text, small / many <= wanted))
    opened, size = large["open"], large["bytes"] / 1e9
    lines.append(f"- loading: {large['load_seconds']:.0f} s, {size:.2f} GB")
    lines.append(f"- opening: {opened['clean']:.2f} s after a clean end")
    lines.append(f"- opening: {opened['killed']:.2f} s after a kill while writing")
    lines.append(f"- comparing all balances with the journal: {opened['audit']:.1f} s")
    return lines


def markdown(outcome: dict) -> str:
    """A table of the figures, and what they come to."""
    flight = outcome["clients"] * outcome["depth"]
    rows = [["pairs a second", "closed loop", f"{flight} outstanding", "how"]]
    for name, found in outcome["stores"].items():
        ways = [found[load]["how"] for load in LOADS]
        rates = [f"{found[load]['rate']:.0f}" for load in LOADS]
        rows.append([name, *rates, "; ".join(dict.fromkeys(ways))])
    sync, where = outcome["sync"], outcome["machine"]
    conditions = (
        f"{where['processor']}, {where['cores']} cores, {where['system']}; "
        f"{outcome['clients']} clients, medians of {outcome['rounds']} rounds of "
        f"{outcome['seconds']:g} s; PostgreSQL {outcome['postgres']}, SQLite {outcome['sqlite']}; "
        f"commit {outcome['commit']}; stolen by the hypervisor: "
        f"{share(outcome['stolen_share'], 1)}. One fdatasync of 4 KiB: "
        f"p50 {ms(sync['p50'])}, p99 {ms(sync['p99'])}."
    )
    lines = verdicts(outcome) + (large_verdicts(outcome) if outcome["large"] else [])
    return f"{conditions}\n\n{table(rows)}\n\n" + "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-ledger.sh", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--rounds", type=count, default=3, help="rounds, of which medians are shown (default 3)")
    add("--seconds", type=count, default=10, help="of each measurement (default 10)")
    add("--large", action="store_true", help="also with many transfers in our file")
    add("--transfers", type=count, default=LARGE_TRANSFERS, help="so many (default 10 million)")
    add("--json", type=pathlib.Path, metavar="FILE", help="write the figures there")
    add("--work", type=pathlib.Path, default=pathlib.Path("/var/tmp"), help="a folder on a disk")
    add("--program", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.clients, options.depth = 64, 32
    return options


def main() -> int:
    options = parse()
    try:
        outcome = compare(options)
    except (Failure, OSError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    if options.json:
        options.json.write_text(json.dumps(outcome, indent=1) + "\n")
    print(markdown(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
