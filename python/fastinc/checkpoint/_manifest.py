"""Manifests: small JSON files that tell what a checkpoint is and carry their own SHA-256."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fastinc import _core
from fastinc.checkpoint import _disk

__all__ = ["NAME", "as_json", "as_text", "peek", "read", "write"]

NAME = "manifest.json"


def as_json(position: Any) -> Any:
    """Return what JSON makes of `position`; refuse what would not come back as it is."""

    def lists(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [lists(item) for item in value]
        return {key: lists(item) for key, item in value.items()} if isinstance(value, dict) else value

    try:
        back = json.loads(json.dumps(position, allow_nan=False))
        same = back == lists(position)
    except (TypeError, ValueError, RecursionError) as error:
        try:
            shown = repr(position)
        except (ValueError, RecursionError):  # too long, or too deep
            shown = f"<{type(position).__name__}>"
        raise TypeError(f"position = {shown} is not JSON: {error}") from None
    if not same:
        raise TypeError(f"position = {position!r} would come back as {back!r}: JSON's keys are strings")
    return back


def _digest(manifest: dict[str, Any]) -> str:
    text = json.dumps({key: manifest[key] for key in manifest if key != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def as_text(manifest: dict[str, Any]) -> bytes:
    """Return the one text that a manifest is written as, for as long as its format has this version."""
    return json.dumps(manifest, indent=1, allow_nan=False).encode()


def write(folder: Path, format: str, version: int, manifest: dict[str, Any]) -> None:
    """Put a manifest into its place in a folder: what it names is there by now."""
    manifest = {"format": format, "format_version": version, "fastinc": _core.__version__, **manifest}
    manifest["sha256"] = _digest(manifest)
    with _disk.staged(folder, "manifest") as path:
        _disk.write_file(path, lambda file: file.write(as_text(manifest)))
        _disk.sync_folder(folder)  # the names of what it tells of
        _disk.publish(path, folder / NAME)


def read(folder: Path, format: str, version: int, hints: dict[str, str] | None = None) -> dict[str, Any]:
    """Return the manifest in a folder; raise ValueError where it is damaged or of another format or version.

    `hints` tells for other formats what reads them.
    """
    file = folder / NAME
    try:
        text = _text(file)
        manifest = json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        why = f"{file} doesn't exist" if folder.is_dir() or not folder.exists() else "it is a file, not a folder"
        raise FileNotFoundError(f"{folder} holds no checkpoint: {why}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != format:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        hint = (hints or {}).get(found, "") if isinstance(found, str) else ""
        raise ValueError(f"{file} is not a {format} manifest{hint}")
    theirs = manifest.get("format_version")
    if theirs != version or isinstance(theirs, bool):
        raise ValueError(f"{file} has format_version {theirs!r}; this fastinc ({_core.__version__}) reads {version}")
    if manifest.get("sha256") == _digest(manifest) and text != as_text(manifest):
        raise ValueError(f"{file} says what it did in other bytes than it was written in: it is damaged")
    if manifest.get("sha256") != _digest(manifest):
        raise ValueError(f"{file} doesn't match its own SHA-256: it is damaged")
    return manifest


def _text(file: Path) -> bytes:
    """Return what is in a regular file; a pipe of that name would be waited for for ever."""
    with _disk.Reader(file, follow_links=True) as reader:
        return reader(0, reader.size)


def peek(folder: Path) -> dict[str, Any] | None:
    """Return the manifest in a folder, whatever it is, or None where there is none that can be read."""
    try:
        manifest = json.loads(_text(folder / NAME))
    except (OSError, ValueError, RecursionError):
        return None
    return manifest if isinstance(manifest, dict) else None
