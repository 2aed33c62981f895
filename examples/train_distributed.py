"""A two-tower model whose item rows are shared out over the ranks of a process group.

    pip install 'fastinc[torch]'
    torchrun --nproc-per-node 2 examples/train_distributed.py
    torchrun --nproc-per-node 2 examples/train_distributed.py --steps 500 --wire int8 --presum all
    torchrun --nproc-per-node 2 examples/train_distributed.py --save FOLDER  # again, on any number of ranks: goes on

A user is known by the last items they clicked: the mean of these items' rows goes through a small network, and the
inner product with the next item's row says whether they click that one. The events are made up: users and items are
each of some kind, and users mostly click items of their own. The network is replicated and trained by DDP, the rows
are in one `ShardedTable`, each on the rank that owns its id.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fastinc as fi

KINDS = 8


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=256, help="events a step and rank")
    parser.add_argument("--rows", type=int, default=2000, help="how many items there are")
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--history", type=int, default=8, help="items that a user is known by")
    parser.add_argument("--wire", choices=("float32", "int8"), default="float32")
    parser.add_argument("--presum", choices=("exact", "all"), default="exact")
    parser.add_argument("--save", metavar="FOLDER", help="where checkpoints go, and where to go on from")
    parser.add_argument("--save-every", type=int, default=50, help="steps to a checkpoint")
    return parser.parse_args(arguments)


def make_events(rng: np.random.Generator, options: argparse.Namespace) -> tuple[np.ndarray, torch.Tensor]:
    """Return ids (batch, history + 1), the candidate last, and whether it is clicked: (batch,)."""
    kinds = rng.integers(0, KINDS, (options.batch, 1))
    own = rng.random((options.batch, options.history)) < 0.8
    popular = np.minimum(rng.zipf(1.3, (options.batch, options.history + 1)), options.rows) // KINDS * KINDS
    clicked = rng.random(options.batch) < 0.5
    of_kind = np.where(np.column_stack([own, clicked]), kinds, rng.integers(0, KINDS, popular.shape))
    return popular + of_kind, torch.from_numpy(clicked.astype(np.float32))  # an item's kind: its id modulo KINDS


def train(options: argparse.Namespace, group: Any = None) -> list[float]:
    """Train on this rank of a process group (None: the default one); return each step's loss, averaged over ranks."""
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Linear(options.dim, 64), nn.ReLU(), nn.Linear(64, options.dim))
    dense = torch.optim.Adam(tower.parameters(), lr=0.003)
    table, begin = start(tower, dense, options, group)
    network = DistributedDataParallel(tower, process_group=group)
    losses = []
    ids, clicked = make_events(events_of(begin, table), options)
    for step in range(begin, options.steps):
        coming = table.prefetch(ids.ravel())
        next_events = make_events(events_of(step + 1, table), options)  # while the rows travel
        rows = torch.from_numpy(coming.rows()).requires_grad_()
        items = rows.view(options.batch, options.history + 1, options.dim)
        users = network(items[:, :-1].mean(1))
        loss = nn.functional.binary_cross_entropy_with_logits((users * items[:, -1]).sum(1), clicked)
        dense.zero_grad()
        loss.backward()
        dense.step()
        # DDP averages gradients over the ranks; a table sums them.
        table.update(ids.ravel(), rows.grad / table.world_size)
        mean = loss.detach().clone()
        dist.all_reduce(mean, group=group)
        losses.append(float(mean) / table.world_size)
        if table.rank == 0 and (step + 1) % max(options.steps // 10, 1) == 0:
            print(f"step {step + 1:5d}   loss {np.mean(losses[-20:]):.4f}")
        ids, clicked = next_events
        if options.save and ((step + 1) % options.save_every == 0 or step + 1 == options.steps):
            save(table, tower, dense, step + 1, Path(options.save))
    report(table, group)
    return losses


def events_of(step: int, table: fi.distributed.ShardedTable) -> np.random.Generator:
    """Return what a rank draws a step's events from: the same when it comes to that step again."""
    return np.random.default_rng([step, table.rank, 7])


def start(
    tower: nn.Module, dense: torch.optim.Optimizer, options: argparse.Namespace, group: Any
) -> tuple[fi.distributed.ShardedTable, int]:
    """Return the table, and how many steps it has made: those of the last checkpoint, if there is one."""
    if options.save:
        try:
            table, position = fi.distributed.load(options.save, group)
        except FileNotFoundError:
            pass
        else:
            state = torch.load(Path(options.save) / position["dense"], weights_only=True)
            tower.load_state_dict(state["tower"])
            dense.load_state_dict(state["optimizer"])
            return table, position["step"]
    parts = {"optimizer": fi.Adagrad(lr=0.1), "init": fi.init.Normal(std=0.1, seed=1)}
    wire = {"wire": options.wire, "presum": options.presum}
    return fi.distributed.ShardedTable(options.dim, **parts, process_group=group, **wire), 0


def save(
    table: fi.distributed.ShardedTable, tower: nn.Module, dense: torch.optim.Optimizer, step: int, folder: Path
) -> None:
    """Save the dense part, and then the table with its name: the table's manifest decides which of both counts."""
    name = f"dense-{step}.pt"
    if table.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({"tower": tower.state_dict(), "optimizer": dense.state_dict()}, folder / name)
    fi.distributed.save(table, folder, position={"step": step, "dense": name})
    if table.rank == 0:
        for other in folder.glob("dense-*.pt"):
            if other.name != name:
                other.unlink()


def report(table: fi.distributed.ShardedTable, group: Any) -> None:
    """Print what travelled."""
    rows, stats = table.rows(), table.stats()
    sent = {kind: way["sent"] for kind, way in stats["wire"].items()}
    kinds = sorted(sent)
    told = torch.tensor([stats["looked_up"], stats["updated"], *(sent[kind] for kind in kinds)])
    dist.all_reduce(told, group=group)
    asked, given, *totals = told.tolist()
    if table.rank:
        return
    print(f"{rows} rows on {table.world_size} ranks, {len(table.shard)} of them on rank 0")
    print(f"{asked} distinct ids asked other ranks for, {given} sent gradients of; all ranks together:")
    for kind, total in zip(kinds, totals, strict=True):
        per_id = f", {total / given:.1f} an id" if given and kind not in ("headers", "changes") else ""
        print(f"  {kind:10s} {total} bytes{per_id}")


def main() -> None:
    options = parse()
    dist.init_process_group("gloo")
    try:
        train(options)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
