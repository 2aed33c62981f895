"""Two towers that are searched while they train: every search sees the rows of the step before it.

    pip install 'fastinc[torch]'
    python examples/two_tower.py                        # MovieLens-100k
    python examples/two_tower.py --events ratings.csv   # any MovieLens, or a file in such a format
    python examples/two_tower.py --synthetic            # nothing to download

A user's tower is a row of a table and a small MLP, an item's is a row alone: so a `fi.LiveIndex` over the items' table
is the candidate server, with nothing to export. Both start from vectors of an older model (here: an SVD of the oldest
half of the events), put into the tables by `load`; one schedule moves the rates of the MLP and of both tables. The loss
is the softmax over the items of the batch, corrected for how often each is there (Yi et al. 2019). The last tenth of
the events, by time, is never learned: recall@10 is the share of them that are in the lists of ten made for their users.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import nn

import fastinc as fi

HELD_OUT = 0.1


class TwoTowers(nn.Module):
    """Vectors of users and items whose inner products are scores; `users` and `items` are embedding modules."""

    def __init__(self, users: nn.Module, items: nn.Module, dim: int) -> None:
        super().__init__()
        self.users, self.items = users, items
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        nn.init.zeros_(self.mlp[2].weight)  # it begins as nothing: loaded vectors keep their meaning
        nn.init.zeros_(self.mlp[2].bias)

    def user_vectors(self, users: torch.Tensor) -> torch.Tensor:
        """Return (n, dim): what the index is asked for."""
        rows = self.users(users)
        return rows + self.mlp(rows)

    def loss(self, users: torch.Tensor, items: torch.Tensor, log_shares: torch.Tensor) -> torch.Tensor:
        """Return the softmax loss of each user's item among those of the batch; log_shares: (n,), of the items."""
        scores = self.user_vectors(users) @ self.items(items).T - log_shares
        same = items.unsqueeze(0) == items.unsqueeze(1)
        same.fill_diagonal_(False)
        return nn.functional.cross_entropy(scores.masked_fill(same, -torch.inf), torch.arange(len(items)))


def log_shares(items: np.ndarray) -> np.ndarray:
    """Return, for each event, the logarithm of its item's share of all events."""
    _, places, counts = np.unique(items, return_inverse=True, return_counts=True)
    return np.log(counts[places] / len(items)).astype(np.float32)


