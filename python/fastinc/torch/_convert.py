"""From ``torch.nn.Embedding`` and ``torch.nn.EmbeddingBag`` to tables, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastinc._arguments import as_whole
from fastinc.optimizers import Optimizer
from fastinc.table import EmbeddingTable
from fastinc.torch._modules import Embedding, EmbeddingBag

__all__ = ["from_embedding", "to_embedding"]

Module = Any

#: Of ids without a gap a torch embedding has as many rows as the table; this much more is a mistake.
_MOST_GAPS = 16


def from_embedding(module: Module, optimizer: Optimizer | None = None, **options: Any) -> Embedding | EmbeddingBag:
    """Make a table of a torch embedding's rows, under ids 0, 1 and so on, and the module that is used like it.

    Parameters
    ----------
    module
        A ``torch.nn.Embedding`` or ``torch.nn.EmbeddingBag``, on the CPU or a GPU, which the table is then on, too.
    optimizer
        As for :class:`fastinc.EmbeddingTable`.
    **options
        More for the table: `init` (of rows for ids that the module doesn't have), `max_rows` and so on.

    Raises
    ------
    TypeError, ValueError
        `module` is no embedding, or does what can't be had here: ``mode="max"``, `max_norm`, `scale_grad_by_freq`, or a
        row of `padding_idx` that isn't zeros.

    Examples
    --------
    >>> import torch, fastinc as fi
    >>> module = fi.torch.from_embedding(torch.nn.Embedding(10, 4), fi.SGD(lr=0.5))
    >>> module(torch.tensor([[1, 9]])).shape, len(module.table)
    (torch.Size([1, 2, 4]), 10)
    """
    if not isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        raise TypeError(
            f"module is a {type(module).__name__}; it must be a torch.nn.Embedding or torch.nn.EmbeddingBag"
        )
    for name in ("max_norm", "scale_grad_by_freq"):
        if getattr(module, name):
            raise ValueError(f"module has {name} = {getattr(module, name)}, which a table can't do")
    weight = module.weight.detach().to(torch.float32).contiguous()
    padding_idx: int | None = module.padding_idx
    if isinstance(module, nn.Embedding) and padding_idx is not None and bool(weight[padding_idx].any()):
        raise ValueError(f"module's row of padding_idx = {padding_idx} isn't zeros")
    table = EmbeddingTable(module.embedding_dim, optimizer, device=str(weight.device), **options)
    table.load(torch.arange(len(weight), device=weight.device), weight)
    options = {"padding_idx": padding_idx, "output_dtype": module.weight.dtype}
    made: Embedding | EmbeddingBag
    if isinstance(module, nn.Embedding):
        made = Embedding(table, **options)
    else:
        made = EmbeddingBag(table, module.mode, include_last_offset=module.include_last_offset, **options)
    made.requires_grad_(module.weight.requires_grad)
    made.train(module.training)
    return made


def to_embedding(source: EmbeddingTable | Embedding | EmbeddingBag, num_embeddings: int | None = None) -> Module:
    """Make a torch embedding of a table: row i is that of id i, or its start values where the table has none.

    Parameters
    ----------
    source
        A table or an :class:`Embedding`, for a ``torch.nn.Embedding(sparse=True)``; or an :class:`EmbeddingBag`, for
        a ``torch.nn.EmbeddingBag(sparse=True)``.
    num_embeddings
        How many rows; None: up to the largest id.

    Raises
    ------
    ValueError
        The table has ids that are negative or not below `num_embeddings`, or so few up to the largest one that
        `num_embeddings` has to be given.

    Examples
    --------
    >>> import torch, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2, init=fi.init.Constant(0.5))
    >>> table.load([2], torch.tensor([[1.0, 2.0]]))
    >>> fi.torch.to_embedding(table).weight.tolist()
    [[0.5, 0.5], [0.5, 0.5], [1.0, 2.0]]
    """
    table = source if isinstance(source, EmbeddingTable) else getattr(source, "table", None)
    if not isinstance(table, EmbeddingTable):
        raise TypeError(f"source = {source!r} must be an EmbeddingTable, or a module of fastinc.torch over one")
    ids = table.ids()
    least, most = (int(ids.min()), int(ids.max())) if len(ids) else (0, -1)
    if least < 0:
        raise ValueError(f"the table has id {least}; a torch embedding has none below 0")
    if num_embeddings is None:
        if most >= max(1000, _MOST_GAPS * len(ids)):
            raise ValueError(f"num_embeddings: the table has {len(ids)} ids up to {most}; say how many rows to make")
        num_embeddings = most + 1
    if as_whole(num_embeddings, "num_embeddings", 0, 2**40) <= most:
        raise ValueError(f"num_embeddings = {num_embeddings} leaves out id {most}")
    numbers = torch.arange(num_embeddings, device=table.device)
    weight = table.lookup(numbers, out=torch.empty((num_embeddings, table.dim), device=table.device))
    padding_idx = None if isinstance(source, EmbeddingTable) else source._use.padding_idx
    if padding_idx is not None and not 0 <= padding_idx < num_embeddings:
        raise ValueError(f"padding_idx = {padding_idx} isn't below num_embeddings = {num_embeddings}")
    if isinstance(source, EmbeddingBag):
        options = {"include_last_offset": source._closed, "padding_idx": padding_idx, "sparse": True}
        bag = nn.EmbeddingBag(num_embeddings, table.dim, mode=source._use.mode, _weight=weight, **options)
        return bag
    if padding_idx is not None:
        weight[padding_idx] = 0.0
    return nn.Embedding(num_embeddings, table.dim, padding_idx=padding_idx, sparse=True, _weight=weight)
