"""A rank that dies makes the others raise, and none is left with half a batch."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

pytest.importorskip("torch")

import fastinc as fi
from _ranks import run_ranks
from fastinc.distributed import _gradients, sharded_table

DIM = 4
TIMEOUT = 15


def train_until_a_rank_dies(group, moment):
    sharded = fi.distributed.ShardedTable(DIM, fi.SGD(lr=1.0), fi.init.Zeros(), process_group=group)
    grads = np.ones((30, DIM), dtype=np.float32)
    for _ in range(5):
        sharded.update(np.arange(30), grads)
    if sharded.rank == 1 and moment == "between":
        os._exit(9)
    if sharded.rank == 1 and moment == "within":  # the others have its ids, not its gradients
        sharded_table.send_gradients.__globals__["send_rows"] = lambda *_: os._exit(9)
    start = time.monotonic()
    with pytest.raises(RuntimeError):
        sharded.update(np.arange(30), grads)
    rows = sharded.shard.lookup(np.sort(sharded.shard.ids()))
    return time.monotonic() - start, np.unique(rows).tolist(), sharded.version


@pytest.mark.parametrize("moment", ["between", "within"])
def test_a_rank_dies(moment):
    assert _gradients.send_gradients is sharded_table.send_gradients
    answers = run_ranks(3, train_until_a_rank_dies, moment, group_timeout=TIMEOUT, may_die=(1,))
    assert answers[1] is None
    for seconds, values, version in (answers[0], answers[2]):
        assert seconds < 2 * TIMEOUT
        assert values == [-15.0]  # five whole batches of three ranks
        assert version == 5
