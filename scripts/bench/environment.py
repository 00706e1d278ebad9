"""Sets up the other side: a virtual environment with llama.cpp built for this machine.

llama.cpp comes as the source package of llama-cpp-python and is compiled here: its ready-made
packages know AVX2 at most, which would flatter whoever is measured beside them.

`GGML_NATIVE=ON`, llama.cpp's own default, takes all that this processor has, AMX included: ggml
asks the kernel for its tiles and does without them where it must. One header stands in for a fault
of GCC that made such builds die of an illegal instruction (`amx_tile_config.h`). AMX multiplies
several times as fast, and most processors have neither it nor AVX-512, so the figures with less are
different things to know: `--instructions` bounds both engines, and the report says what was built
in.
"""

import os
import pathlib
import shlex
import subprocess
import sys
import tarfile
import venv

from models import Failure, run, say

LLAMA_VERSION = "0.3.36"
GGUF_VERSION = "0.19.0"

# What ggml calls it, and the kernel's names for all that the compiler may then use.
AVX2 = {
    "GGML_SSE42": ("sse4_2",),
    "GGML_AVX": ("avx",),
    "GGML_AVX2": ("avx2",),
    "GGML_BMI2": ("bmi2",),
    "GGML_FMA": ("fma",),
    "GGML_F16C": ("f16c",),
}
AVX512 = {
    "GGML_AVX_VNNI": ("avx_vnni",),
    "GGML_AVX512": ("avx512f", "avx512bw", "avx512vl", "avx512cd", "avx512dq"),
    "GGML_AVX512_VBMI": ("avx512vbmi",),
    "GGML_AVX512_VNNI": ("avx512_vnni",),
    "GGML_AVX512_BF16": ("avx512_bf16",),
}

# What either engine may use, from all to little.
INSTRUCTIONS = {"native": None, "avx512": {**AVX2, **AVX512}, "avx2": AVX2}

HERE = pathlib.Path(__file__).resolve().parent


def processor_flags() -> set:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def build_flags(flags: set, instructions: str, more: str) -> str:
    """Returns CMake's arguments for a processor with these flags."""
    chosen = ["-DLLAVA_BUILD=OFF"]
    allowed = INSTRUCTIONS[instructions]
    if allowed is not None:
        chosen.append("-DGGML_NATIVE=OFF")
        for name, needed in {**AVX2, **AVX512}.items():
            usable = name in allowed and flags.issuperset(needed)
            chosen.append(f"-D{name}={'ON' if usable else 'OFF'}")
    else:
        chosen.append("-DGGML_NATIVE=ON")
        if "amx_tile" in flags:
            header = shlex.quote(str(HERE / "amx_tile_config.h"))
            chosen.append(f"-DCMAKE_CXX_FLAGS='-include {header}'")
    return " ".join([*chosen, more]).strip()


def set_up(folder: pathlib.Path, instructions: str, more: str) -> pathlib.Path:
    """Returns an interpreter that has llama.cpp, built with the flags that were asked for."""
    flags = build_flags(processor_flags(), instructions, more)
    wanted = f"{LLAMA_VERSION} {GGUF_VERSION} {flags}\n"
    home = folder / f"llama-{instructions}"
    python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp = home / "built-with"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    sources = folder / "sources"
    venv.create(home, clear=True, with_pip=True)
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    package = f"llama-cpp-python=={LLAMA_VERSION}"
    if not list(sources.glob(f"*{LLAMA_VERSION}*.tar.gz")):
        say(f"fetching the source of {package}")
        download = ["download", "--no-deps", "--no-binary", "llama-cpp-python", package]
        run([*pip, *download, "--dest", sources], f"fetching {package}")
    archive = max(sources.glob(f"*{LLAMA_VERSION}*.tar.gz"))
    say(f"building llama.cpp with {flags}\n(some ten minutes of processor time, once)")
    # Without a cache: it would hand out what was built with other flags.
    command = ["env", f"CMAKE_ARGS={flags}", *pip, "install", "--no-cache-dir"]
    run([*command, archive, f"gguf=={GGUF_VERSION}"], "building llama.cpp")
    stamp.write_text(wanted)
    return python


def set_up_server(folder: pathlib.Path, instructions: str, python: pathlib.Path) -> pathlib.Path:
    """Returns llama.cpp's own server, built from the source that the interpreter's package has."""
    flags = build_flags(processor_flags(), instructions, "")
    home = folder / f"llama-server-{instructions}"
    binary, stamp = home / "bin/llama-server", home / "built-with"
    wanted = f"{LLAMA_VERSION} {flags}\n"
    if binary.exists() and stamp.exists() and stamp.read_text() == wanted:
        return binary
    archive = max((folder / "sources").glob(f"*{LLAMA_VERSION}*.tar.gz"))
    with tarfile.open(archive) as source:
        source.extractall(folder / "sources", filter="data")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    run([*pip, "cmake", "ninja"], "installing cmake")
    tools = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    source = folder / "sources" / archive.name.removesuffix(".tar.gz") / "vendor/llama.cpp"
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_OPENSSL=OFF"]
    options += [f"-DLLAMA_BUILD_{part}=OFF" for part in ("TESTS", "EXAMPLES", "UI")]
    options += ["-DLLAMA_USE_PREBUILT_UI=OFF", *shlex.split(flags)]
    say("building llama-server (some twenty minutes of processor time, once)")
    cmake = python.parent / "cmake"
    run([cmake, "-G", "Ninja", "-S", source, "-B", home, *options], "configuring", env=tools)
    run([cmake, "--build", home, "--target", "llama-server"], "building llama-server", env=tools)
    stamp.write_text(wanted)
    return binary


def worker_info(python: pathlib.Path, worker: pathlib.Path) -> str:
    """Asks llama.cpp what it is, which also shows whether it runs here at all."""
    done = subprocess.run([python, worker, "info"], capture_output=True, text=True)
    if done.returncode != 0:
        why = done.stderr.strip() or f"status {done.returncode}"
        raise Failure(f"{python} cannot run llama.cpp: {why}")
    return done.stdout
