"""A cluster of Kafka, librdkafka's own for tests, for tests of streams."""

from __future__ import annotations

import itertools
import json
from urllib.parse import urlencode

import pytest

import fastinc as fi
from _streams import DEADLINE

kafka = pytest.importorskip("confluent_kafka")

EVENTS = [(n % 7, f"i{n % 5}", None, 1000.0 + n) for n in range(40)]
names = (f"topic{n}" for n in itertools.count())


class Cluster:
    """A producer, whose mock brokers (in its process) others connect to."""

    def __init__(self):
        settings = {"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0}
        self.producer = kafka.Producer(settings)
        brokers = self.producer.list_topics(timeout=DEADLINE).brokers.values()
        self.brokers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def put(self, topic, values, partition=0):
        for value in values:
            self.producer.produce(topic, value, partition=partition)
        assert self.producer.flush(DEADLINE) == 0

    def url(self, topic, **options):
        options = {"fetch.wait.max.ms": 20, **options}  # not half a second for what is going to come
        return f"kafka://{self.brokers}/{topic}?{urlencode(options)}"

    def open(self, topic, **options):
        return fi.stream.open(self.url(topic), **{"partitions": [0], **options})


def cluster_fixture():
    """A fixture: a cluster; `cluster = cluster_fixture()` in the module."""

    @pytest.fixture(scope="module")
    def cluster():
        return Cluster()

    return cluster


def values_of(events=EVENTS):
    return [json.dumps({"user": u, "item": i, "timestamp": t}) for u, i, _, t in events]
