"""The figures as text: blocks for a terminal, or Markdown tables for a document."""

import statistics

SIDES = ("ours", "llama")


def share(value: "float | None", digits: int = 0) -> str:
    return "?" if value is None else f"{value * 100:.{digits}f} %"


def percent(value: float) -> str:
    return f"{value * 100:+.2f} %"


def kinds(about: dict) -> str:
    """In which types the matrices are, by bytes."""
    sizes = about["bytes_by_type"]
    total = sum(sizes.values())
    ordered = sorted(sizes.items(), key=lambda item: -item[1])
    if len(ordered) == 1:
        return f"all {ordered[0][0]}"
    return ", ".join(f"{share(size / total)} {name}" for name, size in ordered)


def medians(pair: dict) -> "tuple[float, float]":
    ours, llama = (statistics.median(pair[side]) for side in SIDES)
    return ours, llama


def plain(result: dict) -> str:
    """One file's figures, for people."""
    about = result["file"]
    size = about["file_bytes"] / 1e6
    lines = [f"\n{result['model']}, {result['format']} ({size:.0f} MB; {kinds(about)})"]
    if "perplexity" in result:
        found = result["perplexity"]
        lines.append(
            f"  perplexity   ours {found['ours']:.4f}   llama.cpp {found['llama']:.4f}   "
            f"difference {percent(found['difference'])} ± {percent(found['standard_error'])[1:]}\n"
            f"  activations unrounded {found['unrounded']:.4f}: "
            f"ours {percent(found['ours_over_unrounded'])}, "
            f"llama.cpp {percent(found['llama_over_unrounded'])}; "
            f"same choice {share(found['same_choice'], 1)}"
        )
        return "\n".join(lines)
    lines.append(f"  {'positions/s':12} {'ours':>8} {'llama.cpp':>10} {'ratio':>7}   ours from to")
    for name, pair in result["positions_per_second"].items():
        ours, llama = medians(pair)
        spread = f"{min(pair['ours']):.0f} to {max(pair['ours']):.0f}"
        lines.append(f"  {name:12} {ours:8.1f} {llama:10.1f} {ours / llama:7.2f}   {spread}")
    decode, _ = medians(result["positions_per_second"]["decode"])
    memory = statistics.median(result["bytes_per_second_read"]["memory"]) / 1e9
    near = statistics.median(result["bytes_per_second_read"]["weights"]) / 1e9
    weights = about["decode_bytes"]
    lines.append(
        f"  decode reads {weights / 1e6:.1f} MB of weights per position: "
        f"{decode * weights / 1e9:.1f} of {memory:.1f} GB/s "
        f"({share(result['decode_share_of_bandwidth'])}; "
        f"{near:.1f} GB/s where no more than the weights are read)"
    )
    ours, llama = (result["start"][side] for side in SIDES)
    lines.append(
        f"  first id after {ours['seconds_to_first_id']:.2f} s, "
        f"llama.cpp {llama['seconds_to_first_id']:.2f} s"
    )
    if ours["peak_bytes"] is not None and llama["peak_bytes"] is not None:
        lines.append(
            f"  peak memory {ours['peak_bytes'] / 1e6:.0f} MB "
            f"({result['peak_over_file_and_cache']:.2f} × file and cache), "
            f"llama.cpp {llama['peak_bytes'] / 1e6:.0f} MB"
        )
    return "\n".join(lines)


def table(rows: "list[list[str]]") -> str:
    """Rows, the first of which is the head, as a Markdown table that is aligned as text too."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def speed_row(result: dict) -> "list[str]":
    row = [result["model"], result["format"], kinds(result["file"])]
    for pair in result["positions_per_second"].values():
        ours, llama = medians(pair)
        digits = 0 if min(ours, llama) >= 100 else 1
        row.append(f"{ours:.{digits}f} / {llama:.{digits}f} = **{ours / llama:.2f}**")
    memory = statistics.median(result["bytes_per_second_read"]["memory"])
    achieved = result["decode_share_of_bandwidth"] * memory
    row.append(
        f"{achieved / 1e9:.1f} of {memory / 1e9:.1f} ({share(result['decode_share_of_bandwidth'])})"
    )
    ours, llama = (result["start"][side] for side in SIDES)
    if ours["peak_bytes"] is None or llama["peak_bytes"] is None:
        row.append("?")
    else:
        row.append(
            f"{ours['peak_bytes'] / 1e6:.0f} / {llama['peak_bytes'] / 1e6:.0f} MB; "
            f"{result['peak_over_file_and_cache']:.2f} ×"
        )
    row.append(f"{ours['seconds_to_first_id']:.2f} / {llama['seconds_to_first_id']:.2f} s")
    return row


def perplexity_row(result: dict) -> "list[str]":
    found = result["perplexity"]
    return [
        result["model"],
        result["format"],
        kinds(result["file"]),
        f"{found['ours']:.4f}",
        f"{found['llama']:.4f}",
        f"{percent(found['difference'])} ± {percent(found['standard_error'])[1:]}",
        f"{found['unrounded']:.4f}",
        percent(found["ours_over_unrounded"]),
        percent(found["llama_over_unrounded"]),
        share(found["same_choice"], 1),
    ]


def markdown(outcome: dict) -> str:
    results = outcome["results"]
    head = ["model", "format", "matrices"]
    if results and "perplexity" in results[0]:
        head += ["ours", "llama.cpp", "difference"]
        head += ["unrounded", "ours to that", "llama.cpp to that", "same choice"]
        rows = [head, *map(perplexity_row, results)]
    else:
        head += list(results[0]["positions_per_second"]) if results else []
        head += ["decode GB/s", "peak; of file and cache", "first id"]
        rows = [head, *map(speed_row, results)]
    return f"{conditions(outcome)}\n\n{table(rows)}"


def built_in(system: str) -> str:
    """What llama.cpp says it can use, of `CPU : AVX = 1 | AMX_INT8 = 1 | ...`."""
    parts = [part.split(":")[-1].split("=") for part in system.split("|") if "=" in part]
    return ", ".join(part[0].strip() for part in parts if part[1].strip() != "0")


def conditions(outcome: dict) -> str:
    """Where and how, in a sentence or two."""
    machine = outcome["machine"]
    kind = f"medians of {outcome['rounds']} rounds"
    if outcome["results"] and "perplexity" in outcome["results"][0]:
        found = outcome["results"][0]["perplexity"]
        kind = f"{found['ids']} ids of the text {found['text']}"
    return (
        f"\n{machine['processor']}, {machine['cores']} cores, {machine['system']}; "
        f"{outcome['threads']} threads, {kind}; "
        f"stolen by the hypervisor: {share(outcome.get('stolen_share'), 1)}. "
        f"Commit {outcome['commit']}; llama.cpp of llama-cpp-python "
        f"{outcome['llama']['version']} ({built_in(outcome['llama']['system'])})."
    )
