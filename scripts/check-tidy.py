#!/usr/bin/env python3
"""Checks the rules of this repository that neither rustfmt nor clippy know.

Usage: scripts/check-tidy.py [--root DIR]

What is checked: sizes of files, functions and lines; a `//!` head on every Rust file; the
layering of the crates (which crate or folder may see which library); where `unsafe` may stand
and that it says why; banned macros and attributes; manifests that inherit the workspace's
lints and versions; no machine paths, tracker numbers or registry hosts in the text; documents
that name only paths that are there.

Every finding is one line `file:line: what is wrong; what to do`. Exits 1 when there is one.
A function that is one long flat `match`, or a table of cases, may say so above it with the comment
`// tidy: flat match` or `// tidy: table`.
Only the standard library is used, so that it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Before Python 3.11 pip carries the same parser.
    from pip._vendor import tomli as tomllib  # type: ignore[no-redef]

FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70
COLUMNS_MAX = 100
# A `lib.rs` is a table of contents and a `main.rs` an entry point: neither holds logic.
ROOT_FILE_LINES_MAX = 60
PROSE_LINES_MAX = {"ARCHITECTURE.md": 250}
ADR_LINES_MAX = 60
# Documents of today: the paths that they name must be there. Decisions speak of their own day.
LIVING_DOCUMENTS = {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"}
NAMED_PATH = re.compile(
    r"`((?:protocol|ledger|federation|federation-tests|inference|node|cli|scripts|docs|sdk)"
    r"/[\w./-]+)`"
)

CODE_SUFFIXES = {".rs", ".py", ".sh"}
TEXT_SUFFIXES = CODE_SUFFIXES | {".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".html", ""}
# Recorded outputs, vendored licences and locks are data: nobody writes or proofreads their lines.
DATA_PARTS = {"testdata", "fixtures", "corpus"}
DATA_NAMES = {"Cargo.lock", "LICENSE-MIT", "LICENSE-APACHE"}

# Crates that a package's manifest and sources must never name, with the reason.
FORBIDDEN_CRATES = {
    "protocol": (
        {"tokio", "libp2p", "redb", "axum", "hyper", "reqwest", "burn", "rand"},
        "protocol is pure: no I/O, no clock, no async",
    ),
    "ledger": (
        {"tokio", "libp2p", "axum", "burn"},
        "the ledger is synchronous and knows no network",
    ),
    "federation": (
        {"tokio", "libp2p", "redb", "axum", "hyper", "reqwest", "burn", "rand"},
        "machines are told what arrives and what time it is",
    ),
    "inference": (
        {"tokio", "aither_protocol", "libp2p", "axum", "hyper", "reqwest", "redb"},
        "inference knows no network, no peers and no money",
    ),
    "cli": (
        {"burn", "burn_flex", "libp2p", "redb", "axum", "aither_inference", "aither_node"},
        "the CLI is a thin client of the HTTP API",
    ),
}

# Standard library paths that a crate's sources must not use.
FORBIDDEN_STD = {
    "protocol": (
        r"\bstd::(?:fs|net|process|env|thread)\b|\bSystemTime\b|\bInstant\b",
        "protocol does no I/O and reads no clock; take the value as an argument",
    ),
    "ledger": (r"\bSystemTime\b|\bstd::net\b", "time comes in as an argument"),
    "federation": (
        r"\bstd::(?:fs|net|process|env|thread)\b|\bSystemTime\b|\bInstant\b",
        "federation does no I/O and reads no clock; take the value as an argument",
    ),
    "inference": (
        r"\bstd::net\b|\bSystemTime\b",
        "inference does no network I/O and measures with Instant only",
    ),
}

# Templates of Llama 3 print today's date, which they ask their environment for.
CLOCK_READERS = {"inference/src/chat_template/environment.rs"}

# Libraries that only one folder of `node/src` may see.
NODE_HOMES = {
    "libp2p": (("node/src/network.rs", "node/src/network/"), "only node/src/network sees libp2p"),
    "axum": (
        ("node/src/api.rs", "node/src/api/", "node/src/server.rs"),
        "only node/src/api (and server.rs, which serves its router) sees axum",
    ),
}

# Imports that would turn a layer of `node` upside down: (folder, pattern, reason).
NODE_LAYERS = (
    ("services", r"\b(?:axum|libp2p|hyper)\b", "services import neither HTTP nor libp2p types"),
    ("services", r"\bcrate::api\b", "services do not know the API above them"),
    ("network", r"\bcrate::(?:api|services)\b", "the network knows no service and no route"),
)

# Mapping the model file, kernels, and the few words with the operating system that need it.
UNSAFE_HOMES = (
    re.compile(r"^inference/src/(?:ops|kernels|quant)(?:\.rs|/)"),
    re.compile(r"^inference/src/(?:.*/)?(?:mmap|mapping|kernel|avx2|simd)[a-z0-9_]*\.rs$"),
    re.compile(r"^inference/src/gguf\.rs$|^inference/src/gguf/file\.rs$"),
)
# How far above an `unsafe` its reason may stand: attributes and a long comment lie between.
SAFETY_LINES_ABOVE = 12

EXEMPTION = re.compile(r"^ *// tidy: (?:flat match|table)$", re.MULTILINE)

# Put together from pieces, so that this file does not hold what it looks for.
HOSTS = "|".join(
    r"\.".join(parts)
    for parts in (
        ("crates", "io"),
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("registry", "npmjs"),
        ("deb", "debian", "org"),
    )
)
PROSE_BANS = (
    (
        re.compile(r"(?<![\w.~}])/(?:work|farm|root)/"),
        "a path of one machine; write a relative one",
    ),
    (re.compile(r"(?<![\w.~}])/home/[a-z]\w*/"), "a path of one machine; write ~ or $HOME"),
    (
        re.compile(r"\b(?:issue|ticket|pull request) ?#?\d+\b|\(#\d+\)", re.IGNORECASE),
        "a tracker number; say what it was about",
    ),
    (re.compile(HOSTS), "a registry's host name; name the package or the tool"),
    (re.compile(r"^(?:<{7}|>{7}|={7})(?: |$)"), "a merge conflict marker"),
)

CODE_BANS = (
    (re.compile(r"\b(?:todo|unimplemented)!"), "finish it, or return an error that says so"),
    (re.compile(r"\bdbg!"), "use tracing"),
    (re.compile(r"#\[\s*ignore\b"), "a test that never runs proves nothing; mend or remove it"),
    (re.compile(r"#\[\s*should_panic\b"), "assert the error value instead"),
    (
        re.compile(r"\b(?:token|Token)\b(?!!)"),
        "'token' alone says too little; see the glossary (token_id, ApiKey, shutdown, Amount, …)",
    ),
)

# Comments, strings and characters of Rust; what is matched is blanked before code is searched.
RUST_NON_CODE = re.compile(
    r"""//[^\n]*
      | /\*.*?\*/
      | (?<![A-Za-z0-9_])[bc]?r(?P<hashes>\#*)".*?"(?P=hashes)
      | "(?:\\.|[^"\\])*"
      | '(?:\\(?:x[0-9a-fA-F]{2}|u\{[0-9a-fA-F_]+\}|.)|[^'\\\n])'
    """,
    re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True, order=True)
class Finding:
    """One broken rule at one place."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def blank_non_code(source: str) -> str:
    """Replaces comments and literals by spaces; every line and column stays where it was."""
    return RUST_NON_CODE.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), source)


