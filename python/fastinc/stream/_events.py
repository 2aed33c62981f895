"""What an event is: a user, an item, perhaps a label and a time, out of text or JSON values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fastinc._arguments import as_flag
from fastinc.datasets._columns import ROLES, check_roles, find_roles
from fastinc.datasets._text import INTEGER, id_fault, number_fault
from fastinc.datasets.events import FLOAT32_MAX
from fastinc.stream._source import Batch, Rejected

__all__ = ["BatchBuilder", "Event", "EventParser", "MalformedError", "id_column", "text_of"]

Event = tuple[Any, Any, "float | None", "float | None"]
#: Of each role: "int" or "str" for ids, whether there is one for labels and timestamps; None: not known yet.
Kinds = dict[str, Any]

#: Sets of field names whose roles are kept: a stream has a few, and one that is all noise must not fill memory.
_KEPT_NAMES = 64
_OPTIONAL = {"label": "labels", "timestamp": "timestamps"}
_LEAST, _MOST = -(2**63), 2**63 - 1


class MalformedError(ValueError):
    """What is wrong with an event."""


def text_of(raw: bytes) -> str:
    """Return bytes as text that can be turned back into them."""
    return raw.decode("utf-8", "surrogateescape")


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"is not UTF-8 at byte {error.start}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name comes twice in an object")
    return fields


#: One for all: `json.loads` with a hook makes another each time.
_DECODER = json.JSONDecoder(object_pairs_hook=_once)


class EventParser:
    """Reads events, and knows of what kind they are: all of a stream are of one kind, for good.

    The first good event decides what options leave open; `state` is that decision, which a position keeps so that a
    restart doesn't decide anew.

    Parameters
    ----------
    columns
        Names of the fields by role, where they aren't the usual ones.
    ids
        "int", "str", or None: as the first event's user and item are, each for itself.
    labels, timestamps
        Whether events have them. False: what is there isn't looked at. None: as the first event has them.
    """

    def __init__(
        self,
        columns: Mapping[str, str] | None = None,
        ids: Literal["int", "str"] | None = None,
        labels: bool | None = None,
        timestamps: bool | None = None,
    ) -> None:
        check_roles(columns or {})
        self.columns = dict(columns or {})
        if ids not in (None, "int", "str"):
            raise ValueError(f"ids = {ids!r} must be 'int', 'str' or None")
        flags = {"label": (labels, "labels"), "timestamp": (timestamps, "timestamps")}
        self._told: Kinds = {"user": ids, "item": ids}
        self._told |= {role: None if value is None else as_flag(value, name) for role, (value, name) in flags.items()}
        self._kinds = dict(self._told)
        self._roles: dict[tuple[str, ...], dict[str, int]] = {}

    def ignores(self, role: str) -> bool:
        """Whether an option says that a role isn't to be looked at."""
        return self._told[role] is False

    @property
    def state(self) -> Kinds:
        """What kind the events are of, as JSON."""
        return dict(self._kinds)

    def restore(self, state: Any) -> None:
        """Take over a decision; one that contradicts an option is refused."""
        if not isinstance(state, dict) or set(state) != set(ROLES):
            raise ValueError(f"position: kinds = {state!r} must tell of {', '.join(ROLES)}")
        for role in ROLES:
            allowed = (None, True, False) if role in _OPTIONAL else (None, "int", "str")
            if state[role] not in allowed:
                raise ValueError(f"position: kinds[{role!r}] = {state[role]!r} must be one of {allowed}")
            told, found = self._told[role], state[role]
            if None not in (told, found) and told != found:
                name = _OPTIONAL.get(role, "ids")
                raise ValueError(f"{name} = {told!r}, but the stream's {role}s were {found!r} when it was read before")
        self._kinds = {role: state[role] if self._told[role] is None else self._told[role] for role in ROLES}

    def json(self, raw: bytes) -> Event:
        """Return the event in a JSON object, or raise MalformedError."""
        text = _decoded(raw)
        try:
            fields = _DECODER.decode(text)
        except RecursionError:
            raise MalformedError("not JSON: nested too deep") from None
        except ValueError as error:  # JSONDecodeError is one, and so are numbers of too many digits
            if text.startswith("\ufeff"):  # which nobody sees
                raise MalformedError("not JSON: unexpected UTF-8 BOM: encode it without one") from None
            raise MalformedError(f"not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise MalformedError(f"not a JSON object but {text[:40]!r}")
        nulls: list[str] = []
        if None in fields.values():
            nulls = [name for name, value in fields.items() if value is None]
            fields = {name: value for name, value in fields.items() if value is not None}
        return self.fields(tuple(fields), tuple(fields.values()), text=False, nulls=nulls)

    def fields(self, names: tuple[str, ...], values: Sequence[Any], *, text: bool, nulls: Sequence[str] = ()) -> Event:
        """Return the event of named values, or raise MalformedError; as `event`. `nulls` are names without values."""
        roles = self._roles.get(names)
        if roles is None:
            also = f"; null counts as missing, and so are {list(nulls)!r}" if nulls else ""
            try:
                roles = find_roles(names, self.columns, "fields") or {}
            except ValueError as error:
                raise MalformedError(f"{str(error)[:400]}{also[:400]}") from None
            if not roles:
                raise MalformedError(f"no field is named as users are: {list(names)!r}"[:400] + also[:400])
            if len(self._roles) >= _KEPT_NAMES:
                self._roles.clear()
            self._roles[names] = roles
        return self.event(roles, values, text=text)

    def event(self, roles: Mapping[str, int], values: Sequence[Any], *, text: bool) -> Event:
        """Return the event of values whose places are known, or raise MalformedError.

        Parameters
        ----------
        roles
            The place of each role among the values.
        values
            Strings if `text`, else what JSON or Parquet says they are.
        text
            Whether numbers are spelled out.
        """
        user = self._id("user", values[roles["user"]], text)
        item = self._id("item", values[roles["item"]], text)
        label = self._number("label", roles, values, text)
        timestamp = self._number("timestamp", roles, values, text)
        if None in self._kinds.values():
            found: Kinds = {"user": type(user).__name__, "item": type(item).__name__}
            found |= {"label": label is not None, "timestamp": timestamp is not None}
            self._kinds = {role: found[role] if kind is None else kind for role, kind in self._kinds.items()}
        return user, item, label, timestamp

    def _id(self, role: str, value: Any, text: bool) -> int | str:
        kind = self._kinds[role]
        if kind != "str":  # the usual cases first
            number = int(value) if text and INTEGER.fullmatch(value) else value
            if type(number) is int and _LEAST <= number <= _MOST:
                return number
        if isinstance(value, str) and kind != "int":
            fault = id_fault(value)
            if fault:
                raise MalformedError(f"{role} id {fault}")
            return value
        if isinstance(value, int) and not isinstance(value, bool) and kind != "str":
            if not _LEAST <= value <= _MOST:
                raise MalformedError(f"{role} id {str(value)[:40]} doesn't fit int64")
            return value
        wanted = {"int": "an integer", "str": "a string", None: "an integer or a string"}[kind]
        told = "" if kind is None else f": the {role}s of this stream are"
        raise MalformedError(f"{role} id {str(value)[:60]!r} is not {wanted}{told}")

    def _number(self, role: str, roles: Mapping[str, int], values: Sequence[Any], text: bool) -> float | None:
        if self.ignores(role):
            return None
        position = roles.get(role)
        if position is None:
            if self._kinds[role]:
                raise MalformedError(f"{role} is missing: the events of this stream have one")
            return None
        value = values[position]
        if type(value) is float and -FLOAT32_MAX <= value <= FLOAT32_MAX:
            fault = None
        elif text:
            fault = number_fault(value, role)
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            fault = f"{str(value)[:40]!r} is not a number"
        else:
            fault = _range_fault(value, role)
        if fault:
            raise MalformedError(f"{role} {fault}")
        if self._kinds[role] is False:
            name = _OPTIONAL[role]
            raise MalformedError(f"{role}: the first event of this stream had none ({name}=True says that all have)")
        return float(value)


def _range_fault(value: float, role: str) -> str | None:
    try:
        number = float(value)
    except OverflowError:
        return f"{str(value)[:40]} is out of range"
    if not math.isfinite(number):
        return f"{number} is not finite"
    return f"{number} is out of range" if role == "label" and abs(number) > FLOAT32_MAX else None


def id_column(ids: list[Any]) -> npt.NDArray[Any]:
    """Return ids of one kind as an array."""
    if not ids or isinstance(ids[0], int):
        return np.array(ids, dtype=np.int64)
    column = np.empty(len(ids), dtype=object)  # NumPy's own strings have the width of the longest
    column[:] = ids
    return column


class BatchBuilder:
    """Collects rows, good and bad."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._wheres: list[str] = []
        self._rejected: list[Rejected] = []

    def __len__(self) -> int:
        return len(self._events) + len(self._rejected)

    def add(self, event: Event, where: str) -> None:
        """Take an event."""
        self._events.append(event)
        self._wheres.append(where)

    def reject(self, raw: str, reason: str, where: str) -> None:
        """Take what is no event."""
        self._rejected.append(Rejected(raw, reason, where))

    def batch(self, position: Any) -> Batch:
        """Return the rows as columns."""
        users, items, labels, timestamps = zip(*self._events, strict=True) if self._events else ((), (), (), ())
        return Batch(
            users=id_column(list(users)),
            items=id_column(list(items)),
            labels=np.array(labels, dtype=np.float32) if labels and labels[0] is not None else None,
            timestamps=np.array(timestamps, dtype=np.float64) if timestamps and timestamps[0] is not None else None,
            wheres=self._wheres,
            position=position,
            rejected=tuple(self._rejected),
        )
