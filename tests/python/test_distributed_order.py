"""Ranks that make different calls are told so, and nothing is mixed up."""

from __future__ import annotations

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastinc as fi  # noqa: E402
from _ranks import on_ranks, raised, run_ranks  # noqa: E402

DIM = 5
GOOD = np.ones((4, DIM), dtype=np.float32)


def make_different_calls(group):
    sharded = fi.distributed.ShardedTable(DIM, process_group=group)
    rank = sharded.rank
    calls = raised(lambda: sharded.lookup([1]) if rank else sharded.update([1], GOOD[:1]))
    policy = raised(lambda: sharded.update([1], GOOD[:1], nonfinite="skip" if rank else "raise"))
    made = raised(lambda: fi.distributed.ShardedTable(DIM + rank, process_group=group))
    kinds = raised(lambda: fi.distributed.ShardedTable(DIM, wire="int8" if rank else "float16", process_group=group))
    limit = raised(lambda: fi.distributed.ShardedTable(DIM, max_rows=1, process_group=group))
    if rank == 1:
        sharded.shard.update([1], GOOD[:1])
    versions = raised(lambda: sharded.lookup([1]))
    return calls, policy, made, kinds, limit, versions


def test_ranks_out_of_step():
    for calls, policy, made, kinds, limit, versions in on_ranks(2, make_different_calls):
        assert calls[0] == policy[0] == versions[0] == "RuntimeError"
        assert re.search(
            r"rank 0 called update\(nonfinite='raise'\) of table \d+, rank 1 called lookup of table", calls[1]
        )
        assert "rank 1 called update(nonfinite='skip')" in policy[1]
        assert made[0] == "ValueError"
        assert "rank 1 has ShardedTable(dim=6" in made[1]
        assert "wire = 'float16' must be 'float32' or 'int8'" in kinds[1]
        assert "max_rows = 1 must be" in limit[1]
        assert "the shards are of versions [0, 1]" in versions[1]


def use_tables_in_different_orders(group):
    first, second = (fi.distributed.ShardedTable(DIM, process_group=group) for _ in range(2))
    for n, table in enumerate((first, second)):
        table.load([1, 2, 3], np.full((3, DIM), n, np.float32))
    for n in range(3):  # ranks have had different numbers of tables before
        if first.rank == n:
            fi.EmbeddingTable(DIM)
    order = (first, second) if first.rank == 0 else (second, first)
    messages = [raised(lambda table=table: table.lookup([1, 2])) for table in order]
    total = [table.lookup([1]).sum() for table in (first, second)]
    indices = [fi.distributed.ShardedIndex(first, metric=metric) for metric in ("ip", "l2")]
    mixed = raised(lambda: indices[first.rank].search(GOOD[:1], 1))
    return messages, total, mixed


def test_tables_used_in_different_orders():
    for messages, total, mixed in on_ranks(2, use_tables_in_different_orders):
        for kind, message in messages:
            assert kind == "RuntimeError"
            numbers = re.search(r"rank 0 called lookup of table (\d+), rank 1 called lookup of table (\d+)", message)
            assert numbers[1] != numbers[2]
        assert total == [0, DIM]
        assert "must make the same calls" in mixed[1]


def lose_one_of_two_tables(group):
    """A loss that leaves a table out on one rank."""
    first, second = (fi.distributed.ShardedTable(4, fi.SGD(lr=1.0), process_group=group) for _ in range(2))
    rows = [fi.torch.Embedding(table)(torch.arange(4)).sum() for table in (first, second)]
    found = raised(lambda: (rows[1] if first.rank else rows[0] + rows[1]).backward())
    return found, first.version, second.version


def test_a_loss_that_leaves_out_a_table_on_one_rank():
    for found, *versions in run_ranks(2, lose_one_of_two_tables, group_timeout=15):
        assert found[0] == "RuntimeError"
        assert "must make the same calls" in found[1]
        assert versions == [0, 0]


def use_tables_by_turns(group):
    """Ranks whose autograd reaches tables in other orders step them in one."""
    tables = [fi.distributed.ShardedTable(4, fi.SGD(lr=1.0), process_group=group) for _ in range(3)]
    order = tables if tables[0].rank else tables[::-1]

    rows = {table: fi.torch.Embedding(table)(torch.arange(4)).sum() for table in tables}
    loss = torch.zeros(())
    for table in order:
        loss = loss + rows[table]
    loss.backward()
    with fi.torch.accumulate():
        (fi.torch.Embedding(tables[0])(torch.arange(2)).sum() * 1.0).backward()
    fi.torch.step()
    return [table.version for table in tables]


def test_tables_step_in_one_order():
    assert on_ranks(2, use_tables_by_turns) == [[2, 1, 1]] * 2