def line_of(text: str, offset: int) -> int:
    """Returns the one-based line of an offset."""
    return text.count("\n", 0, offset) + 1


def functions(code: str) -> Iterator[tuple[str, int, int]]:
    """Yields name, first line and last line of every function with a body."""
    for match in re.finditer(r"\bfn\s+(\w+)", code):
        depth = 0
        body = None
        for index in range(match.end(), len(code)):
            char = code[index]
            if char in "([":
                depth += 1
            elif char in ")]":
                depth -= 1
            elif depth == 0 and char in "{;":
                body = index if char == "{" else None
                break
        if body is None:
            continue
        braces = 0
        for index in range(body, len(code)):
            braces += {"{": 1, "}": -1}.get(code[index], 0)
            if braces == 0:
                yield match.group(1), line_of(code, match.start()), line_of(code, index)
                break


def check_sizes(path: str, lines: list[str]) -> Iterator[Finding]:
    """File and line budgets of anything that is code, and of the documents that have one."""
    name = path.rsplit("/", 1)[-1]
    budget = FILE_LINES_MAX if Path(path).suffix in CODE_SUFFIXES else None
    if re.fullmatch(r"[a-z-]+/src/(?:lib|main)\.rs", path):
        budget = ROOT_FILE_LINES_MAX
    if re.match(r"docs/adr/\d", path):
        budget = ADR_LINES_MAX
    budget = PROSE_LINES_MAX.get(name, budget)
    if budget is not None and len(lines) > budget:
        yield Finding(path, len(lines), f"{len(lines)} lines, the budget is {budget}; split it")
    if Path(path).suffix not in CODE_SUFFIXES:
        return
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS_MAX and "://" not in line:
            columns = len(line)
            yield Finding(path, number, f"{columns} columns, at most {COLUMNS_MAX}; wrap it")
        if line != line.rstrip():
            yield Finding(path, number, "trailing space; remove it")


