"""The way of rows through autograd: a function in eager mode, operators in compiled graphs, one formula for both."""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.autograd.function import once_differentiable

from fastinc import ops
from fastinc.distributed import ShardedTable
from fastinc.torch._gradients import AnyTable, Piece, collect

__all__ = ["Use", "rows_of"]

Tensor = Any

_numbers = itertools.count(1)


@dataclass(eq=False)
class Use:
    """How a module uses a table. Operators, which take no objects, know it by its number."""

    table: AnyTable
    mode: Literal["sum", "mean"] | None  # None: rows, no bags
    padding_idx: int | None
    output_dtype: Any
    nonfinite: Literal["raise", "skip"]
    grad_scaler: Any

    def __post_init__(self) -> None:
        self.number = next(_numbers)
        self.device = torch.device(self.table.device)
        self.nothing = self._empty(0)
        self.ranks = self.table.world_size if isinstance(self.table, ShardedTable) else 0
        _uses[self.number] = self

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy gets a number of its own.
        names = ("table", "mode", "padding_idx", "output_dtype", "nonfinite", "grad_scaler")
        return Use, tuple(getattr(self, name) for name in names)

    def read(
        self, ids: Tensor, offsets: Tensor | None, weights: Tensor | None, closed: bool, keep: bool
    ) -> tuple[Tensor, Tensor]:
        """Return rows or bags, and each id's row where they are to be kept for the gradients of the weights.

        ids: (n,), offsets: (bags,) where bags begin, and where the last one ends if closed, weights: (n,)
        """
        kept = self._lookup(ids) if keep or offsets is None else self.nothing
        if offsets is None:
            if self.padding_idx is not None:
                kept.masked_fill_((ids == self.padding_idx).unsqueeze(1), 0.0)
            return kept.to(self.output_dtype), self.nothing
        weights = None if weights is None else weights.detach()  # DLPack refuses what requires grad
        ids, starts, weights, some = self._bags(ids, offsets, weights, closed)
        if not keep and not self.ranks and self._is_rows(starts, len(ids), weights):  # ranks make the same calls
            return self._lookup(ids).to(self.output_dtype), kept
        out = self._empty(len(starts))
        if keep:
            rows = kept if some is None else kept[some]
            ops.pool(rows, torch.arange(len(ids), device=self.device), starts, self._mode, weights, out=out)
        else:
            self.table.pool(ids, starts, self._mode, weights, out=out)
        return out.to(self.output_dtype), kept

    def give(
        self,
        grad: Tensor,
        ids: Tensor,
        offsets: Tensor | None,
        weights: Tensor | None,
        kept: Tensor,
        closed: bool,
        steps: bool,
    ) -> Tensor:
        """Keep the rows' gradients for the table's step, if it takes one; return those of weights if rows are kept."""
        grad = grad.detach().to(torch.float32).contiguous()
        n, some, of_weights = len(ids), None, self.nothing[:, 0]
        if offsets is None and self.padding_idx is not None:
            some = ids != self.padding_idx
            ids, grad = ids[some], grad[some]
        elif offsets is not None:
            weights = None if weights is None else weights.detach()
            ids, starts, weights, some = self._bags(ids, offsets, weights, closed)
            if kept.shape[0] == n and weights is not None:
                rows = kept if some is None else kept[some]
                products = (ops.pool_backward(grad, starts, len(ids), "sum") * rows).sum(1)
                of_weights = products if some is None else grad.new_zeros(n).masked_scatter_(some, products)
            if steps and not self._is_rows(starts, len(ids), weights):
                grad = ops.pool_backward(grad, starts, len(ids), self._mode, weights)
        if self.ranks > 1:
            grad = grad / self.ranks
        if steps and (len(ids) or self.ranks):  # all ranks take a step, or none
            nonfinite: Literal["raise", "skip", "drop"] = self.nonfinite
            if self.grad_scaler is not None:
                grad, nonfinite = grad / self.grad_scaler.get_scale(), "drop"
            collect(self.table, Piece(ids, grad, nonfinite))
        return of_weights

    def _is_rows(self, starts: Tensor, n: int, weights: Tensor | None) -> bool:
        """Whether each bag has one id, so that it and its gradient are the row's. A GPU isn't waited for to know."""
        if len(starts) != n or weights is not None or self.device.type != "cpu":
            return False
        return bool(torch.equal(starts, torch.arange(n)))

    @property
    def _mode(self) -> Literal["sum", "mean"]:
        return self.mode or "sum"

    def _empty(self, rows: int, columns: int | None = None) -> Tensor:
        shape = (rows, self.table.dim if columns is None else columns)
        return torch.empty(shape, dtype=torch.float32, device=self.device)

    def _lookup(self, ids: Tensor) -> Tensor:
        return self.table.lookup(ids, out=self._empty(len(ids)))

    def _bags(
        self, ids: Tensor, offsets: Tensor, weights: Tensor | None, closed: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return ids, starts of bags and weights without padding, and which ids are none (None: all)."""
        if closed:
            if offsets.shape[0] == 0 or int(offsets[-1]) != len(ids):
                end = int(offsets[-1]) if offsets.shape[0] else "nothing"
                raise ValueError(f"the bags end at {end}; there are {len(ids)} ids")
            offsets = offsets[:-1]
        if self.padding_idx is None:
            return ids, offsets, weights, None
        ops.pool_backward(self._empty(len(offsets), 1), offsets, len(ids), "sum")  # refuses offsets
        some = ids != self.padding_idx
        before = torch.cat([some.new_zeros(1, dtype=torch.int64), some.cumsum(0)])  # ids that stay before each
        return ids[some], before[offsets], None if weights is None else weights[some], some


_uses: weakref.WeakValueDictionary[int, Use] = weakref.WeakValueDictionary()


def rows_of(
    use: Use,
    anchor: Tensor,
    ids: Tensor,
    offsets: Tensor | None = None,
    weights: Tensor | None = None,
    closed: bool = False,
) -> Tensor:
    """Return rows, or bags; where anchor requires grad, the backward takes the table's step."""
    weighs = weights is not None and weights.requires_grad
    if torch.compiler.is_compiling():
        return _read(anchor, ids, offsets, weights, use.number, closed, weighs)[0]
    if torch.is_grad_enabled() and (weighs or anchor.requires_grad):
        return _Read.apply(anchor, ids, offsets, weights, use, closed, weighs)
    return use.read(ids, offsets, weights, closed, False)[0]


class _Read(torch.autograd.Function):  # type: ignore[misc]
    """Eager mode. (A setup_context of its own would make apply() three times as long.)"""

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        ids: Tensor,
        offsets: Tensor | None,
        weights: Tensor | None,
        use: Use,
        closed: bool,
        keep: bool,
    ) -> Tensor:
        out, kept = use.read(ids, offsets, weights, closed, keep)
        ctx.use, ctx.closed = use, closed
        ctx.save_for_backward(anchor, ids, offsets, weights, kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _backward_once(ctx, grad) if torch.is_grad_enabled() else _backward_eagerly(ctx, grad)


def _backward_eagerly(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    anchor, *saved = ctx.saved_tensors
    steps, weighs = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
    of_weights = ctx.use.give(grad, *saved, ctx.closed, steps)
    of_anchor = torch.empty_like(anchor) if steps else None
    return of_anchor, None, None, of_weights if weighs else None, None, None, None


_backward_once = once_differentiable(_backward_eagerly)  # which takes its time: for create_graph=True alone


@torch.library.custom_op("fastinc::read", mutates_args=())  # type: ignore[untyped-decorator]
def _read(
    anchor: torch.Tensor,
    ids: torch.Tensor,
    offsets: torch.Tensor | None,
    weights: torch.Tensor | None,
    number: int,
    closed: bool,
    keep: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    out, kept = _uses[number].read(ids, offsets, weights, closed, keep)
    return out, kept if keep else kept.clone()  # operators mustn't return a tensor twice


@_read.register_fake  # type: ignore[untyped-decorator]
def _(
    anchor: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    number: int,
    closed: bool,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    use = _uses[number]
    rows = ids.shape[0] if offsets is None else offsets.shape[0] - int(closed)
    kept = ids.shape[0] if keep else 0
    out = torch.empty((rows, use.table.dim), dtype=use.output_dtype, device=use.device)
    return out, torch.empty((kept, use.table.dim), device=use.device)


@torch.library.custom_op("fastinc::give", mutates_args=())  # type: ignore[untyped-decorator]
def _give(
    grad: torch.Tensor,
    anchor: torch.Tensor,
    ids: torch.Tensor,
    offsets: torch.Tensor | None,
    weights: torch.Tensor | None,
    kept: torch.Tensor,
    number: int,
    closed: bool,
    steps: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    of_weights = _uses[number].give(grad, ids, offsets, weights, kept, closed, steps)
    return torch.empty_like(anchor), of_weights if len(of_weights) else of_weights.clone()


@_give.register_fake  # type: ignore[untyped-decorator]
def _(
    grad: Tensor,
    anchor: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    kept: Tensor,
    number: int,
    closed: bool,
    steps: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(anchor), kept.new_empty(kept.shape[0])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    anchor, ids, offsets, weights, ctx.number, ctx.closed, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(anchor, ids, offsets, weights, output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    """In compiled graphs; the pass that takes the step is the one in which the graph's backward runs."""
    anchor, *saved = ctx.saved_tensors
    steps, weighs = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
    of_anchor, of_weights = _give(grad, anchor, *saved, ctx.number, ctx.closed, steps)
    return of_anchor if steps else None, None, None, of_weights if weighs else None, None, None, None


_read.register_autograd(_backward, setup_context=_setup_context)
