"""Makes cards that are wrong, one field at a time, out of the card's own JSON Schema.

What the schema says of a field is what is broken: that it is there, of a type, of a length, of a
look, one of a few words, within a range. A field that comes to the schema is broken, too, once
`FULL` has a value for it; a test fails until then.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

# Right, with every field of the schema.
FULL = {
    "name": "broken",
    "version": "1.2.3",
    "description": "Has everything",
    "author": "Somebody",
    "runtime": {"language": "python3.12", "entrypoint": "main.py", "dockerfile": "Dockerfile"},
    "skills": [
        {
            "id": "echo",
            "name": "Echo",
            "description": "Says it again",
            "tags": ["sound"],
            "examples": ["Say hello"],
            "endpoint": "/echo",
        }
    ],
    "endpoints": [{"path": "/chat", "method": "POST", "description": "Chat"}],
    "capabilities_requested": ["llm_inference"],
    "capabilities": ["llm_inference"],
    "resources": {
        "gpu": False,
        "vram_min": "4GB",
        "ram_min": "1GB",
        "model": "llama3.1:8b",
        "max_concurrent": 2,
    },
    "billing": {"token_cost_per_request": 3, "category": "agent"},
    "health_endpoint": "/health",
    "health": {"endpoint": "/health", "interval": "30s"},
    "self_hosted": True,
    "agent_url": "http://127.0.0.1:9",
    "a2a": {"url": "http://127.0.0.1:9/a2a", "card_url": "http://127.0.0.1:9/card.json"},
    "partial": False,
}
# Of these pairs one must be there; the first is what is called missing.
EITHER = [("capabilities_requested", "capabilities"), ("health_endpoint", "health")]
# Of each type, and of all but the schema's they are wrong.
OF_TYPES = {
    "string": ["", "text"],
    "integer": [7],
    "number": [0.5, -1.5, 1e300],
    "boolean": [True],
    "array": [[], ["text"], [None]],
    "object": [{}, {"a": 1}],
    "null": [None],
}
# Some are wrong by any pattern.
LOOKS = ["\0", "\x1b[31m", "\x7f", "\x85", "a\nb", "A", "-a", "a-", " ", "é", "//a", "/a?b", "/a#b"]
LOOKS += ["/../a", "/%2e%2E/a", "../a", "a//b", "1.0", "01.0.0", "v1.0.0", "ftp://a", "4 gb", "1d"]
WHOLE_NUMBERS = [-(2**63), -1, 2**31, 2**63, 2**64, 10**30]


class Wrong(NamedTuple):
    """A card with one thing wrong."""

    path: str
    what: str
    card: dict


Steps = tuple  # Of names and positions, from the card down.


def path_of(steps: Steps) -> str:
    """As the node's answers write it: `skills[0].tags[1]`."""
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.removeprefix(".")


def within(card: dict, steps: Steps) -> Any:
    for step in steps:
        card = card[step]
    return card


def replaced(steps: Steps, value: Any) -> dict:
    card = copy.deepcopy(FULL)
    within(card, steps[:-1])[steps[-1]] = value
    return card


def without(steps: Steps) -> dict:
    card = copy.deepcopy(FULL)
    del within(card, steps[:-1])[steps[-1]]
    return card


def fits(pattern: str, text: str) -> bool:
    # To Python, `$` is also before a newline at the end.
    return re.search(re.sub(r"\$(?=$|\))", r"\\Z", pattern), text) is not None


def types_of(schema: dict) -> set[str]:
    types = schema.get("type", "string")
    return {types} if isinstance(types, str) else set(types)


def wrong_values(schema: dict, right: Any) -> Iterator[tuple[str, Any]]:
    """Values that the schema of a field forbids, with what is wrong about each."""
    types = types_of(schema)
    for kind, values in OF_TYPES.items():
        # Wholes are numbers to JSON; a missing field and `null` are the same, if it may be missing.
        if kind not in types and not (kind == "integer" and "number" in types):
            yield from ((f"type {kind}", value) for value in values)
    if "maxLength" in schema:
        yield "too long", str(right) + "a" * schema["maxLength"]
    if schema.get("minLength", 0) > 0:
        yield "empty", ""
    if "string" in types and ("pattern" in schema or "not" in schema):
        for look in LOOKS:
            forbidden = schema.get("not", {}).get("pattern")
            is_forbidden = forbidden is not None and fits(forbidden, look)
            if is_forbidden or not fits(schema.get("pattern", ""), look):
                yield f"look {look!r}", look
    if "oneOf" in schema:
        words = [choice["const"] for choice in schema["oneOf"]]
        yield from ((f"word {word!r}", word) for word in ["x", f"{words[0]} ", words[0].swapcase()])
    if "maxItems" in schema:
        yield "too many", list(right) * (schema["maxItems"] + 1)
    if "integer" in types:
        low, high = schema.get("minimum", 0), schema.get("maximum", 2**64)
        numbers = [low - 1, high + 1, *WHOLE_NUMBERS]
        yield from ((f"range {n}", n) for n in numbers if not low <= n <= high)


def walk(schema: dict, steps: Steps = ()) -> Iterator[Wrong]:
    """Every wrong card that the schema leads to."""
    right = within(FULL, steps)
    for name, inner in schema.get("properties", {}).items():
        below = (*steps, name)
        if name in schema.get("required", []):
            yield Wrong(path_of(below), "missing", without(below))
        yield from of_field(inner, below, right[name])
    if "items" in schema:
        yield from of_field(schema["items"], (*steps, 0), right[0])


def of_field(schema: dict, steps: Steps, right: Any) -> Iterator[Wrong]:
    for what, value in wrong_values(schema, right):
        yield Wrong(path_of(steps), what, replaced(steps, value))
    yield from walk(schema, steps)


def without_both() -> Iterator[Wrong]:
    """Cards that lack a field under either of its names."""
    for first, second in EITHER:
        card = without((first,))
        del card[second]
        yield Wrong(first, "missing", card)
