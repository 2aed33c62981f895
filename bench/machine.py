"""Where the figures were made."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.core import Settings

_PACKAGES = ("numpy", "torch", "fbgemm-gpu-cpu", "faiss-cpu", "matplotlib")
_ROOT = Path(__file__).resolve().parents[1]


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _field(path: str, name: str) -> str:
    """Return the value of the first line "name : value" of a file under /proc."""
    for line in _read(path).splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return ""


def memory(name: str) -> float:
    """Return a line of /proc/meminfo, in bytes; infinite where there is none."""
    kibibytes = _field("/proc/meminfo", name).split()
    return float(kibibytes[0]) * 1024 if kibibytes else float("inf")


def available_memory() -> float:
    """Return how many bytes can be allocated without swapping, as the kernel guesses."""
    return memory("MemAvailable")


def resident_memory() -> float:
    """Return the bytes of this process that are in memory; nan where that can't be told."""
    kibibytes = _field("/proc/self/status", "VmRSS").split()
    return float(kibibytes[0]) * 1024 if kibibytes else float("nan")


def cpus() -> int:
    """Return how many CPUs this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def commit() -> str | None:
    """Return the commit of the clone, with "+changes" if sources differ from it; None outside git."""
    head = _git("rev-parse", "--short=12", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", "cpp", "python", "bench/*.py", "bench/*.cpp")
    return f"{head}+changes" if head and changes else head


def load() -> float | None:
    """Return how many threads wanted to run in the last minute: on a quiet machine, at most our own."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def describe(settings: Settings, load_before: float | None) -> dict[str, Any]:
    """Return the machine, the versions and the conditions of a run (after it: torch's settings show then)."""
    import fastinc as fi

    info = fi.info()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cpus": cpus(),
        "l3_cache": _read("/sys/devices/system/cpu/cpu0/cache/index3/size") or None,
        "memory_gib": round(memory("MemTotal") / 2**30, 1),
        "kernel": platform.release(),
        "virtualised": "hypervisor" in _field("/proc/cpuinfo", "flags").split(),
        "transparent_huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "torch_huge_pages": os.environ.get("THP_MEM_ALLOC_ENABLE", "0") == "1",
        "load_before": load_before,
        "isa": info["isa"],
        "threads": settings.threads,
        "compiler": info["compiler"],
        "python": info["python"],
        "packages": {"fastinc": info["version"], **{package: _version(package) for package in _PACKAGES}},
    }


def one_line(machine: dict[str, Any]) -> str:
    """Return the machine in a line, for tables."""
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in machine["packages"].items())
    return (
        f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['memory_gib']} GiB, kernel {machine['kernel']}, "
        f"isa {machine['isa']}, {machine['threads']} threads, {versions}; commit {machine['commit']}"
    )
