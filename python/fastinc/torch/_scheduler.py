"""Learning rates of tables that follow torch's schedulers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastinc.torch._gradients import TABLES, AnyTable

__all__ = ["TableScheduler", "scheduler"]


class TableScheduler:
    """What :func:`scheduler` returns: a torch scheduler that takes tables along."""

    def __init__(self, tables: tuple[AnyTable, ...], torch_scheduler: Any) -> None:
        group = torch_scheduler.optimizer.param_groups[0]
        self._torch_scheduler = torch_scheduler
        self._torch_base = float(group.get("initial_lr", group["lr"]))
        if self._torch_base == 0.0:
            raise ValueError("torch_scheduler: its optimizer's learning rate is 0, of which nothing is a multiple")
        self._optimizers: list[Any] = [table.optimizer for table in tables]
        self._bases: list[float] = [optimizer.lr for optimizer in self._optimizers]
        self._follow()

    def step(self, *arguments: Any, **named: Any) -> None:
        """Step the torch scheduler; the tables' next batches have the rates that follow."""
        self._torch_scheduler.step(*arguments, **named)
        self._follow()

    def get_last_lr(self) -> list[float]:
        """Return the tables' learning rates."""
        return [optimizer.lr for optimizer in self._optimizers]

    def state_dict(self) -> dict[str, Any]:
        """Return the torch scheduler's state and the rates that the tables began with."""
        return {
            "scheduler": self._torch_scheduler.state_dict(),
            "bases": list(self._bases),
            "torch_base": self._torch_base,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; the torch optimizer's own has to be loaded before."""
        if len(state["bases"]) != len(self._optimizers):
            raise ValueError(f"state is of {len(state['bases'])} tables, not of {len(self._optimizers)}")
        self._torch_scheduler.load_state_dict(state["scheduler"])
        self._bases = [float(base) for base in state["bases"]]
        self._torch_base = float(state["torch_base"])
        self._follow()

    def _follow(self) -> None:
        factor = float(self._torch_scheduler.optimizer.param_groups[0]["lr"]) / self._torch_base
        for optimizer, base in zip(self._optimizers, self._bases, strict=True):
            optimizer.lr = base * factor


def scheduler(tables: AnyTable | Iterable[AnyTable], torch_scheduler: Any) -> TableScheduler:
    """Let the learning rates of tables follow a torch scheduler: they change by the same factor as its optimizer's.

    Parameters
    ----------
    tables
        One or several; the `lr` that their optimizers have now is what a factor of 1 stands for, which is where the
        torch optimizer began (its `initial_lr`): under OneCycleLR that is ``max_lr / div_factor``.
    torch_scheduler
        Any of ``torch.optim.lr_scheduler``, of the model's dense parameters; of several groups the first one counts.

    Returns
    -------
    TableScheduler
        To be stepped in the torch scheduler's place.

    Raises
    ------
    TypeError, ValueError
        `tables` are none, or `torch_scheduler` has no optimizer or one whose learning rate is 0.

    Examples
    --------
    >>> import torch, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2, optimizer=fi.SGD(lr=0.5))
    >>> dense = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.01)
    >>> schedule = fi.torch.scheduler(table, torch.optim.lr_scheduler.StepLR(dense, step_size=1, gamma=0.5))
    >>> dense.step()
    >>> schedule.step()
    >>> table.optimizer.lr
    0.25
    """
    if not isinstance(tables, (*TABLES, Iterable)):
        raise TypeError(f"tables = {type(tables).__name__} must be a table or several; of a module pass module.table")
    several = (tables,) if isinstance(tables, TABLES) else tuple(tables)
    for table in several:
        if not isinstance(table, TABLES):
            raise TypeError(f"tables has a {type(table).__name__}, which is no table; of a module pass module.table")
    if not hasattr(getattr(torch_scheduler, "optimizer", None), "param_groups"):
        raise TypeError(f"torch_scheduler = {torch_scheduler!r} must be one of torch.optim.lr_scheduler")
    return TableScheduler(several, torch_scheduler)
