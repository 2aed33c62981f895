"""Feed the loaders of checkpoints and logs what nobody wrote: an error, or a state that was really saved.

By libFuzzer, which looks for inputs that reach new lines (the extra ``fuzz``), for some seconds::

    python tests/fuzz/fuzz_checkpoint.py 300 [libFuzzer's options and corpora]

or, without it, by random mutations: ``mutate(seconds, seed)``, which is what the tests run.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

try:
    import atheris
except ImportError:
    atheris = None
LOOKS = atheris is not None and __name__ == "__main__"

with atheris.instrument_imports(include=["fastinc.checkpoint"]) if LOOKS else contextlib.nullcontext():
    import fastinc as fi
    from fastinc.checkpoint import _directory, _manifest, _records

#: What a loader may raise; and MemoryError, where every checksum is right and what is told is too much for a machine.
REFUSALS = (ValueError, FileNotFoundError)


def _state(table: fi.EmbeddingTable) -> bytes:
    state = table.__getstate__()["state"]
    order = np.argsort(state["ids"])
    parts = [state[name][order].tobytes() for name in ("ids", "row_versions", "weights", "state")]
    return b"|".join([*parts, str(state["version"]).encode()])


class Target:
    """A small log and a small checkpoint, of which one file at a time is replaced by the fuzzer's.

    The first byte of an input says which; the rest is what goes there. Some kinds of input get the right checksums, so
    that what is behind them is reached, too.
    """

    def __init__(self, folder: Path) -> None:
        self.log, self.whole, self.packed = folder / "log", folder / "whole", folder / "packed"
        table = fi.EmbeddingTable(1, fi.Adagrad(), max_rows=8)
        self.known = set()
        with fi.checkpoint.Log(self.log) as log:
            for i in range(4):
                table.update([i, i + 1], np.ones((2, 1), dtype=np.float32))
                log.append(table, i)
                self.known.add((_state(table), i))
        fi.checkpoint.save(table, self.whole, 3)
        fi.checkpoint.save(table, self.packed, 3, compression="zstd")
        segment = _directory.segment_path(self.log, 2)
        with _directory.open_segment(self.log, 2) as file:
            self.record, *_ = _records.records(file, file.size, _records.Tail())
        base = _directory.base_path(self.log, 1)
        self.raw = [segment]
        self.raw += [path for folder in (base, self.whole, self.packed) for path in sorted(folder.iterdir())]
        self.texts = {path: path.read_bytes() for path in self.raw}
        self.manifests = [path for path in self.raw if path.name == _manifest.NAME]
        self.kinds = len(self.raw) + len(self.manifests) + 2

    def seeds(self) -> Iterator[bytes]:
        """Yield inputs that change nothing."""
        for kind, path in enumerate([*self.raw, *self.manifests]):
            yield bytes([kind]) + self.texts[path]
        yield bytes([self.kinds - 2]) + json.dumps(self.record.meta).encode()
        yield bytes([self.kinds - 1]) + self.record.payload

    def feed(self, data: bytes) -> bool:
        """Load with an input in place; return whether it was loaded."""
        if not data:
            return False
        kind, text = data[0] % self.kinds, data[1:]
        forged = kind >= len(self.raw)
        path = [*self.raw, *self.manifests, self.raw[0], self.raw[0]][kind]
        try:
            path.write_bytes(self._forge(kind, path, text) if forged else text)
            return self._load(path, forged)
        finally:
            path.write_bytes(self.texts[path])

    def _forge(self, kind: int, path: Path, text: bytes) -> bytes:
        if kind < len(self.raw) + len(self.manifests):
            with contextlib.suppress(ValueError, RecursionError):
                manifest = json.loads(text)
                if isinstance(manifest, dict):
                    manifest["sha256"] = _manifest._digest(manifest)
                    return _manifest.as_text(manifest)
            return text
        meta, payload = self.record.meta, self.record.payload
        if kind == self.kinds - 1:
            payload = text
        else:
            with contextlib.suppress(ValueError, RecursionError):
                found = json.loads(text)
                meta = found if isinstance(found, dict) else meta
        with contextlib.suppress(ValueError):  # not a number
            pieces, _ = _records.encode(self.record.number, self.record.previous, meta, [payload])
            return b"".join(bytes(piece) for piece in pieces)
        return text

    def _load(self, path: Path, forged: bool) -> bool:
        folder = path.parent if self.log not in path.parents else self.log
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fi.checkpoint.DamageWarning)
            try:
                loaded, position = fi.checkpoint.load(folder)
                fi.checkpoint.Log(self.log).entries()
            except REFUSALS:
                return False
            except MemoryError:
                if not forged:
                    raise
                return False
        if not forged and (_state(loaded), position) not in self.known:
            raise AssertionError(f"{path} was damaged and loaded in silence")
        return True


@contextlib.contextmanager
def target() -> Iterator[Target]:
    """Lend a target in a folder of its own."""
    memory = "/dev/shm"
    folder = tempfile.mkdtemp(prefix="fastinc-fuzz-", dir=memory if os.access(memory, os.W_OK) else None)
    try:
        yield Target(Path(folder))
    finally:
        shutil.rmtree(folder)


def _mutated(seed: bytes, chance: random.Random) -> bytes:
    """Return an input with a few things changed, as damage or malice would."""
    data = bytearray(seed)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        if len(data) < 2:
            return bytes(data)
        at = chance.randrange(1, len(data))
        what = chance.randrange(7)
        if what == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            data[at] = chance.choice((0, 1, 127, 128, 255, *b'0123456789-{}[]",:eE'))
        elif what == 2:
            del data[at : at + chance.choice((1, 2, 8, 64, 1000))]
        elif what == 3:
            data[at:at] = bytes(chance.randrange(256) for _ in range(chance.choice((1, 2, 8))))
        elif what == 4:
            data[at : at + 8] = chance.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)).to_bytes(8, "little")
        elif what == 5:
            begin = chance.randrange(1, len(data))
            data[at:at] = data[begin : begin + chance.choice((4, 32, 256))]
        else:
            words = (b"null", b"-1", b"1e999", b"9" * 20, b"[]", b"{}", b'""', b"true", b"0.5")
            end = at + 1
            while end < len(data) and chr(data[end]).isalnum():
                end += 1
            data[at:end] = chance.choice(words)
    return bytes(data)


def mutate(seconds: float, seed: int) -> dict[str, int]:
    """Feed random mutations for some seconds; return how many were fed, and how many loaded."""
    chance = random.Random(seed)
    counts = {"fed": 0, "loaded": 0}
    with target() as fed:
        seeds = list(fed.seeds())
        assert all(fed.feed(seed) for seed in seeds), "what changes nothing must load"
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            data = _mutated(chance.choice(seeds), chance)
            try:
                counts["loaded"] += fed.feed(data)
            except BaseException:
                print(f"the input, seed {seed}: {data!r}", file=sys.stderr)
                raise
            counts["fed"] += 1
    return counts


def main() -> None:
    """Run libFuzzer, or random mutations where it isn't installed."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    if atheris is None:
        print(mutate(seconds, int(time.time())))
        return
    with target() as fed, tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(fed.seeds()):
            (Path(corpus) / f"seed-{number}").write_bytes(seed)
        options = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=4096", "-max_len=8192", "-len_control=0"]
        atheris.Setup([sys.argv[0], *options, *sys.argv[2:], corpus], lambda data: fed.feed(data) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
