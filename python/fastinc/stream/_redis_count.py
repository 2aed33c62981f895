"""How much there ever was in a Redis stream: entries that are gone are found by counting."""

from __future__ import annotations

from typing import Any

__all__ = ["NOT_KNOWN", "EntryId", "added_up_to", "id_text", "lost_by_server", "made_anew", "parse_id", "read_by_group"]

EntryId = tuple[int, int]

#: No entry has it.
NOT_KNOWN: EntryId = (0, 0)


def parse_id(text: Any, name: str = "position: id") -> EntryId:
    """Return an entry's id as numbers."""
    text = text.decode() if isinstance(text, bytes) else text
    first, dash, second = text.partition("-") if isinstance(text, str) else ("", "", "")
    if not (dash and first.isdecimal() and second.isdecimal()):
        raise ValueError(f"{name} = {text!r} is no id of a Redis stream, such as '1700000000000-0'")
    return int(first), int(second)


def id_text(entry: EntryId) -> str:
    """Return an id as Redis writes it."""
    return f"{entry[0]}-{entry[1]}"


def added_up_to(info: dict[str, Any], last: EntryId) -> int | None:
    """Return how many entries were ever added up to one, deleted ones behind it included.

    Parameters
    ----------
    info
        Of XINFO STREAM.
    last
        The one.

    Returns
    -------
    int or None
        None where the stream doesn't tell, as before Redis 7.
    """
    if "entries-added" not in info:
        return None
    added: int = info["entries-added"]
    first = info["first-entry"]
    if parse_id(info["last-generated-id"]) <= last:
        return added
    if first is None or parse_id(first[0]) > last:
        return added - int(info["length"])
    return None  # the oldest go first, and one up to there is still there


def lost_by_server(info: dict[str, Any] | None, last: EntryId, added: int | None, there: bool | None) -> str | None:
    """Return how a stream contradicts what was read of it; None: it doesn't.

    Parameters
    ----------
    info
        Of XINFO STREAM; None: there is no stream.
    last, added
        The last entry that was read, and how many were ever added up to it, where that is known.
    there
        Whether that entry is in the stream; None: it need not be, or nobody looked.
    """
    ends = (0, 0) if info is None else parse_id(info["last-generated-id"])
    if ends < last:
        where = "is not there" if info is None else f"ends at {id_text(ends)}"
        return f"the stream {where}, and was read up to {id_text(last)}: the server lost entries"
    if info is None:
        return None
    now = added_up_to(info, last)
    if now is not None and added is not None and now < added:
        return (
            f"{now} entries were ever added up to {id_text(last)}, of which {added} were read: the server lost "
            "entries, or the stream was made anew, and how much of it was not read yet isn't known"
        )
    if now is None and there is False and parse_id(info.get("max-deleted-entry-id", id_text(last))) < last:
        return (
            f"{id_text(last)} was read, is there no more, and was neither trimmed nor deleted: the server lost "
            "entries, and how much of it was not read yet isn't known"
        )
    return None


def made_anew(
    info: dict[str, Any] | None, since: EntryId, first: EntryId | None, one_there: bool, added: int | None
) -> bool:
    """Return whether nothing that was read of a stream can be in it: it was made anew, or lost all of that.

    Ids ascend, and a server that loses entries loses the last ones. So an older state of a stream that was read from
    its beginning has the first entry of those, unless that one was trimmed or deleted, or it ends before it. Of one
    that was read from later on, the older state may be from before: what it holds was meant to be left out, or was
    read by another.

    Parameters
    ----------
    info
        Of XINFO STREAM; None: there is no stream.
    since
        The id after which it was read: 0-0 is the beginning.
    first
        The first entry that was read; NOT_KNOWN: some were, by who didn't note it. None: none was.
    one_there
        Whether that entry, or the last that was read, is in the stream.
    added
        As for `lost_by_server`. Where it isn't known the server may be one that doesn't count, or didn't then.

    Returns
    -------
    bool
        False also where it can't be told: of a stream that was not read from its beginning; of a new one from which
        entries were deleted or trimmed before anybody looked, with ids on both sides of `first`; or one that has an
        entry with the very id of the first or the last.
    """
    if info is None:
        return True
    if first is None or first == NOT_KNOWN or since > (0, 0) or one_there:
        return False
    if parse_id(info["last-generated-id"]) < first:
        return True
    return added is not None and info.get("entries-added") == info["length"]


def read_by_group(row: dict[str, Any], info: dict[str, Any]) -> int | None:
    """Return how many entries were ever added up to the last one that a group of one consumer read.

    Parameters
    ----------
    row, info
        Of XINFO GROUPS, and of XINFO STREAM, then or later.

    Returns
    -------
    int or None
        None where it isn't known. The group's own count may be behind: Redis 7.0 doesn't write it to its AOF, and a
        server that was killed has an older one. It is taken where it contradicts nothing; and where nothing behind
        that entry is gone yet, only if all that the group ever read may still be pending, as after a first run.
    """
    if row.get("consumers", 2) > 1 or "entries-added" not in info:
        return None
    last, ends = parse_id(row["last-delivered-id"]), parse_id(info["last-generated-id"])
    added, count = int(info["entries-added"]), row.get("entries-read")
    if last == ends:
        return added
    if last > ends or count is None:
        return None
    most, least = added_up_to(info, last), int(row["pending"])
    if most is None:
        gone = added - int(info["length"])
        most = min(added - 1, gone + int(row["pending"]))
        if parse_id(info["max-deleted-entry-id"]) <= last:  # what is gone was before it
            least = max(least, gone + 1)
    return int(count) if least <= count <= most else None
