"""Kafka topics: every message once, against librdkafka's mock cluster."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastinc as fi
from _kafka import EVENTS, cluster_fixture, names, values_of
from _streams import (
    DEADLINE,
    LONG,
    events_in,
    letters_of,
    read_all,
    read_n,
    rejected_in,
    saved_events,
    state_of,
    through_json,
    wait_for,
)
from fastinc.stream import _backoff

kafka = pytest.importorskip("confluent_kafka")

cluster = cluster_fixture()


@settings(max_examples=60 if LONG else 6)
@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4), cut=st.integers(0, 12))
def test_every_event_comes_once_from_any_position(cluster, sizes, cut):
    topic = next(names)
    cluster.put(topic, values_of())
    with cluster.open(topic) as source:
        batches = read_n(source, 40, sizes)
        assert not source.ended
    assert events_in(batches) == EVENTS
    assert batches[0].wheres[0] == f"{topic}[0]@0"
    head = batches[: min(cut, len(batches) - 1)]
    with cluster.open(topic) as source:
        if head:
            source.seek(through_json(head[-1].position))
        n = len(events_in(head))
        assert events_in(head) + events_in(read_n(source, 40 - n, sizes[::-1])) == EVENTS


def test_all_partitions_are_read_and_new_ones_noticed(cluster, monkeypatch):
    topic = next(names)
    for partition in range(4):
        cluster.put(topic, values_of(EVENTS[10 * partition : 10 * partition + 10]), partition)
    with fi.stream.open(cluster.url(topic)) as source:
        batches = read_n(source, 40, (7,))
    assert sorted(events_in(batches)) == sorted(EVENTS)
    for cut, batch in enumerate(batches[:-1]):
        rest = sum(len(later) for later in batches[cut + 1 :])
        with fi.stream.open(cluster.url(topic)) as source:
            source.seek(through_json(batch.position))
            assert sorted(events_in(batches[: cut + 1]) + events_in(read_n(source, rest))) == sorted(EVENTS)
    with fi.stream.open(cluster.url(topic)) as source:
        seen = [0]
        monkeypatch.setattr(source, "_partitions", lambda _left: seen)
        monkeypatch.setattr("fastinc.stream._kafka._LOOK", 0.0)
        found = read_n(source, 10)
        assert source.read(10, timeout=0.0) is None
        seen = [0, 2, 3]
        found += read_n(source, 20)
    assert sorted(events_in(found)) == sorted(EVENTS[:10] + EVENTS[20:])
    with pytest.raises(ValueError, match="there is no 9"), cluster.open(topic, partitions=[0, 9]) as source:
        source.read(1, timeout=DEADLINE)


def test_malformed_messages_are_rejected_alone(cluster):
    topic = next(names)
    good = b'{"user": 1, "item": "a"}'
    bad = [
        (b"oops", "not JSON"),
        (None, "has no value"),
        (b"\xff", "is not UTF-8"),
        (b'{"user": 1}', "none of the col"),
    ]
    cluster.put(topic, [good, *(value for value, _ in bad), good])
    with cluster.open(topic) as source:
        batches = read_n(source, 6)
    assert events_in(batches) == [(1, "a", None, None)] * 2
    for n, (letter, (value, reason)) in enumerate(zip(rejected_in(batches), bad, strict=True)):
        assert reason in letter.reason
        assert letter.where == f"{topic}[0]@{n + 1}"
        assert letter.raw.encode("utf-8", "surrogateescape") == (value or b"")


@pytest.mark.parametrize(("offset", "redelivered"), [(3, 12), (10_000, 0)], ids=["behind", "refused"])
def test_a_consumer_that_is_put_elsewhere_gives_each_message_once(cluster, offset, redelivered):
    """What comes again is recognised; where an offset is refused by the broker, it is looked at again."""
    topic = next(names)
    cluster.put(topic, values_of())
    with cluster.open(topic) as source:
        found = read_n(source, 15, (5,))
        source._consumer.assign([kafka.TopicPartition(topic, 0, offset)])
        found += read_n(source, 25, (10,))
        assert events_in(found) == EVENTS
        assert source.redelivered == redelivered


def test_messages_that_are_gone_are_a_gap(cluster):
    """The mock cluster keeps 5 MB of a partition."""
    topic = next(names)
    cluster.put(topic, [json.dumps({"user": n, "item": 1, "text": "x" * 100_000}) for n in range(60)])
    with cluster.open(topic) as source:
        first = int(read_n(source, 1, (1,))[0].users[0])
        position = source.read(1, timeout=DEADLINE).position
    assert first > 0
    assert position["offsets"] == {"0": first + 2}
    for offset, lost, following in ((1, first - 1, first), (99, 0, 100)):
        behind = {**position, "offsets": {"0": offset}}
        with cluster.open(topic) as source:
            source.seek(behind)
            with pytest.raises(fi.stream.GapError, match=f"has offsets {first} to 60, and {offset} is next"):
                source.read(1, timeout=DEADLINE)
        with cluster.open(topic, on_gap="skip") as source:
            source.seek(behind)
            source.read(1, timeout=0.5)  # the gap is seen
            if following == 100:
                cluster.put(topic, ['{"user": 100, "item": 1}'])
                assert read_n(source, 1)[0].users.tolist() == [100]
            assert source.lost == lost


@pytest.mark.parametrize("running", [True, False])
def test_partitions_that_are_gone_are_a_gap(cluster, monkeypatch, running):
    """The topic was made anew with fewer of them."""
    topic = next(names)
    cluster.put(topic, values_of(EVENTS[:10]))
    url = cluster.url(topic)
    for on_gap in ("raise", "skip"):
        with fi.stream.open(url, on_gap=on_gap) as source:
            batch = read_n(source, 10)[-1]
            if running:
                source._offsets[9] = 5
                monkeypatch.setattr("fastinc.stream._kafka._LOOK", 0.0)
            else:
                source.seek({**batch.position, "offsets": {**batch.position["offsets"], "9": 5}})
            if on_gap == "raise":
                with pytest.raises(fi.stream.GapError, match="no partition 9 any more, and 5 is next in it"):
                    source.read(1, timeout=DEADLINE)
                continue
            assigned, assign = [], source._assign
            monkeypatch.setattr(source, "_assign", lambda deadline: assigned.append(deadline) or assign(deadline))  # noqa: B023
            source.read(1, timeout=0.1)
            assert assigned  # without it: what may yet come of it has no place
            cluster.put(topic, values_of(EVENTS[10:]))
            batches = read_n(source, 30)
            assert events_in(batches) == EVENTS[10:]
            assert "9" not in batches[-1].position["offsets"]


def test_partitions_are_looked_up_in_pieces(cluster, monkeypatch):
    """Who reads for a moment isn't held up for all of them, and yet gets on."""
    topic = next(names)
    for partition in range(4):
        cluster.put(topic, values_of(EVENTS[10 * partition : 10 * partition + 10]), partition)
    monkeypatch.setattr("fastinc.stream._kafka._ASKED", 0.3)
    with fi.stream.open(cluster.url(topic)) as source:
        calls = []

        class Slow:
            def __getattr__(self, name):
                return getattr(consumer, name)

            def get_watermark_offsets(self, place, **options):
                calls.append(place.partition)
                time.sleep(0.3)
                return consumer.get_watermark_offsets(place, **{**options, "timeout": DEADLINE})

            def list_topics(self, topic, **_options):
                return consumer.list_topics(topic, timeout=DEADLINE)

        consumer, source._consumer = source._consumer, Slow()
        for n in range(1, 4):
            assert source.read(1, timeout=0.0) is None
            assert calls == list(range(n))
        assert sorted(events_in(read_n(source, 40))) == sorted(EVENTS)
        assert calls == list(range(4))


