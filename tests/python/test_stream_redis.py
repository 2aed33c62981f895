"""Redis Streams: every entry once, whatever is lost on the way; against a redis-server of our own."""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastinc as fi
from _streams import (
    DEADLINE,
    LONG,
    RedisServer,
    events_in,
    need_redis,
    read_all,
    rejected_in,
    through_json,
)
from fastinc.stream import _redis_client

need_redis()
redis = pytest.importorskip("redis")

EVENTS = [(n % 7, f"i{n % 5}", None, 1000.0 + n) for n in range(40)]
names = (f"stream{n}" for n in itertools.count())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--appendfsync", "no").start()
    yield server
    server.kill()


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def add(client, stream, events=EVENTS):
    """Append events; return their ids."""
    return [client.xadd(stream, {"user": u, "item": i, "timestamp": t}) for u, i, _, t in events]


def source_of(server, stream, **options):
    return fi.stream.open(server.url, stream=stream, **options)


def pending(client, stream, group="fastinc"):
    return client.xpending(stream, group)["pending"]


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


# --- what a server may lose -------------------------------------------------------------------------------------


def test_acknowledgements_that_were_lost_are_made_good(server, client):
    stream = next(names)
    add(client, stream)
    with source_of(server, stream) as source:
        first, _second = source.read(10, timeout=0.0), source.read(10, timeout=0.0)
    assert pending(client, stream) == 20
    with source_of(server, stream) as source:
        source.seek(first.position)
        batches = read_all(source)
        assert events_in(batches) == EVENTS[10:]
        assert source.redelivered == 10
        assert pending(client, stream) == 30


def test_a_group_that_is_gone_or_behind_gives_nothing_twice(server, client, caplog):
    for change, redelivered in (
        (lambda stream: client.xgroup_destroy(stream, "fastinc"), 0),
        (lambda stream: client.xgroup_setid(stream, "fastinc", "0"), 10),
    ):
        stream = next(names)
        add(client, stream)
        with source_of(server, stream) as source:
            batch = source.read(10, timeout=0.0)
            source.commit(batch.position)
            change(stream)
            rest = read_all(source, (7,), timeout=0.5)  # within a run
            assert events_in([batch, *rest]) == EVENTS
        change(stream)
        with source_of(server, stream) as source:  # and in the next one
            source.seek(batch.position)
            rest = read_all(source, (7,), timeout=0.5)
            assert events_in([batch, *rest]) == EVENTS
            assert source.redelivered >= redelivered
            source.commit(rest[-1].position)
        assert pending(client, stream) == 0


def test_a_server_that_lost_the_stream_is_a_gap(server, client):
    stream = next(names)
    add(client, stream)
    with source_of(server, stream) as source:
        batch = source.read(10, timeout=0.0)
        client.delete(stream)
        with pytest.raises(fi.stream.GapError, match=r"is not there, and was read up to .*: the server lost entries"):
            read_all(source, timeout=0.5)
    client.xadd(stream, {"user": 1, "item": "a", "timestamp": 5}, id="5-0")
    with source_of(server, stream) as source:
        source.seek(batch.position)
        with pytest.raises(fi.stream.GapError, match="the stream ends at 5-0, and was read up to"):
            source.read(10, timeout=0.5)
    with source_of(server, stream, on_gap="skip") as source:
        source.seek(batch.position)
        assert source.read(10, timeout=0.0) is None  # 5-0 is before what was read: it counts as applied
        add(client, stream, EVENTS[:2])
        assert events_in(read_all(source)) == EVENTS[:2]


@pytest.mark.parametrize("running", [True, False])
def test_entries_trimmed_before_they_were_read_are_a_gap(server, client, running):
    stream = next(names)
    add(client, stream)
    with source_of(server, stream) as source:
        batch = source.read(10, timeout=0.0)
        client.xtrim(stream, maxlen=5, approximate=False)
        if running:
            with pytest.raises(fi.stream.GapError, match=r"25 entries after .* were trimmed or deleted before"):
                source.read(10, timeout=0.0)
    with source_of(server, stream, on_gap="skip") as source:
        source.seek(through_json(batch.position))
        rest = read_all(source, (3,))
        assert [row[3] for row in events_in(rest)] == [row[3] for row in EVENTS[35:]]
        assert len(rejected_in(rest)) == 0
        assert source.lost == 25
        source.seek(through_json(rest[-1].position))
        assert read_all(source) == []
        assert source.lost == 25  # counted once


