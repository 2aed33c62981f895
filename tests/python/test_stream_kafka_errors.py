"""Kafka topics whose brokers fail now and then: nothing is lost, and nothing told twice."""

from __future__ import annotations

import json
import time

import pytest

from _kafka import EVENTS, cluster_fixture, names, values_of
from _streams import (
    DEADLINE,
    events_in,
    read_n,
    wait_for,
)
from fastinc.stream._events import BatchBuilder

kafka = pytest.importorskip("confluent_kafka")

cluster = cluster_fixture()


class Consumer:
    """A source's consumer, whose methods a test may put others in front of."""

    def __init__(self, source, **methods):
        self._consumer, source._consumer = source._consumer, self
        self.__dict__.update(methods)

    def __getattr__(self, name):
        return getattr(self._consumer, name)


class ErrorMessage:
    """What a consumer returns for a partition that can't be read just now."""

    def __init__(self, code, partition=None):
        self._error, self._partition = kafka.KafkaError(code), partition

    def error(self):
        return self._error

    def partition(self):
        return self._partition


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        (kafka.KafkaError._TRANSPORT, None),
        (kafka.KafkaError.OFFSET_OUT_OF_RANGE, None),
        (kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED, ValueError),
        (kafka.KafkaError._TRANSPORT, ConnectionError),
    ],
)
@pytest.mark.parametrize("thrown", [False, True])
def test_what_came_before_an_error_is_not_lost(cluster, code, raised, thrown):
    topic = next(names)
    cluster.put(topic, values_of())
    errors = []
    with cluster.open(topic, retry_seconds=0.0 if raised is ConnectionError else None) as source:
        found = read_n(source, 5, (5,))
        real = source._consumer

        def consume(most, timeout):
            messages = real.consume(most, timeout=timeout)
            if errors:
                return messages
            errors.append(code)
            if thrown:
                raise kafka.KafkaException(kafka.KafkaError(code))
            return [*messages, ErrorMessage(code)]

        Consumer(source, consume=consume)
        if not thrown or raised is None:
            found.append(source.read(5, timeout=DEADLINE))
        if raised is not None:
            with pytest.raises(raised):
                source.read(5, timeout=DEADLINE)
        assert errors
        found += read_n(source, 40 - len(events_in(found)), (7,))
        assert events_in(found) == EVENTS
        assert source.redelivered == 0


@pytest.mark.parametrize("of", [0, 1, None, -1])
def test_what_comes_behind_an_error_does_not_go_over_what_failed(cluster, of):
    """Of the same partition, or of any where nobody says which it was."""
    topic = next(names)
    cluster.put(topic, values_of()[:20], 0)
    cluster.put(topic, values_of()[20:], 1)
    with cluster.open(topic, partitions=[0, 1]) as source:
        source.read(1, timeout=DEADLINE)
        by_partition = {0: [], 1: []}
        real, left = source._consumer, dict(source._offsets)
        while any(left[n] + len(by_partition[n]) < 20 for n in (0, 1)):
            message = real.poll(DEADLINE)
            by_partition[message.partition()].append(message)
        mixed = [message for n in (0, 1) for message in by_partition[n][:3]]
        failed = ErrorMessage(kafka.KafkaError._BAD_MSG, of)
        mixed += [failed, *(message for n in (0, 1) for message in by_partition[n][5:8])]
        builder = BatchBuilder()
        source._take(builder, mixed)
        stays = [n in (0, 1) if of in (None, -1) else n == of for n in (0, 1)]
        assert source._offsets == {n: left[n] + (3 if stays[n] else 8) for n in (0, 1)}
        assert len(builder) == sum(3 if stay else 6 for stay in stays)
        assert (source._ready, source._error) == (False, failed.error())
        rest = sum(20 - source._offsets[n] for n in (0, 1))
        assert len(events_in(read_n(source, rest))) == rest  # they come again
        assert (source.lost, source.redelivered) == (0, 0)


@pytest.mark.parametrize("n_new", [0, 3])
def test_an_error_that_comes_every_time_is_met_less_and_less_often(cluster, caplog, n_new):
    """As that of a batch whose CRC is wrong: partitions are assigned each time, which alone is no success."""
    topic = next(names)
    cluster.put(topic, values_of()[:5])
    with cluster.open(topic) as source:
        read_n(source, 5)
        real, met = source._consumer, []

        def poll(seconds):
            if len(met) >= 7 or not seconds:  # without, it is the one after an error
                return real.poll(seconds)
            met.append(None if met and met[-1] is not None else time.monotonic())  # no error yet, and then one
            return None if met[-1] is None else ErrorMessage(kafka.KafkaError._BAD_MSG)

        Consumer(source, poll=poll)
        wait_for(lambda: len(met) >= 7 or source.read(5, timeout=0.05) is not None, "errors")
        errors = [at for at in met if at is not None]
        assert errors[-1] - errors[0] > 0.9 * (0.025 + 0.05 + 0.1)
        assert source._backoff._attempts >= 3
        assert "back after" not in caplog.text
        cluster.put(topic, values_of()[5 : 5 + n_new])
        if n_new:
            assert events_in(read_n(source, n_new)) == EVENTS[5 : 5 + n_new]
        wait_for(lambda: source.read(5, timeout=0.05) is not None or "back after" in caplog.text, "quiet")
        assert caplog.text.count("back after") == 1
        assert source._backoff._attempts == 0


def test_a_gap_is_counted_once_however_often_brokers_are_asked(cluster):
    topic = next(names)
    for partition in range(2):
        cluster.put(topic, [json.dumps({"user": n, "item": 1, "text": "x" * 100_000}) for n in range(60)], partition)
    with cluster.open(topic, partitions=[0, 1], on_gap="skip") as source:
        first = [
            source._consumer.get_watermark_offsets(kafka.TopicPartition(topic, n), timeout=DEADLINE)[0] for n in (0, 1)
        ]
        assert min(first) > 1
        failures = [kafka.KafkaException(kafka.KafkaError(kafka.KafkaError._TIMED_OUT))] * 3
        real = source._consumer

        def get_watermark_offsets(place, **options):
            if place.partition == 1 and failures:
                raise failures.pop()
            return real.get_watermark_offsets(place, **options)

        Consumer(source, get_watermark_offsets=get_watermark_offsets)
        source.seek({"topic": topic, "offsets": {"0": 1, "1": 1}, "kinds": source._parser.state})
        batches = read_n(source, 120 - sum(first))
        assert not failures
        assert source.lost == sum(first) - 2
        assert batches[-1].position["offsets"] == {"0": 60, "1": 60}


def test_a_broker_that_always_takes_seconds_is_read(cluster):
    topic = next(names)
    cluster.put(topic, values_of())
    with cluster.open(topic) as source:
        real, asked = source._consumer, []

        def list_topics(topic, timeout):
            asked.append(timeout)
            if timeout < 3.0:
                raise kafka.KafkaException(kafka.KafkaError(kafka.KafkaError._TIMED_OUT))
            return real.list_topics(topic, timeout=timeout)

        Consumer(source, list_topics=list_topics)
        batches = []
        wait_for(lambda: batches.append(source.read(40, timeout=0.1)) or batches[-1], "a batch")
        assert asked == [1.0, 2.0, 4.0]
