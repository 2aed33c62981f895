"""The examples in every docstring run as printed."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import fastinc as fi


def module_names():
    found = pkgutil.walk_packages(fi.__path__, prefix="fastinc.")
    return ["fastinc", *sorted(m.name for m in found if not m.name.endswith(("._core", ".__main__")))]


@pytest.mark.parametrize("name", module_names())
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # whatever an example writes goes there
    results = doctest.testmod(importlib.import_module(name), verbose=False)
    assert results.failed == 0, f"{results.failed} of {results.attempted} examples failed; they are printed above"


def test_there_are_examples():
    """Guards against a discovery that finds nothing."""
    attempted = [doctest.testmod(importlib.import_module(f"fastinc.{name}")).attempted for name in ("ops", "table")]
    assert min(attempted) > 10


def public_functions():
    for name in fi.__all__:
        thing = getattr(fi, name)
        yield name, thing
        members = thing.__all__ if hasattr(thing, "__all__") else ()
        yield from ((f"{name}.{member}", getattr(thing, member)) for member in members)


@pytest.mark.parametrize(
    ("name", "thing"),
    [(n, t) for n, t in public_functions() if callable(t)],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_public_things_are_documented(name, thing):
    assert thing.__doc__, f"{name} has no docstring"
