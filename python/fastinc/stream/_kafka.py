"""Kafka topics."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from fastinc._arguments import as_choice, as_whole
from fastinc._extras import require
from fastinc.stream._backoff import Backoff, Told, times
from fastinc.stream._events import BatchBuilder, MalformedError, text_of
from fastinc.stream._source import Batch, GapError, Source, check_read, log
from fastinc.stream._url import server_options, without_password

__all__ = ["KafkaSource"]

#: What the client fetches ahead of what is asked for, all partitions together: 16 MiB and a fetch of 4.
_BOUNDS = {"queued.max.messages.kbytes": 16_384, "fetch.max.bytes": 4 << 20, "fetch.message.max.bytes": 1 << 20}
#: Seconds between two looks for new partitions, and that an answer may take.
_LOOK = 30.0
_ANSWER = 5.0
#: What an answer may take at least, however short the read is: who asks again and again gets none from a slow broker.
#: After each that took longer it's twice as much, up to `_ANSWER`.
_ASKED = 1.0
#: And that however soon `retry_seconds` gives up.
_LEAST_ANSWER = 0.5
#: Without messages and errors for so long after partitions were assigned, there are none: what fails every time, such
#: as a batch with a wrong CRC, has failed by then.
_QUIET = 1.0


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _as_partitions(wanted: Any) -> list[int]:
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        raise TypeError(f"partitions = {wanted!r} must be numbers of partitions")
    numbers = sorted({as_whole(number, "partitions") for number in wanted})
    if not numbers:
        raise ValueError(f"partitions = {wanted!r} names none; None: all")
    return numbers


_OPTIONS: dict[str, Callable[[str], Any]] = {"group": str, "partitions": _numbers, "start": str}


class KafkaSource(Source):
    """Events in a Kafka topic, as JSON objects; see `fastinc.stream.open`, which makes one of a URL.

    Needs the extra ``kafka``. All partitions are read (or those that are named), by assignment: there is no
    rebalancing, and every reader needs a group of its own, which is only where offsets are committed for others to see.
    What counts is the position that is saved with the model. Events of one partition come in order; those of several
    come as they are fetched, so only topics of one partition give the same bytes again when they are read again.
    Messages whose offset is before the position are recognised and left out.

    Where no broker answers, a `read` takes its timeout, or one second where that is less; after a few, five.

    The client fetches ahead up to 16 MiB, and one fetch of up to 4 MiB more (or a single larger message).

    Parameters
    ----------
    url
        ``kafka://broker:9092,broker:9092/topic``. Its query may hold the options below (but `columns` and `config`),
        and settings of librdkafka, such as ``security.protocol=ssl``.
    group
        The consumer group's name; "fastinc" by default.
    partitions
        Which to read, one at least; None: all, also those that are added later.
    start
        Where to begin without a position: "earliest" or "latest".
    on_gap
        Where the broker no longer has what comes next (retention), or has not got that far (it lost messages, or the
        topic was made anew): "raise" GapError, or "skip": log it, count what was `lost`, and go on behind it. A topic
        that was made anew and has already got further isn't noticed.
    retry_seconds
        Raise ConnectionError when no broker has answered for so long at the beginning or after a gap (half a second at
        least); None: never.
    config
        Settings of librdkafka that don't belong in a URL, such as passwords.
    columns, ids, labels, timestamps
        As for `fastinc.stream.FileSource`.

    Examples
    --------
    >>> import fastinc as fi
    >>> source = fi.stream.open("kafka://localhost:9092/clicks?group=model-1")  # doctest: +SKIP
    >>> source.read(1000, timeout=1.0)  # doctest: +SKIP
    """

    def __init__(
        self,
        url: str,
        *,
        group: str | None = None,
        partitions: Sequence[int] | None = None,
        start: Literal["earliest", "latest"] | None = None,
        on_gap: Literal["raise", "skip"] | None = None,
        retry_seconds: float | None = None,
        config: Mapping[str, Any] | None = None,
        columns: Mapping[str, str] | None = None,
        ids: Literal["int", "str"] | None = None,
        labels: bool | None = None,
        timestamps: bool | None = None,
    ) -> None:
        own = {"group": group, "partitions": partitions, "start": start}
        gaps = {"on_gap": on_gap, "retry_seconds": retry_seconds}
        events = {"ids": ids, "labels": labels, "timestamps": timestamps}
        told = server_options(url, {**own, **gaps, **events}, _OPTIONS, columns)
        parts, options, settings = told.parts, told.own, told.rest
        self._topic = parts.path.strip("/")
        if not self._topic or "/" in self._topic or not parts.netloc or "@" in parts.netloc:
            raise ValueError(f"url = {without_password(parts)!r} must be kafka://broker[,broker]/topic")
        unknown = [name for name in settings if "." not in name]
        if unknown:
            raise ValueError(f"{unknown[0]} is no option of a kafka:// URL")
        wanted = options.get("partitions")
        self._wanted = None if wanted is None else _as_partitions(wanted)
        self._start = as_choice(options.get("start", "earliest"), "start", ("earliest", "latest"))
        self._parser, self._skip_gaps = told.parser, told.skip_gaps
        self.name = f"kafka://{parts.netloc}/{self._topic}"
        self._backoff, self._told = Backoff(self.name, told.retry_seconds), Told()
        self._kafka = require("confluent_kafka", extra="kafka", purpose="reading from Kafka")
        self._consumer = self._connect(parts.netloc, options.get("group", "fastinc"), {**settings, **(config or {})})
        self._offsets: dict[int, int] = {}  # of the next message, by partition
        self._found: dict[int, int] = {}  # the same, of those that are not assigned yet
        self._ready = False  # partitions are assigned
        self._fresh = True  # and none was before
        self._error: Any = None  # that came behind messages which were good; the next read meets it
        self._looked = self._assigned = 0.0
        self._asked = _ASKED

    def _connect(self, brokers: str, group: str, settings: dict[str, Any]) -> Any:
        must = {
            "bootstrap.servers": brokers,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": False,
        }
        for name in must:
            if name in settings:
                raise ValueError(f"config: {name} is not yours to set")
        told = {"error_cb": self._told_error, "on_commit": self._told_commit}
        try:
            return self._kafka.Consumer({**_BOUNDS, **must, **told, **settings}, logger=_Client(self._warn))
        except self._kafka.KafkaException as error:
            raise ValueError(f"config: {error.args[0].str()}") from error

    def _warn(self, text: str) -> None:
        """Tell what the client says, the same at most once in 10 s."""
        count = self._told.due(text.partition(" (after ")[0])  # what follows is milliseconds and the like
        if count:
            log.warning("%s: %s%s", self.name, text, times(count))

    def _told_error(self, error: Any) -> None:
        self._warn(error.str())

    def _told_commit(self, error: Any, _partitions: Any) -> None:
        if error is not None:
            log.warning("%s: offsets were not committed (nothing is lost: they are saved): %s", self.name, error.str())

    # --- partitions ----------------------------------------------------------------------------------------

    def _answer(self, left: float) -> float:
        """Return the seconds that an answer may take, where the read has so many left."""
        return min(_ANSWER, max(left, self._asked), max(self._backoff.left, _LEAST_ANSWER))

    def _partitions(self, left: float) -> list[int]:
        """Ask a broker which partitions to read."""
        topic = self._consumer.list_topics(self._topic, timeout=self._answer(left)).topics[self._topic]
        if topic.error is not None:
            raise self._kafka.KafkaException(topic.error)
        there = sorted(topic.partitions)
        if self._wanted is None:
            self._check_gone(there)
            return there
        missing = sorted(set(self._wanted) - set(there))
        if missing:
            raise ValueError(f"{self.name}: partitions = {self._wanted}, and there is no {missing[0]}")
        return self._wanted

    def _check_gone(self, there: list[int]) -> None:
        """Partitions are only ever added: where one is missing that was read, the topic was made anew."""
        gone = sorted(set(self._offsets) - set(there))
        if gone:
            self._gap(f"there is no partition {gone[0]} any more, and {self._offsets[gone[0]]} is next in it")
            self._offsets = {partition: offset for partition, offset in self._offsets.items() if partition in there}
            self._ready = False

    def _assign(self, deadline: float) -> bool:
        """Go to where every partition is to be read from; what isn't there is a gap.

        Returns whether it's done; else the next call goes on with the other partitions.
        """
        deadline = max(deadline, time.monotonic() + self._asked)
        partitions = self._partitions(deadline - time.monotonic())
        left = deadline - time.monotonic()
        for partition in partitions:
            if partition in self._found:
                continue
            place = self._kafka.TopicPartition(self._topic, partition)
            low, high = self._consumer.get_watermark_offsets(place, timeout=self._answer(left), cached=False)
            self._found[partition] = self._begin(partition, low, high)
            left = deadline - time.monotonic()
            if left <= 0.0:
                break
        if not self._found.keys() >= set(partitions):
            return False
        offsets, self._found = {partition: self._found[partition] for partition in partitions}, {}
        self._offsets = {**self._offsets, **offsets}
        self._consumer.assign([self._kafka.TopicPartition(self._topic, *entry) for entry in offsets.items()])
        self._ready, self._fresh = True, False
        self._looked = self._assigned = time.monotonic()
        return True

    def _begin(self, partition: int, low: int, high: int) -> int:
        offset = self._offsets.get(partition)
        if offset is None:
            return high if self._fresh and self._start == "latest" else low
        if low <= offset <= high:
            return offset
        self._gap(f"partition {partition} has offsets {low} to {high}, and {offset} is next", max(low - offset, 0))
        self._offsets[partition] = low if offset < low else high  # told and counted, also where it's asked for again
        return self._offsets[partition]

    def _gap(self, what: str, count: int = 0) -> None:
        if not self._skip_gaps:
            raise GapError(f"{self.name}: {what} (on_gap='skip' goes on behind the gap)")
        log.error("%s: %s", self.name, what)
        self.lost += count

    def _look_for_partitions(self, left: float) -> None:
        if self._wanted is not None or time.monotonic() - self._looked < _LOOK:
            return
        self._looked = time.monotonic()
        new = set(self._partitions(left)) - set(self._offsets)
        if new:
            log.warning("%s: reading the new partitions %s, too", self.name, sorted(new))
            self._ready = False

    # --- the stream ----------------------------------------------------------------------------------------

    def seek(self, position: Any) -> None:
        """Go on after a batch; see `Source.seek`. Gaps are found by the next `read`."""
        self._check_open()
        if not isinstance(position, dict) or position.get("topic") != self._topic:
            raise ValueError(f"position = {position!r} is not one of the Kafka topic {self._topic!r}")
        offsets = position.get("offsets")
        if not isinstance(offsets, dict) or not all(
            str(partition).isdecimal() and type(offset) is int and offset >= 0 for partition, offset in offsets.items()
        ):
            raise ValueError(f"position: offsets = {offsets!r} must be offsets by partition")
        self._parser.restore(position.get("kinds"))
        self._offsets = {int(partition): offset for partition, offset in offsets.items()}
        self._found, self._error = {}, None
        self._ready = self._fresh = False

    def read(self, max_events: int, timeout: float) -> Batch | None:
        """Return the next events; see `Source.read`."""
        most, seconds = check_read(max_events, timeout)
        self._check_open()
        deadline = time.monotonic() + seconds
        while True:
            builder = BatchBuilder()
            began = time.monotonic()
            if self._backoff.wait(max(deadline - time.monotonic(), 0.0)):
                try:
                    self._raise_error()
                    if self._ready:
                        self._look_for_partitions(deadline - time.monotonic())
                    if self._ready or self._assign(deadline):
                        self._take(builder, self._fetch(most, max(deadline - time.monotonic(), 0.0)))
                    if self._ready and (len(builder) or time.monotonic() - self._assigned >= _QUIET):
                        self._backoff.succeeded()
                except self._kafka.KafkaException as error:
                    self._consumer.poll(0.0)  # says what it has to; a message comes again, as all is assigned anew
                    self._failed(error.args[0], began)
            if len(builder):
                offsets = {str(partition): offset for partition, offset in sorted(self._offsets.items())}
                position = {"topic": self._topic, "offsets": offsets, "kinds": self._parser.state}
                return builder.batch(position)
            if time.monotonic() >= deadline:
                return None

    def _fetch(self, most: int, seconds: float) -> list[Any]:
        """Return messages as soon as there is one."""
        first = self._consumer.poll(seconds)
        if first is None:
            return []
        return [first, *(self._consumer.consume(most - 1, timeout=0.0) if most > 1 else ())]

    def _failed(self, error: Any, since: float | None = None) -> None:
        """Make ready for another attempt after an error that passes; raise others."""
        self._ready, self._found = False, {}
        kinds = self._kafka.KafkaError
        if error.code() in (kinds._TIMED_OUT, kinds._TRANSPORT):  # the latter where there is no connection yet
            self._asked = min(2.0 * self._asked, _ANSWER)
        for_ever = [kinds.TOPIC_AUTHORIZATION_FAILED, kinds.GROUP_AUTHORIZATION_FAILED, kinds._AUTHENTICATION]
        for_ever += [kinds.TOPIC_EXCEPTION, kinds.CLUSTER_AUTHORIZATION_FAILED]
        if error.fatal() or error.code() in for_ever:
            raise ValueError(f"{self.name}: {error.str()}")
        self._backoff.failed(self._kafka.KafkaException(error), since)

    def _take(self, builder: BatchBuilder, messages: list[Any]) -> None:
        failed = None
        behind: set[int] = set()  # partitions that have failed: what else is here of them comes again
        for message in messages:
            partition = message.partition()
            if message.error() is not None:
                failed = message.error()
                behind |= {partition} if partition in self._offsets else self._offsets.keys()
                continue
            if partition in behind:  # its offset would go over what failed
                continue
            offset, raw = message.offset(), message.value()
            if offset < self._offsets[partition]:
                self.redelivered += 1
                continue
            self._offsets[partition] = offset + 1
            where = f"{self._topic}[{partition}]@{offset}"
            try:
                if raw is None:
                    raise MalformedError("the message has no value")
                builder.add(self._parser.json(raw), where)
            except MalformedError as error:
                builder.reject("" if raw is None else text_of(raw), str(error), where)
        if failed is None:
            return
        self._ready = False  # assigning finds a gap
        if failed.code() not in (self._kafka.KafkaError._AUTO_OFFSET_RESET, self._kafka.KafkaError.OFFSET_OUT_OF_RANGE):
            self._error = failed

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise self._kafka.KafkaException(error)

    def commit(self, position: Any) -> None:
        """Commit offsets to the group, for others to see; see `Source.commit`. Failures are logged."""
        places = [
            self._kafka.TopicPartition(self._topic, int(partition), offset)
            for partition, offset in position["offsets"].items()
        ]
        try:
            self._consumer.commit(offsets=places, asynchronous=True)
        except self._kafka.KafkaException as error:
            self._told_commit(error.args[0], places)

    def close(self) -> None:
        """Leave the brokers."""
        self._closed = True
        self._consumer.close()


class _Client:
    """Takes what librdkafka would print: as a `logging.Logger` does, as far as the client asks for it."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn

    def log(self, level: int, form: str, kind: str, client: str, text: str) -> None:
        """Tell warnings, but for lost connections: `error_cb` tells of these. The rest is for who debugs."""
        if level >= logging.WARNING and kind not in ("FAIL", "ERROR"):
            self._warn(text)
        else:
            log.debug(form, kind, client, text)
