"""The command line: ``python -m bench [NAME ...]``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import bench.workloads  # noqa: F401  # registers them
import fastinc as fi
from bench import machine, readme, report
from bench.core import ROUNDS, WORKLOADS, CaseResult, Settings, Workload, choose
from bench.gpu import run as gpu

ROOT = Path(__file__).resolve().parents[1]


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Run fastinc and its peers in turns on the same inputs: medians, and ratios of medians.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="workloads, or groups of them: update/sgd, update")
    parser.add_argument("--size", choices=tuple(ROUNDS), default="full", help="how large (default: full)")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help=f"measurements of each contestant ({ROUNDS}, of gpu/* {gpu.ROUNDS})"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads a call may use (default: the CPUs)")
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        help="where gpu/* runs (default: cuda); cpu shows that it runs, at sizes small and tiny, and no speed",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all random inputs (default: 0)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where results go (default: bench/results of the clone for full, else build/bench/SIZE)",
    )
    parser.add_argument(
        "--readme",
        action="store_true",
        help=f"run nothing: rewrite the README's table of goals, between {readme.BEGIN} and {readme.END}, "
        "from the results in --out",
    )
    parser.add_argument("--list", action="store_true", help="list the workloads and stop")
    return parser


def run_workload(workload: Workload, settings: Settings, folder: Path) -> list[CaseResult]:
    """Run one workload, print each case when it is done, and write the files."""
    load = machine.load()
    begin = time.monotonic()
    print(f"\n# {workload.name}: {workload.summary}", flush=True)
    results = []
    for result in workload.run(settings):
        results.append(result)
        print(f"\n{report.table(result)}", flush=True)
    facts = machine.describe(settings, load)
    written = report.write(folder, workload, results, settings, facts)
    print(f"\n{report.footnotes(results)}", flush=True)
    print(f"{time.monotonic() - begin:.0f} s; {', '.join(map(str, written))}", flush=True)
    return results


def write_readme(folder: Path) -> int:
    """Rewrite the README's table; return 2 where that can't be done, whatever the goals."""
    try:
        unmet = readme.rewrite(ROOT / "README.md", folder, list(WORKLOADS.values()))
    except ValueError as error:  # no markers, or a file that isn't JSON
        print(f"bench: error: {error}", file=sys.stderr)
        return 2
    print(f"{ROOT / 'README.md'}: {unmet} goals not met or without a result")
    return 0


def check(options: argparse.Namespace, chosen: Sequence[Workload]) -> None:
    """Raise ValueError for arguments that make no sense, alone or together."""
    if min(1 if number is None else number for number in (options.threads, options.rounds)) < 1 or options.seed < 0:
        raise ValueError("--threads and --rounds must be at least 1, --seed at least 0")
    kinds = {workload.on_gpu for workload in chosen}
    if len(kinds) > 1:
        raise ValueError("gpu/* are run by themselves: name them alone")
    if options.device and kinds == {False}:
        raise ValueError("--device is for gpu/*: the others run on the CPU")
    if options.device == "cpu" and options.size == "full":
        raise ValueError("--device cpu is for sizes small and tiny: full is for a GPU's memory")


def run_on_gpu(chosen: Sequence[Workload], options: argparse.Namespace, threads: int, folder: Path) -> int:
    """Run workloads for a GPU; a part of them has a file of results of its own."""
    rounds = gpu.ROUNDS[options.size] if options.rounds is None else options.rounds
    settings = Settings(options.size, rounds, threads, options.seed, options.device or "cuda")
    whole = len(chosen) == sum(workload.on_gpu for workload in WORKLOADS.values())
    return gpu.run_all(chosen, settings, folder, "" if whole else "-".join(report.file_name(w) for w in chosen))


def run_on_cpu(chosen: Sequence[Workload], options: argparse.Namespace, threads: int, folder: Path) -> int:
    """Run workloads of the CPU; return 1 where something of fastinc's was wrong, failed or missing."""
    settings = Settings(options.size, options.rounds or ROUNDS[options.size], threads, options.seed)
    results = [result for workload in chosen for result in run_workload(workload, settings, folder)]
    unsound = [result.label for result in results if not result.sound]
    if unsound:
        print(f"\nbench: fastinc was wrong or failed in: {'; '.join(unsound)}", file=sys.stderr)
    return 1 if unsound else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run; return 0, 1 where something of fastinc's was wrong or failed, 2 for a wrong argument, or without a GPU."""
    options = parser().parse_args(argv)
    try:
        chosen = choose(options.names)
        check(options, chosen)
    except ValueError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 2
    if options.list:
        for workload in WORKLOADS.values():
            print(f"{workload.name:<24}{workload.summary}")
        return 0
    usual = "bench/results" if options.size == "full" else f"build/bench/{options.size}"  # the repository has full ones
    folder = options.out or ROOT / usual
    if options.readme:
        return write_readme(folder)
    threads = machine.cpus() if options.threads is None else options.threads
    before = fi.get_num_threads()
    fi.set_num_threads(threads)
    try:
        run = run_on_gpu if chosen[0].on_gpu else run_on_cpu
        return run(chosen, options, threads, folder)
    finally:
        fi.set_num_threads(before)


if __name__ == "__main__":
    sys.exit(main())