def check_prose(path: str, lines: list[str]) -> Iterator[Finding]:
    """What no text of the repository may say."""
    for number, line in enumerate(lines, 1):
        for pattern, reason in PROSE_BANS:
            if pattern.search(line):
                yield Finding(path, number, f"{pattern.search(line).group().strip()!r} is {reason}")


def check_rust_shape(path: str, source: str, code: str) -> Iterator[Finding]:
    """Head comment, module file style, function budget and banned words."""
    lines = source.splitlines()
    if path.endswith("/mod.rs"):
        yield Finding(path, 1, "a mod.rs; use the sibling style, foo.rs beside foo/")
    if not lines or not lines[0].startswith("//!"):
        yield Finding(path, 1, "no `//!` head; say what the file owns, its limits, and why so")
    for name, first, last in functions(code):
        length = last - first + 1
        above = "\n".join(lines[max(0, first - 4) : first])
        if length > FUNCTION_LINES_MAX and not EXEMPTION.search(above):
            message = f"fn {name} has {length} lines, at most {FUNCTION_LINES_MAX}; split it"
            yield Finding(path, first, message)
    for pattern, remedy in CODE_BANS:
        for match in pattern.finditer(code):
            yield Finding(path, line_of(code, match.start()), f"`{match.group()}`: {remedy}")


def check_unsafe(path: str, source: str, code: str) -> Iterator[Finding]:
    """`unsafe` stands only in its few homes, each time with its reason above it."""
    lines = source.splitlines()
    at_home = any(home.search(path) for home in UNSAFE_HOMES)
    for match in re.finditer(r"\bunsafe\b(?!\s*\()", code):
        number = line_of(code, match.start())
        if not at_home:
            yield Finding(path, number, "unsafe outside kernels and file mapping; find a safe way")
            continue
        if re.match(r"unsafe\s+extern|unsafe\s+fn\s*\(", code[match.start() :]):
            continue
        places = [number]
        if code[match.start() :].startswith("unsafe fn"):
            # What a trait demands, or an implementation answers for, is said once for all of it.
            places.append(block_start(lines, number))
        above = "\n".join(
            line
            for place in places
            for line in lines[max(0, place - 1 - SAFETY_LINES_ABOVE) : place]
        )
        if "SAFETY:" not in above and "# Safety" not in above:
            yield Finding(path, number, "unsafe without a `SAFETY:` comment; say why it is sound")


def block_start(lines: list[str], number: int) -> int:
    """The line that opens the block around a line, both counted from 1."""
    indentation = len(lines[number - 1]) - len(lines[number - 1].lstrip())
    for above in range(number - 1, 0, -1):
        line = lines[above - 1]
        if line.strip() and len(line) - len(line.lstrip()) < indentation:
            return above
    return number


def check_layering(path: str, code: str) -> Iterator[Finding]:
    """Which library a file may name, by the crate and folder it lies in."""
    crate, _, rest = path.partition("/")
    if not rest.startswith("src/"):
        return
    for name, reason in forbidden_in(crate):
        for match in re.finditer(rf"\b{name}\b", code):
            yield Finding(path, line_of(code, match.start()), f"sees {name}, but {reason}")
    if crate in FORBIDDEN_STD and path not in CLOCK_READERS:
        pattern, reason = FORBIDDEN_STD[crate]
        for match in re.finditer(pattern, code):
            yield Finding(path, line_of(code, match.start()), f"uses {match.group()}, but {reason}")
    if crate != "node":
        return
    for name, (homes, reason) in NODE_HOMES.items():
        match = re.search(rf"\b{name}::", code)
        if match and not path.startswith(homes):
            yield Finding(path, line_of(code, match.start()), f"sees {name}, but {reason}")
    for folder, pattern, reason in NODE_LAYERS:
        if not path.startswith((f"node/src/{folder}.rs", f"node/src/{folder}/")):
            continue
        for match in re.finditer(pattern, code):
            yield Finding(path, line_of(code, match.start()), f"sees {match.group()}, but {reason}")


