"""Redis Streams, by consumer groups."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from fastinc._arguments import as_choice
from fastinc._extras import require
from fastinc.stream._backoff import Backoff
from fastinc.stream._events import BatchBuilder, Event, MalformedError, text_of
from fastinc.stream._redis_client import BLOCK, check_url, make_client
from fastinc.stream._redis_count import (
    NOT_KNOWN,
    EntryId,
    added_up_to,
    id_text,
    lost_by_server,
    made_anew,
    parse_id,
    read_by_group,
)
from fastinc.stream._source import Batch, GapError, Source, check_read, log
from fastinc.stream._url import server_options, without_password

__all__ = ["RedisSource"]

#: Its id, and its fields: a name, a value, a name, ...; none where it was deleted.
Entry = tuple[bytes, "list[bytes] | None"]

#: Errors of a server that is not ready, or of a group that has to be made again: they pass.
_PASSING = re.compile(
    r"(.* caused error: )?"
    r"(NOGROUP|LOADING|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|MISCONF|OOM|READONLY|UNBLOCKED|NOREPLICAS|BUSY|no such key)\b"
)
#: Entries acknowledged at a time, and those at most whose ids are held until they are: a stream of which every entry
#: is rejected has no end of them.
_PAGE = 1000
_HELD = 50 * _PAGE
_OPTIONS = dict.fromkeys(("stream", "group", "consumer", "start", "payload"), str)


class RedisSource(Source):
    """Events in a Redis stream, read as one consumer of a group; see `fastinc.stream.open`, which makes one of a URL.

    An entry's fields are an event's: ``XADD clicks * user 7 item tea timestamp 1700000000``. Needs the extra ``redis``.

    A model that is to learn *all* events needs a group of its own, with one consumer: the entries of a group are shared
    out among its consumers. Entries stay pending in the group until they are in a saved state. After a restart they
    come again, and those that are in it are recognised by the saved position (and acknowledged), also when the server
    lost what it knew of the group. The position is what counts: an older state that was restored gets the entries after
    it once more, if its consumer is the group's only one. Don't claim entries for this consumer (XCLAIM): those before
    its position count as applied.

    A lost connection is waited for, at growing intervals up to 10 seconds; a server that doesn't answer holds up a
    `read` for 1.5 seconds at most (or as long as you say by ``socket_timeout`` and ``socket_connect_timeout``),
    whatever its timeout is; one that answers late may take that for each of a few commands.

    Entries that were trimmed (MAXLEN) before they were read are a gap: see `on_gap`. So is a server that has lost
    entries which were read, or a stream that was deleted, also where new ones have come since. It is seen by counting
    entries, which takes Redis 7, and a group that has no other consumer; without a position the group's own count
    tells, as far as it is known. Entries deleted one by one are counted as `lost` and rejected where they come as
    pending, and else seen as a gap. What nobody can see is that a server lost its last entries and nobody had read
    them: that takes ``appendfsync always``.

    With "skip" a stream that was made anew is read from its beginning, also where its ids are lower, as after a clock
    was set back. It is known by this: the old one was read from its beginning, its first and its last entry that were
    read aren't there, and the new one ends before that first, or nothing was trimmed or deleted from it. Else, as with
    ``start="$"`` or a group that others read before, it may be an older state of the same stream: what is in it then,
    up to the last id that was read, is left out rather than learned twice; what comes from then on is read, and the log
    says from where. A stream that was moved away and back (RENAME) is such a new one if a read met
    none in between, and comes twice.

    A user of the server with an ACL needs the stream's key and ``+multi +exec +xinfo +xgroup +xreadgroup +xrange
    +xpending +xack`` (and ``+select`` for a database other than 0).

    Nothing is read ahead: the client holds the entries of one read.

    Parameters
    ----------
    url
        ``redis://[user:password@]host:port/db``, ``rediss://...`` or ``unix:///path?db=0``. Its query may hold the
        options below (but `columns`), and of those of `redis.Redis` ``db``, ``username``, ``password``,
        ``client_name``, ``max_connections``, ``health_check_interval``, ``socket_timeout`` (more than 0.5 s),
        ``socket_connect_timeout``, ``socket_read_size``; unless it is unix, ``socket_keepalive``; and if it is rediss,
        ``ssl_keyfile``, ``ssl_certfile``, ``ssl_password``, ``ssl_ca_certs``, ``ssl_ca_path``, ``ssl_ca_data``,
        ``ssl_cert_reqs``, ``ssl_check_hostname``, ``ssl_min_version``, ``ssl_ciphers``. Others are refused.
    stream
        The stream's key. Needed.
    group, consumer
        Names, each "fastinc" by default. The consumer's must be the same after a restart.
    start
        Where a group that doesn't exist yet begins: "0", with all there is, or "$", with what comes.
    payload
        The field that holds the event as a JSON object; None: the fields are the event's.
    on_gap
        "raise" GapError, or "skip": log it, count what was `lost`, as far as known, and go on.
    retry_seconds
        Raise ConnectionError when the server has been away for so long; None: never.
    columns, ids, labels, timestamps
        As for `fastinc.stream.FileSource`. Redis knows only text: an id is an integer if it is spelled as one.

    Examples
    --------
    >>> import fastinc as fi
    >>> source = fi.stream.open("redis://localhost:6379/0?stream=clicks&group=model-1")  # doctest: +SKIP
    >>> source.read(1000, timeout=1.0)  # doctest: +SKIP
    """

    def __init__(
        self,
        url: str,
        *,
        stream: str | None = None,
        group: str | None = None,
        consumer: str | None = None,
        start: Literal["0", "$"] | None = None,
        payload: str | None = None,
        on_gap: Literal["raise", "skip"] | None = None,
        retry_seconds: float | None = None,
        columns: Mapping[str, str] | None = None,
        ids: Literal["int", "str"] | None = None,
        labels: bool | None = None,
        timestamps: bool | None = None,
    ) -> None:
        own = {"stream": stream, "group": group, "consumer": consumer, "start": start, "payload": payload}
        gaps = {"on_gap": on_gap, "retry_seconds": retry_seconds}
        events = {"ids": ids, "labels": labels, "timestamps": timestamps}
        told = server_options(url, {**own, **gaps, **events}, _OPTIONS, columns)
        options = told.own
        check_url(told.parts, told.rest)
        if "stream" not in options:
            raise ValueError(f"stream is needed, as in {without_password(told.parts)}?stream=NAME")
        self._stream: str = options["stream"]
        self._group: str = options.get("group", "fastinc")
        self._consumer: str = options.get("consumer", "fastinc")
        self._start = as_choice(options.get("start", "0"), "start", ("0", "$"))
        self._payload: bytes | None = options["payload"].encode() if "payload" in options else None
        self._parser, self._skip_gaps = told.parser, told.skip_gaps
        self.name = f"{without_password(told.parts)}?stream={self._stream}&group={self._group}"
        self._backoff = Backoff(self.name, told.retry_seconds)
        self._errors = require("redis.exceptions", extra="redis", purpose="reading from Redis")
        self._client = make_client(told.parts, told.rest, self._connected)
        self._last: EntryId | None = None  # read; what is up to there never comes again
        self._has_read = False  # that one was read; else reading begins behind it
        self._since: EntryId = (0, 0)  # where reading began, in this run or the first of those before
        self._first: EntryId | None = None  # that was read of this stream, in this run or those before
        self._saved: EntryId | None = None  # told by seek or commit
        self._added: int | None = None  # entries ever added up to the last, where known
        self._unacknowledged: list[EntryId] = []  # up to _HELD; the group's own list has them all
        self._owed: EntryId | None = None  # up to there entries may be pending that it has not
        self._ready = self._new = False  # the group is there; all that was pending has been read
        self._connections = self._prepared = 0  # how many there have been, and what that was then
        self._looked = False  # at what is new, before it is read
        self._sought = False  # and since then there has been no connection

    # --- the connection ------------------------------------------------------------------------------------

    def _connected(self) -> None:
        self._connections += 1

    def _failed(self, error: Exception) -> None:
        """Make ready for another attempt after an error that passes; raise others as ValueError."""
        refused = isinstance(error, (self._errors.AuthenticationError, self._errors.AuthorizationError))
        passing = isinstance(error, (self._errors.ConnectionError, self._errors.TimeoutError, OSError))
        passing = passing or type(error).__name__ in ("ReadOnlyError", "OutOfMemoryError")
        if refused or not (passing or _PASSING.match(str(error))):
            raise ValueError(f"{self.name}: {error}") from error
        self._ready = False
        self._client.connection_pool.disconnect()
        self._backoff.failed(error)

    def _prepare(self) -> None:
        """Find or make the group, acknowledge what is saved, and begin with what is pending."""
        self._ready = False  # until it is done: what it raises, each read does
        info, last_there, first_there = self._stream_info()
        self._prepared, self._looked = self._connections, False
        there = last_there if self._has_read else None
        lost = None if self._last is None else lost_by_server(info, self._last, self._added, there)
        if lost is not None:
            self._gap(lost)
            self._go_behind(info, made_anew(info, self._since, self._first, first_there or last_there, self._added))
        elif not info:
            log.warning("%s: there is no stream of that name yet: it is waited for", self.name)
        if info and "entries-added" not in info:
            self._added = None
        begin = self._begin(info) if self._last is None else self._last
        made = self._make_group(begin)
        if made and self._last is None:
            if info and "entries-added" in info:
                self._added = info["entries-added"] - (0 if self._start == "$" else info["length"])
            self._last = self._since = begin
        row = {} if made else self._row()
        if self._last is None:
            self._since = parse_id(row["last-delivered-id"]) if row else (0, 0)
            self._tell_of_history()
        if self._saved is not None:
            self.redelivered += self._acknowledge_saved(self._saved)
        self._new = self._sought and not made and self._take_group_along(row, info or {})
        if row and not self._sought:
            self._mend_counter(row)
        self._ready, self._sought = True, False
        self._backoff.succeeded()

    def _go_behind(self, info: dict[str, Any] | None, anew: bool) -> None:
        """Go on after entries that the server lost: with all that is there, or what may not have been read yet."""
        assert self._last is not None
        ends = parse_id(info["last-generated-id"]) if info else (0, 0)
        self._has_read, was = False, self._last
        if anew:
            self._last, self._since, self._first = (0, 0), (0, 0), None
            self._added = 0 if info or self._added is not None else None  # a server that never counted takes no count
            self._saved, self._unacknowledged, self._owed = None, [], None  # these are gone
        elif ends < was:  # what comes has ids after that
            self._last, self._added = ends, (info or {}).get("entries-added")
            self._saved, self._owed = (None if e is None else min(e, ends) for e in (self._saved, self._owed))
            self._unacknowledged = [entry for entry in self._unacknowledged if entry <= ends]
        else:
            self._added = None
        # The group may be anywhere, and is to be there, too.
        self._sought = self._sought or self._last != was
        what = "what is there up to that may have been read before, and is left out"
        log.warning(
            "%s: going on %s", self.name, "at the beginning" if anew else f"after {id_text(self._last)}: {what}"
        )

    def _begin(self, info: dict[str, Any] | None) -> EntryId:
        return parse_id(info["last-generated-id"]) if info and self._start == "$" else (0, 0)

    def _take_group_along(self, row: dict[str, Any], info: dict[str, Any]) -> bool:
        """Have the group go on from the position, wherever it is: a state of before may have been restored."""
        assert self._last is not None
        if not _alone(row):
            log.warning(
                "%s: the group has other consumers: what was acknowledged after the position is gone", self.name
            )
            return False
        if self._added is None and row and parse_id(row["last-delivered-id"]) == self._last:
            self._added = read_by_group(row, info)
        self._client.xgroup_setid(self._stream, self._group, id_text(self._last), entries_read=self._added)
        return True

    def _mend_counter(self, row: dict[str, Any]) -> None:
        """Tell the group how much it has read, which a server that was killed may have forgotten: its lag is wrong."""
        if self._last is None or self._added is None or not _alone(row):
            return
        if parse_id(row["last-delivered-id"]) == self._last and row.get("entries-read") != self._added:
            self._client.xgroup_setid(self._stream, self._group, id_text(self._last), entries_read=self._added)

    def _stream_info(self) -> tuple[dict[str, Any] | None, bool, bool]:
        """Return what the stream is, None where it isn't there, and whether the last and the first read are in it."""
        with self._client.pipeline(transaction=True) as all_at_once:  # nothing is trimmed in between
            all_at_once.xinfo_stream(self._stream)
            for place in (id_text(self._last or (0, 0)), id_text(self._first or NOT_KNOWN)):
                all_at_once.xrange(self._stream, place, place)
            info, last, first = answers = all_at_once.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception):
                if "no such key" in str(answer):
                    return None, False, False
                raise answer
        return info, bool(last), bool(first)

    def _make_group(self, begin: EntryId) -> bool:
        added = None if self._last is None else self._added
        try:
            self._client.xgroup_create(self._stream, self._group, id=id_text(begin), mkstream=True, entries_read=added)
        except self._errors.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
            return False
        if self._last is not None:
            log.warning("%s: the group was gone; it begins again at %s", self.name, id_text(begin))
        return True

    def _row(self) -> dict[str, Any]:
        """Return what the server knows of the group; empty: there is none."""
        groups: list[dict[str, Any]] = self._client.xinfo_groups(self._stream)
        return next((group for group in groups if group["name"] == self._group.encode()), {})

    def _tell_of_history(self) -> None:
        if self._since > (0, 0):
            text = "%s: the group was read up to %s before, by nobody whose position is known: it goes on after that"
            log.warning(text, self.name, id_text(self._since))

    def _acknowledge_saved(self, saved: EntryId) -> int:
        """Acknowledge what is pending and in the saved state, and return how much: an acknowledgement was lost."""
        n = 0
        while True:
            found = self._client.xpending_range(
                self._stream, self._group, "-", id_text(saved), _PAGE, consumername=self._consumer
            )
            if not found:
                if self._owed is not None and self._owed <= saved:
                    self._owed = None
                return n
            self._client.xack(self._stream, self._group, *(entry["message_id"] for entry in found))
            n += len(found)

    def _gap(self, what: str, count: int = 0) -> None:
        if not self._skip_gaps:
            raise GapError(f"{self.name}: {what} (on_gap='skip' goes on behind it)")
        log.error("%s: %s", self.name, what)
        self.lost += count

    # --- the stream ----------------------------------------------------------------------------------------

    def seek(self, position: Any) -> None:
        """Go on after a batch; see `Source.seek`. Gaps are found by the next `read`."""
        self._check_open()
        if not isinstance(position, dict) or position.get("stream") != self._stream:
            raise ValueError(f"position = {position!r} is not one of the Redis stream {self._stream!r}")
        last, added = parse_id(position.get("id")), position.get("added")
        if added is not None and type(added) is not int:
            raise ValueError(f"position: added = {added!r} must be a whole number or None")
        since = parse_id(position.get("since", id_text(NOT_KNOWN)), "position: since")
        first = parse_id(position.get("first", id_text(NOT_KNOWN)), "position: first")
        if "since" not in position:  # of a version that didn't note it: what comes before the first isn't known
            first = NOT_KNOWN
        self._parser.restore(position.get("kinds"))
        self._last = self._saved = last
        self._added, self._has_read, self._since, self._first = added, True, since, first
        self._unacknowledged, self._owed = [], None
        self._ready, self._sought = False, True

    def read(self, max_events: int, timeout: float) -> Batch | None:
        """Return the next events; see `Source.read`."""
        most, seconds = check_read(max_events, timeout)
        self._check_open()
        deadline = time.monotonic() + seconds
        while True:
            if self._backoff.wait(max(deadline - time.monotonic(), 0.0)):
                builder = BatchBuilder()
                try:
                    if not self._ready:
                        self._prepare()
                    self._take(builder, self._fetch(most, max(deadline - time.monotonic(), 0.0)))
                except (self._errors.RedisError, OSError) as error:
                    self._failed(error)
                if len(builder):
                    assert self._last is not None
                    place = {
                        "id": id_text(self._last),
                        "added": self._added,
                        "since": id_text(self._since),
                        "first": id_text(self._first or NOT_KNOWN),
                    }
                    return builder.batch({"stream": self._stream, **place, "kinds": self._parser.state})
            if time.monotonic() >= deadline:
                return None

    def _fetch(self, most: int, seconds: float) -> list[Entry]:
        """Return entries: first all that are pending, then new ones."""
        if not self._new:
            after = id_text(self._last or (0, 0))
            pending = self._entries(self._client.xreadgroup(self._group, self._consumer, {self._stream: after}, most))
            if pending:
                return pending
            self._new = True
        if (not self._looked or self._saved is None) and not self._look():
            self._prepare()
            return self._fetch(most, seconds)
        # One step for the server: nothing is trimmed between the look at what there is and the read.
        with self._client.pipeline(transaction=True) as both:
            both.xinfo_stream(self._stream)
            both.xreadgroup(self._group, self._consumer, {self._stream: ">"}, most)
            info, reply = both.execute(raise_on_error=False)
        if self._connections != self._prepared:
            # It may be a server that has lost something; these entries come again, as pending ones.
            self._prepare()
            if self._connections != self._prepared:
                raise self._errors.ConnectionError("the server closes connections again and again")
            return self._fetch(most, seconds)
        for answer in (reply, info):
            if isinstance(answer, Exception):
                raise answer
        if not self._check_count(info):
            self._prepare()
            return self._fetch(most, seconds)
        entries = self._entries(reply)
        wait = int(1000 * min(seconds, BLOCK))
        if entries or not wait:
            return entries
        return self._entries(
            self._client.xreadgroup(self._group, self._consumer, {self._stream: ">"}, most, block=wait)
        )

    def _entries(self, reply: Any) -> list[Entry]:
        return reply[0][1] if reply else []

    def _look(self) -> bool:
        """Find a gap before entries behind it are read: a run without a saved position is to find it again.

        Returns as `_check_count`.
        """
        row = self._row() if self._added is None else {}
        info = self._client.xinfo_stream(self._stream)
        self._count_from(row, info)
        self._looked = self._check_count(info)
        return self._looked

    def _count_from(self, row: dict[str, Any], info: dict[str, Any]) -> None:
        """Begin to count where the group is: without a position nothing else tells what was trimmed since."""
        added = read_by_group(row, info) if row else None
        if added is None:
            return
        delivered = parse_id(row["last-delivered-id"])
        if self._last is None or self._last < delivered:  # others acknowledged what was between
            self._last, self._has_read = delivered, False
            self._since = delivered if self._first is None else self._since
        if self._last == delivered:
            self._added = added

    def _check_count(self, info: dict[str, Any]) -> bool:
        """Count: what was added up to the last entry read, and what is there behind it, must be all that ever was.

        Returns whether it can be read on; else the server lost entries, and `_prepare` has to find where that is.
        """
        if self._last is None:
            return True
        if lost_by_server(info, self._last, self._added, None) is not None:
            return False
        added = added_up_to(info, self._last)
        if added is None:
            return True
        missing = 0 if self._added is None else added - self._added
        if missing > 0 and _alone(self._row()):
            what = f"{missing} entries after {id_text(self._last)} were trimmed or deleted before they were read"
            self._gap(what, missing)
        self._added = added
        return True

    def _take(self, builder: BatchBuilder, entries: list[Entry]) -> None:
        for name, fields in entries:
            entry = parse_id(name)
            if len(self._unacknowledged) == _HELD:
                self._owed, self._unacknowledged = self._unacknowledged[-1], []
            self._unacknowledged.append(entry)
            if self._last is not None and entry <= self._last:
                self.redelivered += 1
                continue
            self._last, self._has_read = entry, True
            self._first = self._first or entry
            if self._added is not None:
                self._added += 1
            where = f"{self._stream} {id_text(entry)}"
            if not fields:  # an entry has at least one
                self.lost += 1
                builder.reject("", "the entry was trimmed or deleted before it was read", where)
                continue
            try:
                builder.add(self._event(fields), where)
            except MalformedError as error:
                builder.reject(_as_json(fields), str(error), where)

    def _event(self, fields: list[bytes]) -> Event:
        by_name = dict(_pairs(fields))
        if 2 * len(by_name) < len(fields):
            twice = next(name for name in by_name if fields[::2].count(name) > 1)
            raise MalformedError(f"the field {text_of(twice)!r} comes twice"[:500])
        if self._payload is not None:
            if self._payload not in by_name:
                raise MalformedError(f"no field {text_of(self._payload)!r} among {list(map(text_of, by_name))}"[:500])
            return self._parser.json(by_name[self._payload])
        try:
            names, values = zip(*((name.decode(), value.decode()) for name, value in by_name.items()), strict=True)
        except UnicodeDecodeError as error:
            raise MalformedError(f"is not UTF-8: {error.object[:40]!r}") from None
        return self._parser.fields(names, values, text=True)

    def commit(self, position: Any) -> None:
        """Acknowledge entries; see `Source.commit`. What fails is logged, and made good later."""
        saved = parse_id(position["id"])
        if self._last is not None and saved > self._last:
            return  # of a stream that was made anew since: its ids say nothing of the entries that are there now
        self._saved = saved
        done = [id_text(entry) for entry in self._unacknowledged if entry <= saved]
        self._unacknowledged = [entry for entry in self._unacknowledged if entry > saved]
        if not self._ready:
            return
        try:
            if self._owed is not None:
                self._acknowledge_saved(saved)
            for begin in range(0, len(done), _PAGE):
                self._client.xack(self._stream, self._group, *done[begin : begin + _PAGE])
        except (self._errors.RedisError, OSError) as error:
            self._owed = max(self._owed or saved, saved)
            try:
                self._failed(error)
            except (ValueError, ConnectionError) as failure:
                log.warning("%s: entries were not acknowledged (nothing is lost: they are saved)", failure)

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._client.close()


def _alone(row: dict[str, Any]) -> bool:
    """Return whether a group, of XINFO GROUPS, has one consumer at most."""
    return int(row.get("consumers", 0)) <= 1


def _pairs(fields: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(fields[::2], fields[1::2], strict=True)


def _as_json(fields: list[bytes]) -> str:
    """Return all fields as a JSON object, also those that come twice."""
    texts = (f"{json.dumps(text_of(name))}: {json.dumps(text_of(value))}" for name, value in _pairs(fields))
    return "{" + ", ".join(texts) + "}"
