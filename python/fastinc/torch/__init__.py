"""Tables in PyTorch models: modules whose backward applies the table's optimizer in place.

Needs torch 2.6 or newer (``pip install 'fastinc[torch]'``), and is imported when it is first used.

>>> import torch, fastinc as fi
>>> table = fi.EmbeddingTable(dim=8, optimizer=fi.RowWiseAdagrad(lr=0.05))
>>> model = torch.nn.Sequential(fi.torch.EmbeddingBag(table), torch.nn.Linear(8, 1))
>>> model(torch.tensor([[3, 2**40], [5, 3]])).sum().backward()
>>> sorted(table.ids().tolist())
[3, 5, 1099511627776]
"""

from fastinc._extras import require

require("torch", extra="torch", purpose="fastinc.torch")

from fastinc.torch._convert import from_embedding, to_embedding  # noqa: E402
from fastinc.torch._gradients import accumulate, discard, step  # noqa: E402
from fastinc.torch._modules import Embedding, EmbeddingBag  # noqa: E402
from fastinc.torch._scheduler import TableScheduler, scheduler  # noqa: E402

__all__ = [
    "Embedding",
    "EmbeddingBag",
    "TableScheduler",
    "accumulate",
    "discard",
    "from_embedding",
    "scheduler",
    "step",
    "to_embedding",
]