def test_where_a_stream_without_position_begins(cluster):
    topic = next(names)
    cluster.put(topic, values_of(EVENTS[:5]))
    with cluster.open(topic, start="latest") as late:
        assert late.read(10, timeout=0.5) is None
        cluster.put(topic, values_of(EVENTS[5:7]))
        assert events_in(read_n(late, 2)) == EVENTS[5:7]


def test_commits_are_for_others_to_see(cluster):
    topic = next(names)
    cluster.put(topic, values_of())
    place = kafka.TopicPartition(topic, 0)
    with cluster.open(topic, group="g") as source:
        batch = source.read(10, timeout=DEADLINE)
        source.commit(batch.position)
        wait_for(lambda: source._consumer.committed([place], timeout=1.0)[0].offset == len(batch), "the commit")


def test_what_is_no_position_is_refused(cluster):
    with cluster.open("t") as source:
        for position, message in (
            (None, "is not one of the Kafka topic"),
            ({"topic": "other"}, "is not one of the Kafka topic"),
            ({"topic": "t", "offsets": {"0": -1}}, "must be offsets by partition"),
            ({"topic": "t", "offsets": {"x": 1}}, "must be offsets by partition"),
            ({"topic": "t", "offsets": {}, "kinds": 3}, "kinds = 3"),
        ):
            with pytest.raises(ValueError, match=message):
                source.seek(position)


