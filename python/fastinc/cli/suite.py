"""``fastinc evaluate --suite quality``: the tables of docs/quality.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastinc.cli._console import console

if TYPE_CHECKING:
    from fastinc.datasets import Events
    from fastinc.evaluate.suite import Figures, Tell

_MAIN = ("model", "recall@10", "ndcg@10", "first half", "second half", "file order", "ranked and learned/s")


def run_quality(streams: Sequence[Events], seeds: int, with_variants: bool, out: Path | None) -> None:
    """Run everything, and print the tables or write them to a file.

    Parameters
    ----------
    streams
        The streams; speed is measured on the first.
    seeds
        How many runs each figure is the mean of.
    with_variants
        Whether the table of variants is wanted, too: it takes most of the time.
    out
        Where to write Markdown; None: it is printed.
    """
    status = console()

    def tell(what: str) -> None:
        status.print(what, markup=False, highlight=False)

    text = quality_tables(streams, tuple(range(1, seeds + 1)), with_variants, tell)
    if out is None:
        print(text)
        return
    out.write_text(text, encoding="utf-8", errors="backslashreplace")
    print(f"tables: {out}")


def quality_tables(streams: Sequence[Events], seeds: Sequence[int], with_variants: bool, tell: Tell) -> str:
    """Return the tables as Markdown.

    Parameters
    ----------
    streams, with_variants
        As for `run_quality`.
    seeds
        A run for each.
    tell
        Told what is being done.
    """
    from fastinc.evaluate import suite

    parts = []
    for events in streams:
        shuffled = suite.compare_models(suite.contestants(), events, "shuffle", seeds, tell)
        in_order = suite.compare_models(suite.contestants(), events, "file", seeds, tell)
        rows = [_main_row(name, shuffled[name], in_order[name]) for name in shuffled]
        n = next(iter(shuffled.values())).n
        parts.append(f"### {events.name}\n\n{n:,} scored events, mean of {len(seeds)} seeds.\n\n{_table(_MAIN, rows)}")
    cold = {events.name: suite.cold_items(events, seeds, tell) for events in streams}
    parts.append(_cold({name: found for name, found in cold.items() if found}))
    parts.append(_drift(suite.drift_table(seeds, tell=tell)))
    parts.append(_speed({p: suite.measure_speed(streams[0].sorted(), p, tell) for p in ("quality", "fast")}))
    if with_variants:
        found = [suite.compare_models(suite.variants(), events, "shuffle", seeds, tell) for events in streams]
        header = ["model", *(f"{events.name}: {half} half" for events in streams for half in ("first", "second"))]
        rows = [
            [name, *(_share(value) for one in found for value in (one[name].first, one[name].second))]
            for name in found[0]
        ]
        parts.append(f"### Variants\n\nrecall@10, ties shuffled.\n\n{_table(header, rows)}")
    return "\n\n".join(parts) + "\n"


def _main_row(name: str, shuffled: Figures, in_order: Figures) -> list[str]:
    shares = (shuffled.recall, shuffled.ndcg, shuffled.first, shuffled.second, in_order.recall)
    return [name, *(_share(value) for value in shares), f"{shuffled.rate:,.0f}"]


def _cold(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    if not found:
        return "### New items\n\nNo stream has titles."
    first = next(iter(next(iter(found.values())).values()))
    parts = [part for part in first if part != "new"]  # a first event is a miss, whatever is known of the item
    rows = [
        [f"{stream}, {start}", *(_share(value[part]) for part in parts)]
        for stream, of in found.items()
        for start, value in of.items()
    ]
    return "### New items\n\nrecall@10 by the events that the item had had.\n\n" + _table(["model", *parts], rows)


def _drift(found: Mapping[str, list[Any]]) -> str:
    rows = []
    for name, runs in found.items():
        before, after, events = zip(*runs, strict=True)
        back = ", ".join("never" if count is None else f"{count:,}" for count in events)
        rows.append([name, _share(sum(before) / len(before)), _share(sum(after) / len(after)), back])
    header = ("model", "recall@10 before", "just after", "events until 90 % of it is back, by seed")
    return (
        '### An abrupt drift\n\n`fi.datasets.synthetic(100_000, 1000, 2000, drift="abrupt", seed=...)`: every user\'s '
        "taste changes at once. Over 1,000 scored events each; 1,000 is the soonest there can be.\n\n"
        + _table(header, rows)
    )


def _speed(found: Mapping[str, Any]) -> str:
    rows = [[f'"{preset}"', f"{speed.learned:,.0f}", f"{speed.request:.0f} µs"] for preset, speed in found.items()]
    header = ("preset", "events learned/s, one call", "one event learned, then top 10 of 10,000 items")
    return f"### Speed\n\n{_table(header, rows)}"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
