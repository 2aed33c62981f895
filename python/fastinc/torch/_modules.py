"""``torch.nn.Embedding`` and ``torch.nn.EmbeddingBag`` over tables that grow and step in the backward."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from fastinc._arguments import as_choice, as_flag, as_whole
from fastinc.distributed import ShardedTable
from fastinc.torch import _state
from fastinc.torch._autograd import Use, rows_of
from fastinc.torch._gradients import TABLES, AnyTable, shard_of

__all__ = ["Embedding", "EmbeddingBag"]

Tensor = Any

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class _TableModule(nn.Module):  # type: ignore[misc]
    """What the modules share: the table, how it is used, and what makes autograd come by."""

    def __init__(self, table: AnyTable, mode: Literal["sum", "mean"] | None, **options: Any) -> None:
        super().__init__()
        if not isinstance(table, TABLES):
            raise TypeError(
                f"table = {table!r} must be a fastinc.EmbeddingTable or a distributed.ShardedTable; for a torch "
                "embedding see fastinc.torch.from_embedding"
            )
        table._check_writable(type(self).__name__)
        self._use = _use(table, mode, **options)
        # Rows are in the table. Autograd asks for the gradient of a tensor, here a zero that stays one: as a parameter
        # it is frozen by requires_grad_(False), and parameters() isn't empty. (Compilers drop what makes empty ones.)
        self.grad_anchor = nn.Parameter(torch.zeros(1, device=self._use.device))

    @property
    def table(self) -> AnyTable:
        """The table, as it was given."""
        return self._use.table

    def _anchor(self) -> Tensor:
        """Return what requires a gradient where the table is to learn: not in eval()."""
        return self.grad_anchor if self.training else self.grad_anchor.detach()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # what a subclass has
        del destination[prefix + "grad_anchor"]
        for name in _state.NAMES & self._others():
            raise AttributeError(
                f"{type(self).__name__}.{name}: a state_dict has the table's under this name; rename it"
            )
        _state.save(shard_of(self.table), destination, prefix)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        own = {**state_dict, prefix + "grad_anchor": self.grad_anchor}
        super()._load_from_state_dict(own, prefix, local_metadata, strict, missing, [], errors)
        others = self._others() | {"_extra_state"}
        _state.load(self.table, others, state_dict, prefix, strict, missing, unexpected, errors)

    def _others(self) -> set[str]:
        """Return what a subclass has of its own."""
        return {*self._parameters, *self._buffers, *self._modules} - {"grad_anchor"}

    def extra_repr(self) -> str:
        use = self._use
        shown = {"mode": use.mode, "padding_idx": use.padding_idx}
        return ", ".join(
            [repr(use.table), *(f"{name}={value!r}" for name, value in shown.items() if value is not None)]
        )


def _use(
    table: AnyTable,
    mode: Literal["sum", "mean"] | None,
    *,
    padding_idx: int | None,
    output_dtype: Any,
    nonfinite: Literal["raise", "skip"],
    grad_scaler: Any,
) -> Use:
    if padding_idx is not None:
        padding_idx = as_whole(padding_idx, "padding_idx", -(2**63), 2**63 - 1)
    if output_dtype not in _DTYPES:
        raise ValueError(f"output_dtype = {output_dtype!r} must be {', '.join(map(str, _DTYPES))}")
    as_choice(nonfinite, "nonfinite", ("raise", "skip"))
    if grad_scaler is not None and not hasattr(grad_scaler, "get_scale"):
        raise TypeError(f"grad_scaler = {grad_scaler!r} must be a torch.amp.GradScaler")
    if grad_scaler is not None and isinstance(table, ShardedTable):
        raise ValueError("grad_scaler: ranks of a ShardedTable would have to agree on it; scale no loss, use bfloat16")
    return Use(table, mode, padding_idx, output_dtype, nonfinite, grad_scaler)


def _numbers(x: Tensor, name: str, axes: tuple[int, ...], device: Any) -> Tensor:
    """Return ids or offsets, contiguous; the engine checks the rest."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a tensor, not {type(x).__name__}")
    if axes and x.dim() not in axes:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be {' or '.join(f'{n}-D' for n in axes)}")
    if x.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name} has dtype {x.dtype}; it must be torch.int64 or torch.int32")
    if x.device != device:
        raise ValueError(f"{name} is on {x.device}; the table is on {device}")
    return x.contiguous()


