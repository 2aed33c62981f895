"""Optimizers: parameters by name, checked by the engine, shared live with the tables that use them.

Each distinct id of a batch takes one step on the float32 sum G of its gradients. Setting a parameter
(``table.optimizer.lr = 0.01``) takes effect at the table's next batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar, overload

from fastinc._arguments import as_flag, as_number
from fastinc._core import Optimizer as _CoreOptimizer

__all__ = ["FTRL", "SGD", "Adagrad", "Adam", "Optimizer", "RowWiseAdagrad"]

_T = TypeVar("_T")


class _Parameter(Generic[_T]):
    """An attribute that lives in the engine, which checks its range."""

    def __init__(self, kind: Callable[[float], _T]) -> None:
        self._kind = kind
        self._check: Callable[[Any, str], float] = as_flag if kind is bool else as_number

    def __set_name__(self, owner: type[Optimizer], name: str) -> None:
        self._name = name
        owner._parameters = (*owner._parameters, name)

    @overload
    def __get__(self, instance: None, owner: type[Optimizer]) -> _Parameter[_T]: ...
    @overload
    def __get__(self, instance: Optimizer, owner: type[Optimizer]) -> _T: ...
    def __get__(self, instance: Optimizer | None, owner: type[Optimizer]) -> _T | _Parameter[_T]:
        if instance is None:
            return self
        return self._kind(instance._core.get(self._name))

    def __set__(self, instance: Optimizer, value: _T) -> None:
        instance._core.set(self._name, self._check(value, self._name))


class Optimizer:
    """Base of the optimizers; not to be made itself.

    Examples
    --------
    >>> import fastinc as fi
    >>> optimizer = fi.Adagrad(lr=0.1)
    >>> optimizer.lr = 0.05
    >>> optimizer
    Adagrad(lr=0.05, eps=1e-08, weight_decay=0.0, decoupled_weight_decay=False, initial_accumulator_value=0.0, \
forgetting_factor=1.0)
    """

    __slots__ = ("_core",)  # a misspelled parameter is an error, not an attribute
    _parameters: ClassVar[tuple[str, ...]] = ()
    _core: _CoreOptimizer

    def __init__(self) -> None:
        raise TypeError("Optimizer is a base class; make one of its subclasses, such as fastinc.Adagrad")

    def _configure(self, name: str, **parameters: Any) -> None:
        self._core = _CoreOptimizer(name)
        for parameter, value in parameters.items():
            setattr(self, parameter, value)

    def get_params(self) -> dict[str, Any]:
        """Return all parameters by name.

        Examples
        --------
        >>> import fastinc as fi
        >>> fi.SGD(lr=0.5).get_params()
        {'lr': 0.5, 'momentum': 0.0, 'weight_decay': 0.0}
        """
        return {name: getattr(self, name) for name in self._parameters}

    @property
    def state_floats_per_row(self) -> tuple[int, int]:
        """How many state arrays of ``dim`` floats, and how many single floats, a row carries."""
        return self._core.element_states, self._core.row_states

    def __repr__(self) -> str:
        parameters = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({parameters})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Optimizer):
            return NotImplemented
        return type(self) is type(other) and self.get_params() == other.get_params()

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.get_params())


def _rebuild(kind: type[Optimizer], parameters: dict[str, Any]) -> Optimizer:
    return kind(**parameters)


class SGD(Optimizer):
    """Stochastic gradient descent: ``w -= lr * (G + weight_decay * w)``.

    With momentum (as ``torch.optim.SGD`` without dampening; a row's buffer moves only when the row does):
    ``b = momentum * b + G + weight_decay * w; w -= lr * b``.

    Parameters
    ----------
    lr
        Learning rate, >= 0.
    momentum
        In [0, 1). 0 keeps no buffer; it can't be turned on later.
    weight_decay
        L2 penalty, >= 0.

    Examples
    --------
    >>> import numpy as np, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2, optimizer=fi.SGD(lr=0.5), init=fi.init.Zeros())
    >>> _ = table.update(np.array([1]), np.ones((1, 2), dtype=np.float32))
    >>> table.lookup([1]).tolist()
    [[-0.5, -0.5]]
    """

    __slots__ = ()
    lr = _Parameter(float)
    weight_decay = _Parameter(float)
    _parameters = ("lr", "momentum", "weight_decay")

    def __init__(self, lr: float = 0.1, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        if as_number(momentum, "momentum") == 0.0:
            self._configure("sgd", lr=lr, weight_decay=weight_decay)
        else:
            self._configure("momentum_sgd", lr=lr, momentum=momentum, weight_decay=weight_decay)

    @property
    def momentum(self) -> float:
        """Momentum; 0 when this optimizer keeps no buffer."""
        return self._core.get("momentum") if self._core.name == "momentum_sgd" else 0.0

    @momentum.setter
    def momentum(self, value: float) -> None:
        if self._core.name == "momentum_sgd":
            self._core.set("momentum", as_number(value, "momentum"))
        elif value != 0.0:
            raise ValueError(f"momentum = {value}: this SGD was made without momentum and keeps no buffer")


class Adagrad(Optimizer):
    """Adagrad (Duchi et al. 2011): ``h += G**2; w -= lr * G / (sqrt(h) + eps)``.

    The formula of FBGEMM and ``torch.optim.Adagrad``.

    Parameters
    ----------
    lr
        Learning rate, >= 0.
    eps
        Added to the root, > 0.
    weight_decay
        >= 0. L2 (``G += weight_decay * w`` before both lines), or, if `decoupled_weight_decay`,
        ``w *= 1 - lr * weight_decay`` at each step.
    decoupled_weight_decay
        See `weight_decay`.
    initial_accumulator_value
        What h starts from, >= 0.
    forgetting_factor
        In (0, 1]. Below 1 ``h = forgetting_factor * h + G**2``, as in recursive least squares (Haykin, Adaptive Filter
        Theory): h is about the last ``1 / (1 - forgetting_factor)`` steps of its row, so that the step size no longer
        falls for ever, and rises again where gradients have become smaller. Rows that aren't written forget nothing.

    Notes
    -----
    Forgetting, in the model of :class:`fastinc.drift.LearningRateBoost`'s notes (recall@10 over the stream at 1, 0.9999
    and 0.999): MovieLens-100k .229, .227, .206; synthetic with a drift of tastes .152, .151, .134; with all item ids
    permuted halfway .084, .087, .089. It costs where the stream is steady, and pays where rows have to be unlearned.

    Examples
    --------
    >>> import numpy as np, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2, optimizer=fi.Adagrad(lr=0.5), init=fi.init.Zeros())
    >>> _ = table.update(np.array([1]), np.full((1, 2), 3, dtype=np.float32))
    >>> table.lookup([1]).tolist()
    [[-0.5, -0.5]]
    """

    __slots__ = ()
    _name: ClassVar[str] = "adagrad"
    lr = _Parameter(float)
    eps = _Parameter(float)
    weight_decay = _Parameter(float)
    decoupled_weight_decay = _Parameter(bool)
    initial_accumulator_value = _Parameter(float)
    forgetting_factor = _Parameter(float)

    def __init__(
        self,
        lr: float = 0.1,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        initial_accumulator_value: float = 0.0,
        forgetting_factor: float = 1.0,
    ) -> None:
        self._configure(
            self._name,
            lr=lr,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            forgetting_factor=forgetting_factor,
        )


class RowWiseAdagrad(Adagrad):
    """Adagrad with one accumulator a row: ``h += mean(G**2); w -= lr * G / (sqrt(h) + eps)``.

    FBGEMM's ``EXACT_ROWWISE_ADAGRAD``: 4 bytes of state a row instead of ``4 * dim``. The parameters are
    :class:`Adagrad`'s; with L2 weight decay the mean is over ``(G + weight_decay * w)**2``.

    Examples
    --------
    >>> import numpy as np, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2, optimizer=fi.RowWiseAdagrad(lr=0.5), init=fi.init.Zeros())
    >>> _ = table.update(np.array([1]), np.full((1, 2), 3, dtype=np.float32))
    >>> table.lookup([1]).tolist()
    [[-0.5, -0.5]]
    """

    __slots__ = ()
    _name = "rowwise_adagrad"


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015), lazy: rows outside the batch don't move, and t counts the steps of each row.

    ``m = beta1 * m + (1 - beta1) * G; v = beta2 * v + (1 - beta2) * G**2``,
    ``w -= lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)``.

    Parameters
    ----------
    lr
        Learning rate, >= 0.
    beta1, beta2
        Decay of the moments, in [0, 1).
    eps
        Added to the root, > 0 (``torch.optim.Adam``'s place; SparseAdam scales it differently).
    weight_decay
        >= 0. L2 (``G += weight_decay * w``), or, if `decoupled_weight_decay`, ``w *= 1 - lr * weight_decay``
        first (AdamW).
    decoupled_weight_decay
        See `weight_decay`.

    Examples
    --------
    >>> import numpy as np, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2, optimizer=fi.Adam(lr=0.5), init=fi.init.Zeros())
    >>> _ = table.update(np.array([1]), np.full((1, 2), 3, dtype=np.float32))
    >>> table.lookup([1]).round(6).tolist()
    [[-0.5, -0.5]]
    """

    __slots__ = ()
    lr = _Parameter(float)
    beta1 = _Parameter(float)
    beta2 = _Parameter(float)
    eps = _Parameter(float)
    weight_decay = _Parameter(float)
    decoupled_weight_decay = _Parameter(bool)

    def __init__(
        self,
        lr: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
    ) -> None:
        self._configure(
            "adam",
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
        )


