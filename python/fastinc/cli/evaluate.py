"""``fastinc evaluate``: prequential evaluation against the baselines."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from fastinc.cli._console import progress, show_report
from fastinc.cli._options import (
    add_events,
    add_model,
    add_seed,
    make_model,
    open_events,
    writable,
    write_json,
)
from fastinc.cli.suite import run_quality
from fastinc.evaluate.plots import need_matplotlib

if TYPE_CHECKING:
    from fastinc.datasets import Events


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("evaluate", help="rank and learn a file of events, and compare with the baselines")
    add_events(parser, required=False)
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--metrics",
        nargs="+",
        default=["recall@10", "ndcg@10", "mrr"],
        metavar="METRIC",
        help="recall@K, hit_rate@K, precision@K, f1@K, ndcg@K, mrr@K, map@K, mrr; coverage@K, novelty@K; with --loss "
        "logistic or mse auc, log_loss, rmse (default: recall@10 ndcg@10 mrr)",
    )
    group.add_argument("--window", type=int, default=5000, metavar="N", help="events in a window (default: 5000)")
    group.add_argument(
        "--ties",
        choices=("file", "shuffle"),
        default="file",
        help="events with equal timestamps: in the order of the file, or shuffled (default: file)",
    )
    group.add_argument(
        "--delay",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="how long after an event it is learned (default: 0)",
    )
    group.add_argument("--no-baselines", action="store_true", help="evaluate the model alone")
    group.add_argument("--json", metavar="OUT", help="write the report as JSON")
    group.add_argument("--plot", metavar="OUT.png", help="draw the first metric over the stream")
    add_model(parser)
    add_seed(parser)
    suite = parser.add_argument_group("suite", "the presets beside the baselines, as in docs/quality.md")
    suite.add_argument("--suite", choices=("quality",), help="run this instead; MovieLens-100k, and --events if given")
    suite.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="runs that a figure is the mean of (default: 3)"
    )
    suite.add_argument("--no-variants", action="store_true", help="leave out the models with a part changed")
    suite.add_argument("--markdown", metavar="OUT.md", help="write the tables there (default: print them)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Evaluate, print the table, and write what was asked for."""
    import fastinc as fi

    if args.suite:
        _run_suite(args)
        return
    if args.events is None:
        raise ValueError("--events is needed: which events to evaluate on")
    report_file, plot_file = writable(args.json, "--json", replaced=True), writable(args.plot, "--plot")
    if plot_file:
        need_matplotlib(plot_file)
    model = make_model(args)
    events = open_events(args.events, args.columns, args.min_label, args.errors)
    with progress() as advance:
        report = fi.evaluate.prequential(
            model,
            events,
            metrics=tuple(args.metrics),
            window=args.window,
            baselines=not args.no_baselines,
            ties=args.ties,
            seed=args.seed,
            delay=args.delay,
            progress=advance,
        )
    show_report(report)
    if events.skipped:
        print(f"{events.skipped} rows of {args.events} could not be parsed and were skipped")
    if report_file:
        write_json(report_file, report.to_dict())
        print(f"report: {report_file}")
    if plot_file:
        report.plot(plot_file)
        print(f"plot: {plot_file}")


def _run_suite(args: argparse.Namespace) -> None:
    if args.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {args.seeds}")
    out = writable(args.markdown, "--markdown")
    streams = [_named(open_events("ml-100k"), "MovieLens-100k, all ratings")]
    streams.append(_named(open_events("ml-100k", min_label=4.0), "MovieLens-100k, ratings of 4 or 5"))
    if args.events is not None:
        events = open_events(args.events, args.columns, args.min_label, args.errors)
        streams.append(_named(events, f"{events.name}, all events" if args.min_label is None else events.name))
    run_quality(streams, args.seeds, not args.no_variants, out)


def _named(events: Events, name: str) -> Events:
    """Return the events as ones that all happened, under another name."""
    return dataclasses.replace(events, labels=None, name=name)