def test_trimming_what_was_read_is_no_gap(server, client):
    """Also where nobody knew at first how many entries there had ever been."""
    stream = next(names)
    add(client, stream, EVENTS[:5])
    client.xgroup_create(stream, "fastinc", id="0")
    client.xdel(stream, client.xrange(stream)[1][0])
    with source_of(server, stream) as source:
        assert len(events_in(read_all(source))) == 4
        for begin in range(5, 40, 5):
            add(client, stream, EVENTS[begin : begin + 5])
            assert events_in(read_all(source, (2,))) == EVENTS[begin : begin + 5]
            client.xtrim(stream, maxlen=begin % 3, approximate=False)
        add(client, stream, EVENTS[:5])
        client.xtrim(stream, maxlen=4, approximate=False)
        with pytest.raises(fi.stream.GapError, match="1 entries after"):
            read_all(source)


def test_entries_deleted_before_they_were_read_again(server, client):
    """Without a position they come as pending ones without fields; with one they are missing in the count."""
    stream = next(names)
    ids = add(client, stream, EVENTS[:5])
    with source_of(server, stream) as source:
        batch = source.read(1, timeout=0.0)
        source.read(4, timeout=0.0)
    client.xdel(stream, *ids[1:3])
    with source_of(server, stream) as source:
        batches = read_all(source, timeout=0.1)
        assert events_in(batches) == [EVENTS[0], *EVENTS[3:5]]
        assert [letter.where for letter in rejected_in(batches)] == [f"{stream} {name.decode()}" for name in ids[1:3]]
        assert source.lost == 2
    with source_of(server, stream) as source:
        source.seek(batch.position)
        assert events_in([source.read(10, timeout=0.0)]) == EVENTS[3:5]
        with pytest.raises(fi.stream.GapError, match="2 entries"):
            source.read(10, timeout=0.0)
    client.xdel(stream, ids[0])
    with source_of(server, stream) as source:  # now it is seen before anything is read
        source.seek(batch.position)
        with pytest.raises(fi.stream.GapError, match="2 entries"):
            source.read(10, timeout=0.0)
    with source_of(server, stream, on_gap="skip") as source:
        source.seek(batch.position)
        batches = read_all(source, timeout=0.1)
        assert events_in(batches) == EVENTS[3:5]
        assert source.lost == 2
        source.commit(batches[-1].position)
    with source_of(server, stream) as source:
        source.seek(batches[-1].position)
        assert read_all(source) == []
    assert pending(client, stream) == 0


def test_an_older_state_gets_what_came_after_it_once_more(server, client, caplog):
    """All of it was acknowledged, but the position is what counts."""
    stream = next(names)
    add(client, stream)
    with source_of(server, stream) as source:
        batches = read_all(source, (10,))
        source.commit(batches[-1].position)
    with source_of(server, stream) as source:
        source.seek(batches[1].position)
        assert events_in(read_all(source, (7,))) == EVENTS[20:]
    client.xgroup_createconsumer(stream, "fastinc", "other")
    with source_of(server, stream) as source:
        source.seek(batches[1].position)
        read_all(source)
    assert "what was acknowledged after the position is gone" in caplog.text


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
        ("socket_timeout=0.5", r"socket_timeout = 0.5 in the URL must be finite seconds, more than 1.0"),
        ("socket_timeout=inf", "socket_timeout = inf"),
        ("socket_connect_timeout=0", "socket_connect_timeout = 0"),
        ("socket_timeout=long", "'socket_timeout'"),
        ("db=x", "'db'"),
        ("ssl_cert_reqs=perhaps", "the client refuses its options: .*perhaps"),
    ],
)
def test_values_that_the_client_cannot_have_are_refused_at_open(query, message):
    with pytest.raises(ValueError, match=message):
        fi.stream.open(f"rediss://localhost?stream=s&{query}")


# --- connections ------------------------------------------------------------------------------------------------