def older_model(events: fi.datasets.Events, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return ids and vectors of users and of items: the truncated SVD of who took what."""
    users, row = np.unique(events.users, return_inverse=True)
    items, column = np.unique(events.items, return_inverse=True)
    taken = np.zeros((len(users), len(items)), np.float32)
    taken[row, column] = 1.0
    left, values, right = np.linalg.svd(taken, full_matrices=False)
    scale = np.sqrt(values[:dim])
    return users, np.ascontiguousarray(left[:, :dim] * scale), items, np.ascontiguousarray(right[:dim].T * scale)


class Tail:
    """Events held out, and how much of them lists foretell."""

    def __init__(self, history: fi.datasets.Events, tail: fi.datasets.Events) -> None:
        self.events = tail[np.isin(tail.users, history.users)]  # of others nothing is known to ask with
        self.users = np.unique(self.events.users)
        self.seen = [history.items[history.users == user] for user in self.users]
        items, counts = np.unique(history.items, return_counts=True)
        popular = items[np.argsort(-counts, kind="stable")]
        self.popular = np.stack([popular[~np.isin(popular, seen)][:10] for seen in self.seen])

    def lists(self, model: TwoTowers, index: fi.LiveIndex) -> np.ndarray:
        """Return (users, 10) items from the index as it is now, without those that the users have had."""
        with torch.no_grad():
            queries = model.user_vectors(torch.from_numpy(self.users))
        return index.search(queries, k=10, exclude=self.seen)[1]

    def recall(self, lists: np.ndarray) -> float:
        """Return the share of the events whose item is in the list of its user."""
        own = lists[np.searchsorted(self.users, self.events.users)]
        return float((own == self.events.items[:, None]).any(axis=1).mean())


def make_tables(options: argparse.Namespace, history: fi.datasets.Events) -> list[fi.EmbeddingTable]:
    """Return tables of users and of items with the rows of an older model, if wanted."""
    optimizer = fi.Adagrad(lr=options.lr)
    tables = [fi.EmbeddingTable(options.dim, optimizer, fi.init.Normal(0.05, seed=seed)) for seed in (1, 2)]
    if not options.cold_start:
        users, user_vectors, items, item_vectors = older_model(history[: len(history) // 2], options.dim)
        tables[0].load(users, user_vectors)
        tables[1].load(items, item_vectors)
    return tables


def train(options: argparse.Namespace, history: fi.datasets.Events, tail: Tail) -> None:
    """Train on the history and print, between steps, what the index answers."""
    tables = make_tables(options, history)
    model = TwoTowers(*map(fi.torch.Embedding, tables), options.dim)
    index = fi.LiveIndex(tables[1], "exact", metric="ip")
    size = min(options.batch, len(history))
    steps_an_epoch = len(history) // size
    steps = options.epochs * steps_an_epoch
    dense = torch.optim.Adam(model.mlp.parameters(), lr=1e-3)
    schedule = fi.torch.scheduler(tables, torch.optim.lr_scheduler.CosineAnnealingLR(dense, steps))
    columns = [torch.from_numpy(each) for each in (history.users, history.items, log_shares(history.items))]

    losses: list[float] = []
    for step in range(steps):
        if step % max(1, steps // options.shows) == 0:
            show(step, losses, tail, tail.lists(model, index), schedule.get_last_lr()[0], options.users)
            losses.clear()
        if step % steps_an_epoch == 0:
            batches = torch.randperm(len(history)).split(size)
        loss = model.loss(*(column[batches[step % steps_an_epoch]] for column in columns))
        dense.zero_grad()
        loss.backward()  # both tables have stepped, and the index sees it
        dense.step()
        schedule.step()
        losses.append(loss.item())
    show(steps, losses, tail, tail.lists(model, index), schedule.get_last_lr()[0], options.users)


def show(step: int, losses: list[float], tail: Tail, lists: np.ndarray, lr: float, users: int) -> None:
    """Print what came of the steps since the last time, and some users' lists."""
    loss = f"loss {np.mean(losses):.4f}" if losses else "before training"
    print(f"step {step}  {loss}  lr {lr:.4f}  recall@10 {tail.recall(lists):.4f}", flush=True)
    titles = tail.events.item_titles or {}
    for user, items in zip(tail.users[:users].tolist(), lists[:users].tolist(), strict=True):
        print(f"  user {user}: " + ", ".join(titles.get(item, str(item))[:24] for item in items))


def main() -> None:
    parser = argparse.ArgumentParser(description="two towers that are searched while they train")
    parser.add_argument("--events", default="ml-100k", help="a MovieLens file or folder, or ml-100k")
    parser.add_argument("--synthetic", action="store_true", help="made-up events")
    parser.add_argument("--cold-start", action="store_true", help="start from random vectors")
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.05, help="of the tables")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--shows", type=int, default=5, help="how often lists are shown")
    parser.add_argument("--users", type=int, default=3, help="whose lists are shown")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    if options.synthetic:
        events = fi.datasets.synthetic(20_000, n_users=400, n_items=1000, seed=options.seed)
    else:
        events = fi.datasets.movielens(options.events)
    if events.timestamps is None or "U" in (events.users.dtype.kind, events.items.dtype.kind):
        parser.error(f"{options.events}: timestamps and numbers for ids are needed")
    events = events.sorted(ties="shuffle", seed=options.seed)
    split = round(len(events) * (1 - HELD_OUT))
    history = events[:split]
    tail = Tail(history, events[split:])
    held_out, popular = len(tail.events), tail.recall(tail.popular)
    print(f"{len(history):,} events to learn, {held_out:,} held out; the most popular: recall@10 {popular:.4f}\n")
    train(options, history, tail)


if __name__ == "__main__":
    main()
