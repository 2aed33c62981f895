"""Redis Streams: every entry once, what is malformed, and options; against a redis-server of our own."""

from __future__ import annotations

import itertools
import json
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastinc as fi
from _redis import EVENTS, add, client_fixture, names, need_redis, pending, server_fixture, source_of
from _streams import DEADLINE, LONG, events_in, read_all, rejected_in, through_json
from fastinc.stream import _redis_client

need_redis()
server, client = server_fixture(), client_fixture()


# --- every entry once -----------------------------------------------------------------------------------------


@settings(max_examples=200 if LONG else 25)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    cuts=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8), st.booleans()), max_size=4),
)
def test_every_event_comes_once_from_any_saved_position(server, sizes, cuts):
    """Runs end after some batches, of which fewer are saved, and of these the last is acknowledged or not."""
    stream, client = next(names), server.client()
    add(client, stream)
    applied, position = [], None
    for read, saved, acknowledged in cuts:
        with source_of(server, stream) as source:
            if position is not None:
                source.seek(through_json(position))
            batches = list(itertools.islice(iter(lambda: source.read(sizes[0], timeout=0.0), None), read))[:saved]
            if batches:
                applied += events_in(batches)
                position = batches[-1].position
                if acknowledged:
                    source.commit(position)
    with source_of(server, stream) as source:
        if position is not None:
            source.seek(through_json(position))
        batches = read_all(source, sizes)
        assert applied + events_in(batches) == EVENTS
        if batches:
            source.commit(batches[-1].position)
        assert pending(client, stream) == 0
        assert source.lost == 0
        assert not source.ended
    client.close()


def test_columns_and_places(server, client):
    stream = next(names)
    ids = add(client, stream, EVENTS[:2])
    with source_of(server, stream) as source:
        (batch,) = read_all(source)
    assert batch.users.tolist() == [0, 1]
    assert batch.items.dtype == object
    assert batch.labels is None
    assert batch.wheres == [f"{stream} {name.decode()}" for name in ids]
    assert batch.position["id"] == ids[-1].decode()


def test_a_read_waits_for_the_first_event_and_no_longer(server, client):
    stream = next(names)
    with source_of(server, stream) as source:
        begin = time.monotonic()
        assert source.read(10, timeout=0.2) is None
        assert time.monotonic() - begin >= 0.2
        timer = threading.Timer(0.2, add, (client, stream, EVENTS[:1]))
        timer.start()
        begin = time.monotonic()
        assert len(source.read(10, timeout=DEADLINE)) == 1
        assert time.monotonic() - begin < DEADLINE / 2
        timer.join()


def test_a_new_group_begins_at_the_start_or_now(server, client):
    stream = next(names)
    add(client, stream, EVENTS[:3])
    with source_of(server, stream, group="new", start="$") as now, source_of(server, stream, group="old") as old:
        assert read_all(now) == []
        add(client, stream, EVENTS[3:5])
        assert events_in(read_all(now)) == EVENTS[3:5]
        assert events_in(read_all(old)) == EVENTS[:5]


def test_a_stream_that_is_not_there_yet_is_told_of(server, client, caplog):
    stream = next(names)
    with source_of(server, stream) as source:
        assert read_all(source) == read_all(source) == []
        assert [record.getMessage() for record in caplog.records] == [
            f"{source.name}: there is no stream of that name yet: it is waited for"
        ]
        add(client, stream)
        assert events_in(read_all(source)) == EVENTS
    assert len(caplog.records) == 1


def test_a_group_that_was_read_before_is_told_of(server, client, caplog):
    stream = next(names)
    add(client, stream)
    with source_of(server, stream) as source:
        source.commit(source.read(10, timeout=0.0).position)
    with source_of(server, stream) as source:
        assert events_in(read_all(source)) == EVENTS[10:]
    assert "by nobody whose position is known" in caplog.text


def test_consumers_share_a_group_and_trimming_is_no_gap_for_either(server, client):
    stream = next(names)
    found = []
    with source_of(server, stream, consumer="a") as first, source_of(server, stream, consumer="b") as second:
        for begin in range(0, 40, 10):
            add(client, stream, EVENTS[begin : begin + 10])
            for source in (first, second):
                found += events_in([source.read(5, timeout=0.0)])
            client.xtrim(stream, maxlen=3, approximate=False)
    assert found == EVENTS


# --- malformed --------------------------------------------------------------------------------------------------


def test_a_closed_source_takes_nothing(server, client):
    add(client, "closed")
    source = source_of(server, "closed")
    position = source.read(3, timeout=1.0).position
    source.close()
    for call in (lambda: source.read(3, timeout=1.0), lambda: source.seek(position)):
        with pytest.raises(ValueError, match="is closed"):
            call()
    assert pending(client, "closed") == 3


def test_malformed_entries_are_rejected_alone(server, client):
    stream = next(names)
    good = {"user": 1, "item": "a"}
    bad = [
        ({"user": 1}, "none of the columns"),
        ({"price": 1}, "no field is named as users are"),
        ({"user": "x", "item": "a"}, "user id 'x' is not an integer"),
        ({"user": 1, "item": b"\xff"}, "is not UTF-8"),
        ({"user": 1, "item": "a", "timestamp": "5"}, "the first event of this stream had none"),
    ]
    client.xadd(stream, good)
    ids = [client.xadd(stream, fields) for fields, _ in bad]
    client.xadd(stream, good)
    with source_of(server, stream) as source:
        batches = read_all(source)
        source.commit(batches[-1].position)
    assert events_in(batches) == [(1, "a", None, None)] * 2
    for letter, name, (fields, reason) in zip(rejected_in(batches), ids, bad, strict=True):
        assert reason in letter.reason
        assert letter.where == f"{stream} {name.decode()}"
        assert set(json.loads(letter.raw)) == set(fields)
    assert pending(client, stream) == 0  # they are dealt with