def test_wrong_settings():
    with pytest.raises(ValueError, match=r"config: enable\.auto\.commit is not yours"):
        fi.stream.open("kafka://localhost/t?enable.auto.commit=true")
    with pytest.raises(ValueError, match=r"config: .*no\.such"):
        fi.stream.open("kafka://localhost/t", config={"no.such": 1})
    with pytest.raises(ValueError, match="partitions = 'x' in the URL"):
        fi.stream.open("kafka://localhost/t?partitions=x")
    with pytest.raises(ValueError, match=r"partitions = \[\] names none"):
        fi.stream.open("kafka://localhost/t", partitions=[])
    for partitions in (0, "0"):
        with pytest.raises(TypeError, match=f"partitions = {partitions!r} must be numbers"):
            fi.stream.open("kafka://localhost/t", partitions=partitions)


@pytest.mark.parametrize("url", ["kafka://localhost/t?", "redis://localhost?stream=s&"])
def test_names_are_not_empty(url):
    """The client of Kafka aborts the process over an empty group."""
    for name in ("group",) if url.startswith("kafka") else ("group", "consumer", "payload"):
        with pytest.raises(ValueError, match=f"{name} = '' must not be empty"):
            fi.stream.open(f"{url}{name}=")
        with pytest.raises(ValueError, match=f"{name} = .* nor have a NUL"):
            fi.stream.open(url.rstrip("?&"), **{name: "a\0b"})
        with pytest.raises(TypeError, match=f"{name} = 5 must be a str"):
            fi.stream.open(url.rstrip("?&"), **{name: 5})
    with pytest.raises(ValueError, match="stream = '' must not be empty"):
        fi.stream.open("redis://localhost?stream=")
    with pytest.raises(ValueError, match="must be kafka://broker"):
        fi.stream.open("kafka://localhost/?group=g")


def test_brokers_that_stay_away_are_given_up_if_asked(monkeypatch):
    monkeypatch.setattr("fastinc.stream._kafka._ANSWER", 0.2)
    url = "kafka://127.0.0.1:1/t?retry_seconds=0.1"
    with fi.stream.open(url, config={"log_level": 0}) as source:
        assert isinstance(source, fi.stream.KafkaSource)
        with pytest.raises(ConnectionError, match="has been away"):
            wait_for(lambda: source.read(1, timeout=DEADLINE))


def test_a_broker_that_is_down_is_told_of_once_in_a_while_and_given_up_in_time(capfd, caplog):
    with fi.stream.open("kafka://127.0.0.1:1/t?retry_seconds=1") as source:
        begin = time.monotonic()
        with pytest.raises(ConnectionError, match="has been away"):
            wait_for(lambda: source.read(1, timeout=DEADLINE))
        assert time.monotonic() - begin < 5.0
        assert caplog.text.count("Connection refused") == 1
    assert capfd.readouterr().err == ""  # of librdkafka
    assert caplog.text.count("Connection refused") == 1


