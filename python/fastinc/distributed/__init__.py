"""Tables over many machines: rows shared out over the ranks of a torch.distributed group, with one table's results.

Needs torch (``pip install 'fastinc[torch]'``), and is imported when it is first used. Start one process a rank, with
``torchrun --nproc-per-node 2 train.py`` say; ``docs/scaling.md`` tells what travels.

>>> import torch.distributed as dist, fastinc as fi
>>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # torchrun: init_process_group()
>>> table = fi.distributed.ShardedTable(dim=8, optimizer=fi.RowWiseAdagrad(lr=0.05))
>>> table.lookup([1, 2]).shape
(2, 8)
>>> dist.destroy_process_group()
"""

from fastinc._extras import require

require("torch", extra="torch", purpose="fastinc.distributed")

from fastinc.distributed._checkpoint import load, save  # noqa: E402
from fastinc.distributed._prefetch import Prefetch  # noqa: E402
from fastinc.distributed.sharded_index import ShardedIndex  # noqa: E402
from fastinc.distributed.sharded_table import ShardedTable  # noqa: E402

__all__ = ["Prefetch", "ShardedIndex", "ShardedTable", "load", "save"]