class FTRL(Optimizer):
    """FTRL-Proximal (McMahan et al. 2013): sparse weights by L1, each weight on its own.

    ``sigma = (sqrt(n + G**2) - sqrt(n)) / lr; z += G - sigma * w; n += G**2``, then ``w = 0`` where
    ``abs(z) <= l1``, else ``w = -(z - sign(z) * l1) / ((beta + sqrt(n)) / lr + l2)``.

    The rule computes w anew from z and n, which start at 0: let rows start at 0 too (``fi.init.Zeros()``), since
    what else they start from is forgotten at the first step.

    Parameters
    ----------
    lr
        Learning rate (alpha in the paper), > 0.
    beta
        Keeps the first steps small, > 0.
    l1, l2
        Penalties, >= 0.

    Examples
    --------
    >>> import numpy as np, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2, optimizer=fi.FTRL(lr=0.5, l1=1.0), init=fi.init.Zeros())
    >>> _ = table.update(np.array([1]), np.array([[3, 0.5]], dtype=np.float32))
    >>> table.lookup([1]).tolist()
    [[-0.25, 0.0]]
    """

    __slots__ = ()
    lr = _Parameter(float)
    beta = _Parameter(float)
    l1 = _Parameter(float)
    l2 = _Parameter(float)

    def __init__(self, lr: float = 0.1, beta: float = 1.0, l1: float = 0.0, l2: float = 0.0) -> None:
        self._configure("ftrl", lr=lr, beta=beta, l1=l1, l2=l2)
