"""What a checkpoint's folder holds: a manifest, and the file of arrays that it names."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Any

from fastinc.checkpoint import _arrays, _disk, _manifest
from fastinc.checkpoint._arrays import Arrays
from fastinc.checkpoint._change import Change
from fastinc.checkpoint._compression import unshrink

__all__ = ["FORMAT", "MALFORMED", "VERSION", "load_parts", "malformed", "size_of", "write_parts"]

#: What reading something that isn't what it says it is may raise beside ValueError.
MALFORMED = (LookupError, TypeError, RuntimeError, AttributeError, ArithmeticError)
FORMAT = "fastinc-checkpoint"
VERSION = 1
_ARRAYS_NAME = re.compile(r"arrays-[0-9a-f]{16}\.safetensors(\.zst)?")
_SUFFIXES = {None: ".safetensors", "zstd": ".safetensors.zst"}
_HINTS = {"fastinc-sharded-checkpoint": "; it is of a sharded table: see fastinc.distributed.load"}


def write_parts(
    folder: Path, kind: str, change: Change, told: dict[str, Any], compression: str | None = None
) -> dict[str, Any]:
    """Put what was exported into a folder, in the place of what is there; return the manifest, `told` in it."""
    previous = _named_arrays(folder)
    name = f"arrays-{secrets.token_hex(8)}{_SUFFIXES[compression]}"
    try:
        with _disk.staged(folder, "arrays") as path:
            entry = {"file": name, **_write_arrays(path, change.arrays, compression)}
            _disk.rename(path, folder / name)
        manifest = {"kind": kind, "parameters": change.parameters, "arrays": entry, **told}
        _manifest.write(folder, FORMAT, VERSION, manifest)
    except BaseException:
        if _named_arrays(folder) != folder / name:
            _disk.sweep([folder / name], 0.0)
        raise
    if previous is not None:
        _disk.sweep([previous], 0.0)
    named = _named_arrays(folder)
    unnamed = [path for path in folder.glob("arrays-*") if _ARRAYS_NAME.fullmatch(path.name) and path != named]
    _disk.sweep([*folder.glob(_disk.STAGED), *unnamed])
    return manifest


def _write_arrays(path: Path, arrays: Arrays, compression: str | None) -> dict[str, Any]:
    written: list[_arrays.Written] = []
    _disk.write_file(path, lambda file: written.append(_arrays.write(file, arrays, compression)))
    entry: dict[str, Any] = {"bytes": written[0].bytes, "sha256": written[0].sha256}
    if compression is not None:
        entry |= {"compression": compression, "plain_bytes": written[0].plain_bytes}
    return entry


def _named_arrays(folder: Path) -> Path | None:
    """Return the arrays' file of the checkpoint that is there, if one is."""
    try:
        name = (_manifest.peek(folder) or {})["arrays"]["file"]
        return folder / name if _ARRAYS_NAME.fullmatch(name) else None
    except (KeyError, TypeError):
        return None


def _read_arrays(folder: Path, entry: dict[str, Any]) -> Arrays:
    name, size, digest = entry["file"], entry["bytes"], entry["sha256"]
    if not _ARRAYS_NAME.fullmatch(name):
        raise ValueError(f"{folder / _manifest.NAME} names the file {name!r}, which is not inside the checkpoint")
    file = folder / name
    with _disk.Reader(file, follow_links=True) as opened:  # stores of models keep files elsewhere
        if opened.size != size:
            raise ValueError(f"{file} has {opened.size} bytes; the manifest says {size}: it is truncated or damaged")
        data, found = _arrays.read(opened)
    if found != digest:
        raise ValueError(f"{file} doesn't match its SHA-256 in the manifest: it is damaged")
    try:
        return _arrays.parse(unshrink(data, entry.get("compression"), entry.get("plain_bytes")))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def load_parts(folder: Path) -> tuple[dict[str, Any], Arrays]:
    """Return the manifest and the arrays in a folder, verified."""
    before = None
    while True:
        manifest = _manifest.read(folder, FORMAT, VERSION, _HINTS)
        try:
            return manifest, _read_arrays(folder, manifest["arrays"])
        except FileNotFoundError:
            if manifest == before:
                raise
            before = manifest  # a save may have replaced both meanwhile
        except MALFORMED as error:
            raise malformed(folder, error) from error


def malformed(folder: Path, error: Exception) -> ValueError:
    """Return what to raise where a manifest is whole, and doesn't tell what it should."""
    return ValueError(f"{folder / _manifest.NAME} is damaged: {type(error).__name__} {error}")


def size_of(folder: Path) -> int:
    """Return the bytes of the files in a folder."""
    return sum(path.lstat().st_size for path in folder.iterdir())
