"""The way of rows through autograd: a function in eager mode, operators in compiled graphs, one formula for both."""

from __future__ import annotations

import copy
import itertools
import secrets
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import library
from torch.autograd.function import once_differentiable

from fastinc import ops
from fastinc.distributed import ShardedTable
from fastinc.torch._gradients import AnyTable, Pass, Piece, collect, current_pass

__all__ = ["Use", "rows_of"]

Tensor = Any
T = TypeVar("T")

#: A program that is exported in one process and loaded in another must not find a module of that one.
_numbers = itertools.count(secrets.randbits(62))


@dataclass(eq=False)
class Use:
    """How a module uses a table. Operators, which take no objects, know it by its number, in a tensor.

    (As a constant it would make a graph of one layer no good for the next.)
    """

    table: AnyTable
    mode: Literal["sum", "mean"] | None  # None: rows, no bags
    padding_idx: int | None
    output_dtype: Any
    nonfinite: Literal["raise", "skip"]
    grad_scaler: Any

    def __post_init__(self) -> None:
        number = next(_numbers)
        self.number = torch.tensor(number, device="cpu")  # whatever torch.device is in force
        self.device = torch.device(self.table.device)
        self.nothing = self._empty(0)
        self.ranks = self.table.world_size if isinstance(self.table, ShardedTable) else 0
        _uses[number] = self

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy gets a number of its own.
        names = ("table", "mode", "padding_idx", "output_dtype", "nonfinite", "grad_scaler")
        return Use, tuple(getattr(self, name) for name in names)

    def __deepcopy__(self, memo: dict[int, Any]) -> Use:
        # The scaler is the loss's: a copy of it would not be told of new scales.
        table = copy.deepcopy(self.table, memo)
        return Use(table, self.mode, self.padding_idx, self.output_dtype, self.nonfinite, self.grad_scaler)

    def checked(self, check: Callable[..., T], *given: Any) -> T:
        """Return what `check` makes of arguments. What a rank refuses raises on all, or they would wait for it."""
        if not self.ranks or torch.compiler.is_compiling():
            return check(*given)
        try:
            return check(*given)
        except Exception as error:
            self.table._refuse(error)  # type: ignore[union-attr]
            raise

    def read(
        self, ids: Tensor, offsets: Tensor | None, weights: Tensor | None, closed: bool, keep: bool
    ) -> tuple[Tensor, Tensor]:
        """Return rows or bags, and each id's row where they are to be kept for the gradients of the weights.

        ids: (n,), offsets: (bags,) where bags begin, and where the last one ends if closed, weights: (n,)
        """
        if offsets is None:
            rows = self._lookup(ids)
            if self.padding_idx is not None:
                rows.masked_fill_((ids == self.padding_idx).unsqueeze(1), 0.0)
            return rows.to(self.output_dtype), self.nothing
        weights = None if weights is None else weights.detach()  # DLPack refuses what requires grad
        every = ids
        ids, starts, weights, some = self.checked(self._bags, ids, offsets, weights, closed)
        if keep and self.ranks:
            self.checked(self._check_pool, ids, starts, weights)
        kept = self._lookup(every) if keep else self.nothing
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
        anchored_on: Any,
        recomputed_in: Pass | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Keep the rows' gradients for the table's step, if it takes one.

        Return the anchor's gradient, and that of weights if rows are kept.
        """
        given, of_anchor = grad, torch.zeros(1, device=anchored_on)
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
        if steps:
            scale = overflows = None
            if self.grad_scaler is not None:
                scale = self.grad_scaler.get_scale()
                grad = grad / scale
                overflows = ~torch.isfinite(grad).all()
                # The scaler, which looks at gradients of parameters, sees the rows' by the anchor's.
                of_anchor.masked_fill_(overflows.to(anchored_on), torch.inf)
            if grad.data_ptr() == given.data_ptr():
                grad = grad.clone()  # a compiled graph uses the memory again, and a leaf's .grad may be the same
            collect(self.table, Piece(ids.clone(), grad, self.nonfinite, scale, overflows), recomputed_in)
        return of_anchor, of_weights

    def _is_rows(self, starts: Tensor, n: int, weights: Tensor | None) -> bool:
        """Whether each bag has one id, so that it and its gradient are the row's. A GPU isn't waited for to know."""
        if len(starts) != n or weights is not None or self.device.type != "cpu":
            return False
        return bool(torch.equal(starts, torch.arange(n)))

    def _check_pool(self, ids: Tensor, starts: Tensor, weights: Tensor | None) -> None:
        """Refuse what a pool would, before any rank asks for rows. One column of zeros is enough to see."""
        ops.pool(torch.zeros((1, 1), device=self.device), torch.zeros_like(ids), starts, self._mode, weights)

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


def _use_of(number: Tensor) -> Use:
    use = _uses.get(int(number))
    if use is None:
        raise RuntimeError(
            "the module of this graph is gone, or of another process: keep it until backward() has ended, "
            "run exported programs where they were made"
        )
    return use


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
    if torch.jit.is_tracing():
        raise RuntimeError("torch.jit.trace keeps the rows that it sees; use torch.compile or torch.export")
    if (
        torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack()
    ):  # make_fx, fake tensors, counters of flops
        # Compilers merge equal calls of operators, and then a gradient would count once: no two tickets are equal.
        ticket = torch.empty(0, device="cpu")
        parts = (use.table.dim, use.output_dtype, closed, weighs)
        return _read(anchor, ids, offsets, weights, ticket, use.number, *parts)[0]
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
        ctx.use, ctx.closed, ctx.anchored_on = use, closed, anchor.device
        # Checkpoints that are reentrant compute this again in a backward, and go back from it in one within that.
        ctx.recomputed_in = current_pass()
        ctx.save_for_backward(ids, offsets, weights, kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _backward_once(ctx, grad) if torch.is_grad_enabled() else _backward_eagerly(ctx, grad)


def _backward_eagerly(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    steps, weighs = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
    of_anchor, of_weights = ctx.use.give(
        grad, *ctx.saved_tensors, ctx.closed, steps, ctx.anchored_on, ctx.recomputed_in
    )
    return of_anchor if steps else None, None, None, of_weights if weighs else None, None, None, None


_backward_once = once_differentiable(_backward_eagerly)  # which takes its time: for create_graph=True alone


@library.custom_op("fastinc::read", mutates_args=())  # type: ignore[untyped-decorator]
def _read(
    anchor: torch.Tensor,
    ids: torch.Tensor,
    offsets: torch.Tensor | None,
    weights: torch.Tensor | None,
    ticket: torch.Tensor,
    number: torch.Tensor,
    dim: int,
    dtype: torch.dtype,
    closed: bool,
    keep: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    out, kept = _use_of(number).read(ids, offsets, weights, closed, keep)
    return out, kept if keep else kept.clone()  # operators mustn't return a tensor twice


@_read.register_fake  # type: ignore[untyped-decorator]
def _(
    anchor: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    ticket: Tensor,
    number: Tensor,
    dim: int,
    dtype: Any,
    closed: bool,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    rows = ids.shape[0] if offsets is None else offsets.shape[0] - int(closed)
    kept = ids.shape[0] if keep else 0
    return ids.new_empty((rows, dim), dtype=dtype), ids.new_empty((kept, dim), dtype=torch.float32)


@library.custom_op("fastinc::give", mutates_args=())  # type: ignore[untyped-decorator]
def _give(
    grad: torch.Tensor,
    ids: torch.Tensor,
    offsets: torch.Tensor | None,
    weights: torch.Tensor | None,
    kept: torch.Tensor,
    ticket: torch.Tensor,
    number: torch.Tensor,
    closed: bool,
    steps: bool,
    anchored_on: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    of_anchor, of_weights = _use_of(number).give(grad, ids, offsets, weights, kept, closed, steps, anchored_on)
    return of_anchor, of_weights if len(of_weights) else of_weights.clone()


@_give.register_fake  # type: ignore[untyped-decorator]
def _(
    grad: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    kept: Tensor,
    ticket: Tensor,
    number: Tensor,
    closed: bool,
    steps: bool,
    anchored_on: Any,
) -> tuple[Tensor, Tensor]:
    return kept.new_empty(1, device=anchored_on), kept.new_empty(kept.shape[0])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    anchor, ids, offsets, weights, ticket, number, _, _, ctx.closed, _ = inputs
    ctx.anchored_on = anchor.device
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(ids, offsets, weights, output[1], ticket, number)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    """In compiled graphs; the pass that takes the step is the one in which the graph's backward runs."""
    steps, weighs = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
    of_anchor, of_weights = _give(grad, *ctx.saved_tensors, ctx.closed, steps, ctx.anchored_on)
    return (of_anchor if steps else None, None, None, of_weights if weighs else None, *[None] * 6)


_read.register_autograd(_backward, setup_context=_setup_context)