class Embedding(_TableModule):
    """Rows of a table by id, as ``torch.nn.Embedding``; ``backward()`` applies the table's optimizer in place.

    No gradient of the table's is left behind and no torch optimizer is needed for it. When a backward pass ends, the
    gradients of equal ids are summed over all uses of the table in it, and each row takes one step; rows are made for
    new ids. See :func:`accumulate` for several passes to a step.

    Parameters
    ----------
    table
        An :class:`fastinc.EmbeddingTable`, or a :class:`fastinc.distributed.ShardedTable`; modules may share one.
    padding_idx
        An id whose row is zeros and learns nothing; None: there is none.
    output_dtype
        torch.float32, or torch.float16 or torch.bfloat16: rows are rounded to it, their gradients arrive in it.
    nonfinite
        As in :meth:`fastinc.EmbeddingTable.update`: "raise" makes backward() raise ValueError where a gradient isn't
        finite, and the table takes no step; "skip" leaves those ids out.
    grad_scaler
        The ``torch.amp.GradScaler`` that the loss is scaled by: gradients are divided by its scale, and where one
        isn't finite the table takes no step, and the gradient of `grad_anchor` is inf: it must be in the optimizer
        that the scaler steps, which then leaves the step out and lowers the scale. Without this argument a table steps
        by scaled gradients.

    Notes
    -----
    Over a ShardedTable every forward is collective, also in ``eval()``, and so is the end of every backward pass that
    learns: all ranks make the same ones. Gradients are divided by the number of ranks, as DistributedDataParallel does
    with those of the dense part, and a state_dict is of this rank's rows. Ranks whose batches have run out go on with
    empty ones, in the place of DDP's ``join()``. Under ``torch.compile`` an argument that one rank refuses while it
    compiles leaves the others waiting until the group's timeout.

    In ``eval()``, under ``torch.no_grad()`` and after ``requires_grad_(False)`` the table is only read. The parameter
    `grad_anchor` is a zero that stays one: autograd asks a gradient of it. ``to()``, ``half()`` and their like move it
    alone: a table stays where it is, and so do the rows that a forward returns.

    A backward takes the step whatever it is made for: ``torch.autograd.grad`` of the anchor, too, and in graphs of
    ``torch.compile``, which make all gradients at once, of any input. What a reentrant checkpoint computes again
    counts in the pass that it is computed in, but where it is compiled or such checkpoints are nested: there use
    ``use_reentrant=False``. Compiled autograd, which has no end of a pass, and ``torch.jit.trace`` are refused.

    Rows have stepped when ``backward()`` returns: ``clip_grad_norm_`` neither sees nor shortens their gradients (a hook
    on the module's output can), and ``AveragedModel`` averages the dense part alone.

    Examples
    --------
    >>> import torch, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2, optimizer=fi.SGD(lr=0.5), init=fi.init.Zeros())
    >>> embedding = fi.torch.Embedding(table)
    >>> embedding(torch.tensor([[7, 8], [7, 9]])).sum().backward()
    >>> embedding(torch.tensor([7, 8])).tolist()
    [[-1.0, -1.0], [-0.5, -0.5]]
    """

    def __init__(
        self,
        table: AnyTable,
        *,
        padding_idx: int | None = None,
        output_dtype: Any = torch.float32,
        nonfinite: Literal["raise", "skip"] = "raise",
        grad_scaler: Any = None,
    ) -> None:
        options = {"padding_idx": padding_idx, "output_dtype": output_dtype}
        super().__init__(table, None, **options, nonfinite=nonfinite, grad_scaler=grad_scaler)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of ids of any shape: (*shape, dim)."""
        ids = self._use.checked(_numbers, ids, "ids", (), self._use.device)
        if ids.dim() == 1:
            return rows_of(self._use, self._anchor(), ids)
        return rows_of(self._use, self._anchor(), ids.reshape(-1)).reshape(*ids.shape, self.table.dim)


class EmbeddingBag(_TableModule):
    """Sums or means of rows, as ``torch.nn.EmbeddingBag``; ``backward()`` applies the table's optimizer in place.

    Parameters
    ----------
    table, output_dtype, nonfinite, grad_scaler
        As for :class:`Embedding`.
    mode
        "mean" or "sum". There is no "max".
    padding_idx
        An id that counts in no bag and learns nothing.
    include_last_offset
        Offsets have one element more: where the last bag ends.

    Examples
    --------
    >>> import torch, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2, optimizer=fi.SGD(lr=1.0), init=fi.init.Constant(1.0))
    >>> bag = fi.torch.EmbeddingBag(table, mode="sum")
    >>> bag(torch.tensor([7, 8, 9]), torch.tensor([0, 2])).sum().backward()
    >>> bag(torch.tensor([[7, 10], [10, 11]])).tolist()
    [[1.0, 1.0], [2.0, 2.0]]
    >>> bag(torch.tensor([10, 11, 12]), lengths=torch.tensor([0, 3])).tolist()
    [[0.0, 0.0], [3.0, 3.0]]
    """

    def __init__(
        self,
        table: AnyTable,
        mode: Literal["sum", "mean"] = "mean",
        *,
        padding_idx: int | None = None,
        include_last_offset: bool = False,
        output_dtype: Any = torch.float32,
        nonfinite: Literal["raise", "skip"] = "raise",
        grad_scaler: Any = None,
    ) -> None:
        if isinstance(table, TABLES):  # else that is what is wrong
            as_choice(mode, "mode", ("sum", "mean"))
        options = {"padding_idx": padding_idx, "output_dtype": output_dtype}
        super().__init__(table, mode, **options, nonfinite=nonfinite, grad_scaler=grad_scaler)
        self._closed = as_flag(include_last_offset, "include_last_offset")

    def forward(
        self,
        ids: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Return the bags: (bags, dim).

        Parameters
        ----------
        ids
            (n,) int32 or int64 in bags told by `offsets` or `lengths`, or (bags, size) without either.
        offsets
            (bags,), or (bags + 1,) with `include_last_offset`: where each bag begins.
        per_sample_weights
            As many floats as ids, in the same shape: what rows are multiplied by, for mode "sum". May require grad.
        lengths
            (bags,): how many ids each bag has, in the place of `offsets`, as TorchRec's jagged tensors tell it.
        """
        given = self._use.checked(self._checked, ids, offsets, per_sample_weights, lengths)
        return rows_of(self._use, self._anchor(), *given)

    def _checked(
        self, ids: Tensor, offsets: Tensor | None, weights: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, bool]:
        """Return ids, where bags begin, weights, and whether one place more says where the last bag ends."""
        device = self._use.device
        axes = (1,) if offsets is not None or lengths is not None else (2,)
        flat, closed = _numbers(ids, "ids", axes, device).reshape(-1), False
        if offsets is not None and lengths is not None:
            raise ValueError("offsets and lengths are both given; pass one")
        if lengths is not None:
            ends = _numbers(lengths, "lengths", (1,), device).cumsum(0)
            offsets, closed = torch.cat([ends.new_zeros(1), ends]), True
        elif offsets is not None:
            offsets, closed = _numbers(offsets, "offsets", (1,), device).to(torch.int64), self._closed
        else:
            offsets = torch.arange(ids.shape[0], device=device) * ids.shape[1]
        if weights is not None:
            if not isinstance(weights, torch.Tensor):
                raise TypeError(f"per_sample_weights must be a tensor, not {type(weights).__name__}")
            if not weights.is_floating_point():
                raise TypeError(f"per_sample_weights has dtype {weights.dtype}; it must be a floating-point one")
            if weights.shape != ids.shape:
                raise ValueError(f"per_sample_weights has shape {tuple(weights.shape)}; ids have {tuple(ids.shape)}")
            weights = weights.to(torch.float32).contiguous().reshape(-1)
        return flat, offsets, weights, closed
