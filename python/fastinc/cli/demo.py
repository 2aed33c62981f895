"""``fastinc demo``: real events, learned and answered one after the other."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastinc._extras import require
from fastinc.cli._console import console, progress, show_report
from fastinc.cli._fresh import Answer, Visit, watch
from fastinc.cli._options import add_seed, open_events, writable, write_json
from fastinc.evaluate.plots import need_matplotlib

if TYPE_CHECKING:
    from fastinc.datasets import Events

_METRICS = ("recall@10", "ndcg@10")
_WINDOW = 5000


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("demo", help="stream MovieLens-100k, and see what was learned")
    parser.add_argument(
        "--events",
        default="ml-100k",
        metavar="NAME_OR_PATH",
        help="'ml-100k' (the default), 'synthetic', a MovieLens directory or a file of events with times",
    )
    parser.add_argument("--out", default="demo-output", metavar="DIR", help="where to write (default: demo-output)")
    add_seed(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Evaluate by time, show three users' lists before and after ten fresh events, write plot and report."""
    import fastinc as fi

    require("rich", extra="demo", purpose="the demo")
    need_matplotlib()
    events = open_events(args.events)
    if events.timestamps is None:
        raise ValueError(f"--events {args.events}: the demo needs timestamps")
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    writable(str(folder / "report.json"), "--out", replaced=True)
    writable(str(folder / "recall.png"), "--out")
    out = console()
    out.print(f"{len(events):,} events of {events.name}, from {events.source}", markup=False, highlight=False)
    with progress() as advance:
        report = fi.evaluate.prequential(
            fi.Recommender(seed=args.seed),
            events,
            metrics=_METRICS,
            window=_WINDOW,
            seed=args.seed,
            progress=advance,
        )
        visits = watch(fi.Recommender(seed=args.seed), events, seed=args.seed, progress=advance)
    show_report(report)
    _show_visits(visits, events, out)

    report.plot(folder / "recall.png", _METRICS[0])
    document = {
        "events": {"name": events.name, "source": events.source, "count": len(events)},
        "seed": args.seed,
        "fastinc": fi.info(),
        "evaluation": report.to_dict(),
        "fresh_events": [visit.to_dict(events.item_titles) for visit in visits],
    }
    write_json(folder / "report.json", document)
    out.print(f"\nplot:   {folder / 'recall.png'}\nreport: {folder / 'report.json'}", markup=False, highlight=False)


def _show_visits(visits: list[Visit], events: Events, out: Any) -> None:
    if not visits:
        out.print("\nNo user has events enough to show lists before and after ten fresh events.")
        return
    out.print(
        "\nBefore and after ten fresh events. One model learns the stream and is stopped in the middle of\n"
        "three users' histories: it is asked for a list, learns the user's next ten events and nothing\n"
        "else, and is asked again. Whatever the user had by then is left out of a list.\n"
        "  + not in the list before      * the user did take it afterwards",
        markup=False,
        highlight=False,
    )
    tables = require("rich.table", extra="demo", purpose="the demo")
    boxes = require("rich.box", extra="demo", purpose="the demo")
    for visit in visits:
        table = tables.Table(
            title=f"user {visit.user}, after {visit.learned:,} events, {visit.history} of them the user's",
            title_justify="left",
            box=None if out.is_terminal else boxes.ASCII,
        )
        table.add_column("", min_width=2)
        for heading in ("top 10 before", "ten fresh events", "top 10 after"):
            table.add_column(heading, no_wrap=True, overflow="ellipsis", max_width=34, justify="left")
        text = require("rich.text", extra="demo", purpose="the demo").Text  # a title may have brackets in it
        before, after = (_marked(answer, events) for answer in (visit.before, visit.after))
        fresh = [title(item, events) for item in visit.fresh]
        for rank in range(max(len(before), len(fresh), len(after))):
            row = (column[rank] if rank < len(column) else "" for column in (before, fresh, after))
            table.add_row(str(rank + 1), *map(text, row))
        out.print(table)


def title(item: Any, events: Events) -> str:
    """Return the title of an item, or its id where it has none."""
    return (events.item_titles or {}).get(item, f"item {item}")


def _marked(answer: Answer, events: Events) -> list[str]:
    marks = zip(answer.items, answer.new, answer.taken, strict=True)
    return [f"{'+' if new else ' '}{'*' if taken else ' '} {title(item, events)}" for item, new, taken in marks]