def forbidden_in(crate: str) -> Iterator[tuple[str, str]]:
    """Yields each library that a crate must not see, with the reason."""
    names, reason = FORBIDDEN_CRATES.get(crate, (set(), ""))
    for name in sorted(names):
        yield name, reason


def check_manifest(path: str, source: str) -> Iterator[Finding]:
    """A member inherits lints and versions, and its dependencies keep to its layer."""
    manifest = tomllib.loads(source)
    if "package" not in manifest:
        return
    crate = path.partition("/")[0]
    if manifest.get("lints", {}).get("workspace") is not True:
        yield Finding(path, 1, "does not inherit the lints; add [lints] workspace = true")
    forbidden = dict(forbidden_in(crate))
    for kind in ("dependencies", "dev-dependencies", "build-dependencies"):
        for name, value in manifest.get(kind, {}).items():
            number = manifest_line(source, name)
            if not (isinstance(value, dict) and value.get("workspace") is True):
                message = f"{name} has its own version; pin it in [workspace.dependencies]"
                yield Finding(path, number, message)
            if kind == "dependencies" and name.replace("-", "_") in forbidden:
                reason = forbidden[name.replace("-", "_")]
                yield Finding(path, number, f"depends on {name}, but {reason}")


def manifest_line(source: str, name: str) -> int:
    """Returns the line on which a manifest names a dependency, else the first."""
    match = re.search(rf"^{re.escape(name)}\b", source, re.MULTILINE)
    return line_of(source, match.start()) if match else 1


def check_file(path: str, source: str) -> Iterator[Finding]:
    """All rules for one file, chosen by its path."""
    if DATA_PARTS.intersection(Path(path).parts) or Path(path).name in DATA_NAMES:
        return
    lines = source.splitlines()
    yield from check_sizes(path, lines)
    yield from check_prose(path, lines)
    if source and not source.endswith("\n"):
        yield Finding(path, len(lines), "no newline at the end of the file; add one")
    if path.endswith(".rs"):
        code = blank_non_code(source)
        yield from check_rust_shape(path, source, code)
        yield from check_unsafe(path, source, code)
        yield from check_layering(path, code)
    # A fuzz crate is a workspace of its own: it has nothing to inherit.
    if Path(path).name == "Cargo.toml" and "fuzz" not in Path(path).parts:
        yield from check_manifest(path, source)


def check_named_paths(root: Path, path: str, source: str) -> Iterator[Finding]:
    """A document of today names no file that is gone."""
    for match in NAMED_PATH.finditer(source):
        if path in LIVING_DOCUMENTS and not (root / match.group(1)).exists():
            message = f"names {match.group(1)}, which is not there; correct the text"
            yield Finding(path, line_of(source, match.start()), message)


def repository_files(root: Path) -> list[str]:
    """Lists what git tracks or would track, so that build outputs are never read."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=root, check=True, capture_output=True)
    names = listing.stdout.decode("utf-8", "surrogateescape").split("\0")
    return sorted(name for name in set(names) if name and (root / name).is_file())


def check_tree(root: Path) -> list[Finding]:
    """Checks every text file of the repository."""
    found: list[Finding] = []
    for name in repository_files(root):
        if Path(name).suffix not in TEXT_SUFFIXES:
            continue
        try:
            source = (root / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            if Path(name).suffix in CODE_SUFFIXES:
                found.append(Finding(name, 1, "not UTF-8; save it as UTF-8"))
            continue
        found.extend(check_file(name, source))
        found.extend(check_named_paths(root, name, source))
    return sorted(set(found))


def main() -> int:
    """Prints the findings of one tree; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    root = parser.parse_args().root
    try:
        found = check_tree(root)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"check-tidy: cannot list the files of {root}: {error}", file=sys.stderr)
        return 2
    for finding in found:
        print(finding)
    if found:
        print(f"check-tidy: {len(found)} findings", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