def test_events_may_be_json_in_a_field(server, client):
    stream = next(names)
    client.xadd(stream, {"data": '{"user": "u", "item": 3, "label": 1}', "trace": "x"})
    client.xadd(stream, {"trace": "y"})
    with fi.stream.open(f"{server.url}&stream={stream}&payload=data") as source:
        batches = read_all(source)
    assert events_in(batches) == [("u", 3, 1.0, None)]
    assert "no field 'data'" in rejected_in(batches)[0].reason


@pytest.mark.parametrize("first_read", [True, False])
def test_a_field_that_comes_twice_is_malformed(server, client, first_read):
    stream = next(names)
    for fields in (
        ("user", 1, "item", "a"),
        ("user", 1, "user", 2, "item", "b"),
        ("user", 3, "item", "c", b"\xff", 1, b"\xff", 1),
    ):
        client.execute_command("XADD", stream, "*", *fields)
    if not first_read:
        with source_of(server, stream) as source:
            read_all(source)  # they are pending then, which another command's answer tells
    with source_of(server, stream) as source:
        batches = read_all(source, timeout=0.0 if first_read else 0.1)
    assert events_in(batches) == [(1, "a", None, None)]
    letters = rejected_in(batches)
    assert [letter.reason for letter in letters] == ["the field 'user' comes twice", "the field '\\udcff' comes twice"]
    assert letters[0].raw == '{"user": "1", "user": "2", "item": "b"}'


def test_a_payload_that_comes_twice_is_malformed(server, client):
    stream = next(names)
    event = '{"user": 1, "item": 2}'
    client.execute_command("XADD", stream, "*", "data", event, "data", event)
    with source_of(server, stream, payload="data") as source:
        batches = read_all(source)
    assert events_in(batches) == []
    assert [letter.reason for letter in rejected_in(batches)] == ["the field 'data' comes twice"]


# --- options of the client --------------------------------------------------------------------------------------


def test_options_of_the_client_reach_it(server, client):
    stream = next(names)
    add(client, stream)
    options = {"client_name": "trainer", "socket_timeout": 7, "socket_connect_timeout": 2, "socket_read_size": 4096}
    text = "".join(f"&{name}={value}" for name, value in {**options, "max_connections": 1}.items())
    with fi.stream.open(f"{server.url}&stream={stream}{text}") as source:
        assert events_in(read_all(source, timeout=0.1)) == EVENTS
        assert "trainer" in [each["name"] for each in client.client_list()]
        assert options.items() <= source._client.connection_pool.connection_kwargs.items()


@pytest.mark.parametrize("url", ["redis://localhost", "rediss://localhost", "unix:///socket"])
def test_every_option_that_is_let_pass_is_one_of_the_client(url):
    """What isn't is refused at `open`, not at the first read."""
    values = {"db": 1, "max_connections": 2, "health_check_interval": 3, "socket_timeout": 4, "socket_read_size": 4096}
    values |= {"socket_connect_timeout": 5, "ssl_cert_reqs": "required", "ssl_min_version": 771}
    values |= {"socket_keepalive": "yes", "ssl_check_hostname": "yes"}
    scheme = url.partition(":")[0]
    query = "&".join(f"{name}={values.get(name, 'x')}" for name in sorted(_redis_client._KNOWN[scheme]))
    with fi.stream.open(f"{url}?stream=s&{query}") as source:
        assert source._client.connection_pool.connection_kwargs["socket_timeout"] == 4


def test_a_client_that_lacks_an_option_is_told_of_at_open(monkeypatch):
    monkeypatch.setitem(_redis_client._KNOWN, "redis", {"consumr"})
    with pytest.raises(ValueError, match=r"'redis://localhost': the client refuses its options: .*consumr"):
        fi.stream.open("redis://localhost?stream=s&consumr=1")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("socket_timeout=0.5", r"socket_timeout = 0.5 in the URL must be finite seconds, more than 0.5"),
        ("socket_timeout=inf", "socket_timeout = inf"),
        ("socket_connect_timeout=0", "socket_connect_timeout = 0"),
        ("socket_timeout=long", "'socket_timeout'"),
        ("db=x", "db = 'x' in the URL must be a whole number"),
        ("db=-1", "db in the URL = -1 must be at least 0"),
        ("max_connections=0", "max_connections in the URL = 0 must be at least 1"),
        ("health_check_interval=-1", "health_check_interval in the URL = -1"),
        ("retry_seconds=nan", "retry_seconds = nan must be a number, 0 or more"),
        ("socket_read_size=0", "socket_read_size in the URL = 0 must be at least 1"),
        ("socket_read_size=1_000", "socket_read_size = '1_000' in the URL must be a whole number"),
        ("ssl_cert_reqs=perhaps", "the client refuses its options: .*perhaps"),
    ],
)
def test_values_that_the_client_cannot_have_are_refused_at_open(query, message):
    with pytest.raises(ValueError, match=message):
        fi.stream.open(f"rediss://localhost?stream=s&{query}")


@pytest.mark.parametrize(
    ("position", "message"),
    [
        (None, "is not one of the Redis stream"),
        ({"stream": "other", "id": "1-0"}, "is not one of the Redis stream"),
        ({"stream": "s", "id": "1"}, "id = '1' is no id"),
        ({"stream": "s", "id": "1-0", "added": "7"}, "added = '7'"),
        ({"stream": "s", "id": "1-0", "added": None, "kinds": None}, "kinds = None"),
    ],
)
def test_what_is_no_position_is_refused(server, position, message):
    with source_of(server, "s") as source, pytest.raises(ValueError, match=message):
        source.seek(position)
