"""``fastinc info``: versions, instruction set, threads, CUDA and why not."""

from __future__ import annotations

import argparse
from typing import Any

from fastinc.cli._options import print_json


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("info", help="show versions, instruction set, threads and CUDA")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print what `fastinc.info` knows."""
    import fastinc as fi

    facts = fi.info()
    if args.json:
        print_json(facts)
        return
    for line in _flat(facts):
        print(line)


def _flat(facts: dict[str, Any], prefix: str = "") -> list[str]:
    lines: list[str] = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            lines.append(f"{prefix + name:<24} {text}")
    return lines