def test_a_broker_that_is_down_holds_up_a_read_for_a_second():
    with fi.stream.open("kafka://127.0.0.1:1/t") as source:
        begin = time.monotonic()
        assert source.read(1, timeout=0.1) is None
        assert time.monotonic() - begin < 4.0  # generous; an answer is waited for five seconds where there are


def test_what_the_client_warns_of_is_logged(caplog):
    with fi.stream.open("kafka://127.0.0.1:1/t?linger.ms=5&retry_seconds=0") as source, pytest.raises(ConnectionError):
        source.read(1, timeout=DEADLINE)
    assert "queue.buffering.max.ms is a producer property and will be ignored" in caplog.text


def test_the_same_error_is_told_once_in_ten_seconds(monkeypatch, caplog):
    now = [1000.0]
    monkeypatch.setattr(_backoff.time, "monotonic", lambda: now[0])
    backoff = _backoff.Backoff("kafka", 60.0)
    for _ in range(100):
        backoff.failed(OSError("refused"))
        now[0] += 0.25
    backoff.failed(OSError("reset"))
    told = [record.getMessage().partition("; attempt")[0] for record in caplog.records]
    assert told == ["kafka: refused", *["kafka: refused (40 times since the last)"] * 2, "kafka: reset"]
    assert backoff.left == 35.0
    now[0] += backoff.left
    with pytest.raises(ConnectionError, match="has been away for 60 s"):
        backoff.failed(OSError("refused"))
    told = _backoff.Told()
    assert [told.due("a") for _ in range(5)] == [1, 0, 0, 0, 0]
    now[0] += 10.0
    assert [told.due("b"), told.due("a"), told.due("a")] == [1, 5, 0]
    for n in range(1000):
        told.due(f"{n}")
    assert len(told._last) <= 64


def test_each_event_is_learned_once_though_the_trainer_is_killed(cluster, tmp_path):
    topic, n = next(names), 400
    events = [(f"u{k * k % 31}", k % 23, None, 60.0 * k) for k in range(n)]
    script = "import sys; from fastinc.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "train", "--from", cluster.url(topic, partitions=0), "--dim", "4"]
    command += ["--model", str(tmp_path / "m"), "--dead-letters", str(tmp_path / "d"), "--checkpoint-every", "30"]
    cluster.put(topic, ["oops"])
    for k in range(4):
        cluster.put(topic, values_of(events[100 * k : 100 * k + 100]))
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if k == 3:
            break
        enough = 100 * k + random.randrange(1, 60)
        wait_for(lambda: saved_events(tmp_path / "m") >= enough or process.poll() is not None)  # noqa: B023
        time.sleep(random.uniform(0.0, 0.1))
        process.kill()
        process.communicate(timeout=DEADLINE)
    wait_for(lambda: process.poll() is not None or saved_events(tmp_path / "m") >= n - 40, "most to be learned")
    process.terminate()
    out, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, out
    model, position = fi.checkpoint.load(tmp_path / "m")
    users, items, _, times = map(list, zip(*events[: position["events"]], strict=True))
    expected = fi.Recommender(dim=4).partial_fit(users, items, timestamps=times)
    assert state_of(model, tmp_path / "a") == state_of(expected, tmp_path / "b")
    assert len(letters_of(tmp_path / "d")) == position["rejected"] == 1


def test_everything_that_is_there_is_read_without_waiting_for_more(cluster):
    topic = next(names)
    cluster.put(topic, values_of())
    with cluster.open(topic) as source:
        begin = time.monotonic()
        batches = read_n(source, 40)
        assert time.monotonic() - begin < DEADLINE / 2
        assert read_all(source) == []
    assert events_in(batches) == EVENTS