def test_an_answer_that_was_lost_is_read_from_what_is_pending(server, client, monkeypatch):
    stream = next(names)
    add(client, stream)
    with source_of(server, stream) as source:
        found = [source.read(10, timeout=0.0)]
        original = type(source._client).pipeline

        def cut_off(self, *arguments, **options):
            pipeline = original(self, *arguments, **options)
            execute = pipeline.execute

            def lose(*more, **others):
                execute(*more, **others)
                monkeypatch.undo()
                raise redis.exceptions.ConnectionError("cut off")

            pipeline.execute = lose
            return pipeline

        monkeypatch.setattr(type(source._client), "pipeline", cut_off)
        found += read_all(source, (7,), timeout=1.0)
        assert events_in(found) == EVENTS


def test_the_server_may_be_killed_while_it_is_read(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    server = RedisServer(tmp_path).start()
    try:
        found = []
        with server.client() as client:
            add(client, "s", EVENTS[:20])
        with source_of(server, "s") as source:
            found.append(source.read(10, timeout=0.0))
            server.kill()
            source.commit(found[0].position)  # can't be told now
            assert source.read(10, timeout=0.3) is None
            server.start()
            with server.client() as client:
                add(client, "s", EVENTS[20:])
                found += read_all(source, (6,), timeout=2.0)
                assert events_in(found) == EVENTS
                source.commit(found[-1].position)
                assert pending(client, "s") == 0
    finally:
        server.kill()
    assert "attempt 2 in" in caplog.text
    assert "back after" in caplog.text


class Kept:
    """A log in memory."""

    def append(self, obj, position=None):
        self.position = position


def test_acknowledgements_that_are_refused_are_logged_and_made_good(server, client, caplog):
    stream, model = next(names), fi.Recommender(dim=4)
    add(client, stream)
    account = {"enabled": True, "passwords": ["+secret"], "keys": ["*"]}
    client.acl_setuser("careful", **account, commands=["+@all", "-xack"])
    with fi.stream.open(f"unix://careful:secret@{server.socket}?stream={stream}") as source:
        kept = Kept()
        done = fi.stream.train(model, source, kept, checkpoint_every=10, batch_size=10, max_events=30)
        assert (done.events + done.held, done.checkpoints) == (30, 4)
        assert pending(client, stream) == 30
        refused = [record for record in caplog.records if "entries were not acknowledged" in record.message]
        assert len(refused) == 3
        assert all(record.name == "fastinc.stream" and "xack" in record.message for record in refused)
        client.acl_setuser("careful", **account, commands=["+@all"])
        batch = source.read(5, timeout=0.0)
        source.commit(batch.position)
        assert pending(client, stream) == 0  # those of before, too
        assert source.redelivered == 0
        source.read(5, timeout=0.0)
        assert pending(client, stream) == 5


def test_nothing_is_raised_when_a_stream_cannot_be_told(tmp_path, caplog):
    server = RedisServer(tmp_path).start()
    try:
        with server.client() as client, source_of(server, "s", retry_seconds=0.0) as source:
            add(client, "s")
            first, second = source.read(10, timeout=0.0), source.read(10, timeout=0.0)
            client.delete("s")
            client.set("s", "text")
            source.commit(first.position)
            assert "WRONGTYPE" in caplog.text
            server.kill()
            source.commit(second.position)
            assert "has been away for" in caplog.text
            with pytest.raises(ConnectionError, match="has been away for"):
                source.read(10, timeout=1.0)
    finally:
        server.kill()


def test_errors_that_do_not_pass_raise(server, client, tmp_path):
    client.set("text", "x")
    with source_of(server, "text") as source, pytest.raises(ValueError, match="WRONGTYPE"):
        source.read(1, timeout=1.0)
    url = f"unix://{tmp_path}/none.sock?stream=s&retry_seconds=0.2"
    with fi.stream.open(url) as source, pytest.raises(ConnectionError, match="has been away for"):
        source.read(1, timeout=DEADLINE)
    client.acl_setuser("reader", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all"])
    with fi.stream.open(f"unix://reader:wrong@{server.socket}?stream=s") as source:
        assert "wrong" not in source.name
        with pytest.raises(ValueError, match=r"WRONGPASS|invalid username-password"):
            source.read(1, timeout=1.0)


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
