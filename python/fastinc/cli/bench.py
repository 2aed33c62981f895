"""``fastinc bench``: the benchmarks, which live beside the package in a clone of the repository."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("bench", help="compare speeds with FBGEMM, torch and NumPy (needs a clone)")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="workloads, or groups of them, such as update/sgd or table (default: all)",
    )
    parser.add_argument("--size", choices=("full", "small", "tiny"), default="full", help="how large (default: full)")
    parser.add_argument("--rounds", type=int, metavar="N", help="measurements of each contestant")
    parser.add_argument("--threads", type=int, metavar="N", help="threads a call may use (default: the CPUs)")
    parser.add_argument("--seed", type=int, metavar="N", help="of all random inputs (default: 0)")
    parser.add_argument("--out", metavar="DIR", help="where results go (default: bench/results for full)")
    parser.add_argument("--readme", action="store_true", help="run nothing: rewrite the README's table from results")
    parser.add_argument("--list", action="store_true", help="list the workloads and stop")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run ``python -m bench`` of the clone that is the current folder."""
    if not _is_clone(Path.cwd()):
        raise ValueError(
            f"bench needs a clone of fastinc as the current folder, and {Path.cwd()} is none: "
            "the benchmarks are not part of the installed package"
        )
    command = [sys.executable, "-m", "bench", *args.names, "--size", args.size]
    for option in ("rounds", "threads", "seed", "out"):
        value = getattr(args, option)
        if value is not None:
            command += [f"--{option}", str(value)]
    command += [f"--{flag}" for flag in ("readme", "list") if getattr(args, flag)]
    status = subprocess.run(command, check=False).returncode
    if status != 0:
        raise SystemExit(status)  # what went wrong has been said


def _is_clone(folder: Path) -> bool:
    project = folder / "pyproject.toml"
    return (
        (folder / "bench" / "__main__.py").is_file()
        and project.is_file()
        and 'name = "fastinc"' in project.read_text(encoding="utf-8").splitlines()
    )
