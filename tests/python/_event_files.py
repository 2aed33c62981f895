"""Files of events in every format, for tests of streams."""

from __future__ import annotations

import json

import pytest

EVENTS = [(n % 7, f"item {n % 5}", float(n % 3), 1000.0 + n) for n in range(60)]


def write(path, events=EVENTS):
    """Write a file in the format its suffix says."""
    kind = path.suffix
    if kind == ".parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        names = ("user", "item", "label", "timestamp")
        columns = zip(*events, strict=True)
        pq.write_table(pa.table(dict(zip(names, map(list, columns), strict=True))), path, row_group_size=13)
    elif kind == ".jsonl":
        lines = [json.dumps({"user": u, "item": i, "label": r, "timestamp": t}) for u, i, r, t in events]
        path.write_text("\n".join(lines) + "\n")
    else:
        separator = {".csv": ",", ".tsv": "\t", ".dat": "::"}[kind]
        header = [] if kind == ".dat" else [separator.join(("user", "item", "label", "timestamp"))]
        lines = [separator.join((str(u), i, f"{r:g}", f"{t:g}")) for u, i, r, t in events]
        path.write_text("\n".join(header + lines) + "\n")
    return path


def lines_of(*texts):
    return "".join(text + "\n" for text in texts)


def json_event(user, item, **more):
    return json.dumps({"user": user, "item": item, **more})


def append(path, data):
    with open(path, "ab") as file:
        file.write(data)
