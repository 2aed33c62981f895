"""Redis Streams when the server is killed, away, or has lost entries, groups or acknowledgements."""

from __future__ import annotations

import logging

import pytest

import fastinc as fi
from _redis import EVENTS, RedisServer, add, client_fixture, names, need_redis, pending, server_fixture, source_of
from _streams import DEADLINE, events_in, read_all, read_n, rejected_in, through_json

need_redis()
redis = pytest.importorskip("redis")
server, client = server_fixture(), client_fixture()


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
            rest = read_n(source, 30, (7,))  # within a run
            assert events_in([batch, *rest]) == EVENTS
            assert source.read(7, timeout=0.0) is None
        change(stream)
        with source_of(server, stream) as source:  # and in the next one
            source.seek(batch.position)
            rest = read_n(source, 30, (7,))
            assert events_in([batch, *rest]) == EVENTS
            assert source.read(7, timeout=0.0) is None
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
        add(client, stream, EVENTS[:2])
        assert events_in(read_all(source)) == [(1, "a", None, 5.0), *EVENTS[:2]]


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
        found += read_n(source, 30, (7,))
        assert events_in(found) == EVENTS
        assert source.read(10, timeout=0.0) is None


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
            assert source.read(10, timeout=0.1) is None
            server.start()
            with server.client() as client:
                add(client, "s", EVENTS[20:])
                found += read_n(source, 30, (6,))
                assert events_in(found) == EVENTS
                assert source.read(10, timeout=0.0) is None
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


def test_a_run_that_rejects_everything_reads_it_again(server, client):
    """Nothing is acknowledged: the entries are pending until something was learned."""
    stream = next(names)
    add(client, stream)
    with source_of(server, stream, columns={"user": "u"}) as source:
        kept = Kept()
        done = fi.stream.train(fi.Recommender(dim=4), source, kept, max_events=40)
        assert (done.rejected, done.events, pending(client, stream)) == (40, 0, 40)
    with source_of(server, stream) as source:
        done = fi.stream.train(fi.Recommender(dim=4), source, kept, position=kept.position, max_events=40)
        assert (done.rejected, done.events, pending(client, stream)) == (0, 40, 0)


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
