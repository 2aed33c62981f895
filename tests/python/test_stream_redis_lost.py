"""Redis Streams that were lost, made anew or trimmed while there was no saved position; and servers that hang."""

from __future__ import annotations

import signal
import time

import pytest

import fastinc as fi
from _redis import EVENTS, RedisServer, add, client_fixture, names, need_redis, pending, server_fixture, source_of
from _streams import events_in, read_all, read_n, rejected_in, through_json

need_redis()
server, client = server_fixture(), client_fixture()


def drop_connections(client):
    """What a restart does: the readers' connections are closed, and no command is under way."""
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def group_of(client, stream):
    (row,) = client.xinfo_groups(stream)
    return row


# --- streams that are there again ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_new", [3, 40])
@pytest.mark.parametrize("running", [True, False])
def test_a_stream_that_was_lost_and_has_new_entries_is_a_gap(server, client, caplog, running, n_new):
    """10 read, 30 not yet, and all of it gone: the new ones have later ids."""
    stream = next(names)
    add(client, stream)
    message = r"0 entries were ever added up to .*, of which 10 were read: the server lost entries"
    with source_of(server, stream) as source:
        position = through_json(source.read(10, timeout=0.0).position)
        client.delete(stream)
        ids = add(client, stream, EVENTS[:n_new])
        if running:
            with pytest.raises(fi.stream.GapError, match=message):
                read_n(source, 1)
    if not running:
        with source_of(server, stream) as source:
            source.seek(position)
            with pytest.raises(fi.stream.GapError, match=message):
                source.read(10, timeout=0.0)
            with pytest.raises(fi.stream.GapError, match=message):
                source.read(10, timeout=0.0)
    with source_of(server, stream, on_gap="skip") as source:
        source.seek(position)
        batches = read_all(source, (2,))
        assert events_in(batches) == EVENTS[:n_new]
        assert source.lost == 0  # nobody knows how many
        assert caplog.text.count("of which 10 were read") == 1  # and it is told once
        assert batches[-1].position["id"] == ids[-1].decode()
    with source_of(server, stream) as source:
        source.seek(batches[0].position)
        assert events_in(read_all(source)) == EVENTS[2:n_new]


def test_a_stream_that_was_made_anew_with_its_group_is_a_gap(server, client):
    """Nothing fails then, and only the count tells."""
    stream = next(names)
    add(client, stream)
    with source_of(server, stream) as source:
        source.read(10, timeout=0.0)
        client.delete(stream)
        client.xgroup_create(stream, "fastinc", mkstream=True)
        add(client, stream)
        with pytest.raises(fi.stream.GapError, match=r"0 entries were ever added up to .*, of which 10 were read"):
            source.read(10, timeout=0.0)


@pytest.mark.parametrize("running", [True, False])
def test_a_server_that_lost_the_last_entries_and_has_new_ones_is_a_gap(server, client, caplog, running):
    """Older ones are there, so nothing can be counted, but the one that was read is missing."""
    stream = next(names)
    ids = add(client, stream)
    message = f"{ids[9].decode()} was read, is there no more, and was neither trimmed nor deleted"
    with source_of(server, stream) as source:
        position = through_json(source.read(10, timeout=0.0).position)
        client.delete(stream)
        for name, (user, item, _, timestamp) in zip(ids[:5], EVENTS, strict=False):
            client.xadd(stream, {"user": user, "item": item, "timestamp": timestamp}, id=name)
        client.xgroup_create(stream, "fastinc", id=ids[4])
        add(client, stream, EVENTS[:7])
        if running:
            drop_connections(client)
            with pytest.raises(fi.stream.GapError, match=message):
                read_n(source, 1)
    for on_gap in ("raise", "skip"):
        with source_of(server, stream, on_gap=on_gap) as source:
            source.seek(position)
            if on_gap == "raise":
                with pytest.raises(fi.stream.GapError, match=message):
                    source.read(10, timeout=0.0)
                continue
            assert events_in(read_all(source)) == EVENTS[:7]
    assert message in caplog.text


@pytest.mark.parametrize("reconnects", [True, False])
def test_a_gap_is_raised_by_each_read(server, client, reconnects):
    """Also where it is found in the middle of a read, after which it can't be gone on as if nothing was."""
    stream = next(names)
    ids = add(client, stream)
    with source_of(server, stream) as source:
        source.commit(source.read(40, timeout=0.0).position)
        client.delete(stream)
        for name, (user, item, _, timestamp) in zip(ids[:5], EVENTS, strict=False):
            client.xadd(stream, {"user": user, "item": item, "timestamp": timestamp}, id=name)
        client.xgroup_create(stream, "fastinc", id=ids[4], entries_read=5)
        add(client, stream, EVENTS[:2])
        if reconnects:
            drop_connections(client)
        else:  # only the count tells, and not as long as there are entries on both sides of the last that was read
            assert events_in([source.read(10, timeout=0.0)]) == EVENTS[:2]
        for _ in range(4):
            with pytest.raises(fi.stream.GapError, match="the server lost entries"):
                source.read(10, timeout=0.0)


def test_a_server_that_never_counted_is_told_no_count(server, client, monkeypatch):
    """One before Redis 7 refuses ENTRIESREAD; this one takes it."""
    stream = next(names)
    with source_of(server, stream, on_gap="skip") as source:
        source.seek({"stream": stream, "id": "9-0", "added": None, "first": "1-0", "kinds": source._parser.state})
        counts, make = [], source._client.xgroup_create

        def xgroup_create(*names, entries_read=None, **options):
            counts.append(entries_read)
            return make(*names, **options)

        monkeypatch.setattr(source._client, "xgroup_create", xgroup_create)
        assert source.read(10, timeout=0.0) is None
        assert counts == [None]
        add(client, stream, EVENTS[:5])
        assert events_in(read_n(source, 5)) == EVENTS[:5]


@pytest.mark.parametrize("change", ["delete the last", "delete the next", "trim", "rename", "nothing"])
def test_what_may_happen_to_a_stream_is_no_loss(server, client, change):
    stream = next(names)
    ids = add(client, stream)
    with source_of(server, stream) as source:
        first = source.read(10, timeout=0.0)
        rest = EVENTS[10:]
        if change == "delete the last":
            client.xdel(stream, ids[9])
        elif change == "delete the next":
            client.xdel(stream, ids[10])
            rest = EVENTS[11:]
        elif change == "trim":
            client.xtrim(stream, minid=ids[10], approximate=False)
        elif change == "rename":
            client.rename(stream, "elsewhere")
            client.rename("elsewhere", stream)
        drop_connections(client)
        assert events_in(read_n(source, len(rest) - 1, (4,))) == rest[:-1]
    with source_of(server, stream) as source:
        source.seek(first.position)
        assert events_in(read_n(source, len(rest), (100,))) == rest


# --- without a position ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_read", [1, 20])
@pytest.mark.parametrize("on_gap", ["raise", "skip"])
def test_entries_trimmed_before_the_first_save_are_a_gap(server, client, n_read, on_gap):
    """Those that were read are pending, and come as rejected ones; the group's count tells of the others."""
    stream = next(names)
    add(client, stream)
    with source_of(server, stream) as source:
        source.read(n_read, timeout=0.0)
    client.xtrim(stream, maxlen=5, approximate=False)
    with source_of(server, stream, on_gap=on_gap) as source:
        first = source.read(100, timeout=0.0)
        assert (len(first), len(first.rejected)) == (0, n_read)
        if on_gap == "skip":
            assert events_in(read_all(source)) == EVENTS[35:]
            assert source.lost == 35
            return
        with pytest.raises(fi.stream.GapError, match=f"{35 - n_read} entries after .* were trimmed or deleted"):
            source.read(100, timeout=0.0)
    for position in (None, first.position):  # it is there for the next run, too, whether that was saved or not
        for _ in range(2):
            with source_of(server, stream) as source:
                if position is not None:
                    source.seek(through_json(position))
                with pytest.raises(fi.stream.GapError, match=f"{35 - n_read} entries after"):
                    read_all(source)


def test_entries_trimmed_before_the_first_save_with_nothing_pending_are_a_gap(server, client):
    stream = next(names)
    add(client, stream)
    with source_of(server, stream) as source:
        source.commit(source.read(10, timeout=0.0).position)
    client.xtrim(stream, maxlen=5, approximate=False)
    for _ in range(2):
        with source_of(server, stream) as source, pytest.raises(fi.stream.GapError, match="25 entries after"):
            source.read(10, timeout=0.0)


def test_a_gap_that_a_run_without_a_position_finds_is_there_for_the_next(server, client):
    stream = next(names)
    add(client, stream)
    with source_of(server, stream) as source:
        source.read(10, timeout=0.0)
        client.xtrim(stream, maxlen=5, approximate=False)
        with pytest.raises(fi.stream.GapError, match="25 entries after"):
            source.read(10, timeout=0.0)
    with source_of(server, stream) as source, pytest.raises(fi.stream.GapError, match="25 entries after"):
        read_all(source)


@pytest.mark.parametrize("count", [0, 3, 50])
@pytest.mark.parametrize(
    ("n_read", "acknowledged", "trimmed"),
    # Not where entries are gone behind those acknowledged: nothing tells then that it isn't as much as the count says.
    [(36, False, n) for n in (0, 10, 35, 40)] + [(36, True, n) for n in (0, 10, 35)] + [(40, True, n) for n in (0, 40)],
)
def test_a_count_of_the_group_that_cannot_be_right_is_no_gap(server, client, count, n_read, acknowledged, trimmed):
    """As after a crash: it is older than what the group read."""
    stream = next(names)
    ids = add(client, stream)
    with source_of(server, stream) as source:
        batch = source.read(n_read, timeout=0.0)
        if acknowledged:
            source.commit(batch.position)
    client.xgroup_setid(stream, "fastinc", ids[n_read - 1], entries_read=count)
    client.xtrim(stream, maxlen=40 - trimmed, approximate=False)
    with source_of(server, stream) as source:
        batches = read_all(source)
        assert events_in(batches) == EVENTS[max(trimmed, n_read if acknowledged else 0) :]
        assert len(rejected_in(batches)) == (0 if acknowledged else min(trimmed, n_read))
        add(client, stream, EVENTS[:5])
        client.xtrim(stream, maxlen=5, approximate=False)
        assert events_in(read_all(source)) == EVENTS[:5]


@pytest.mark.parametrize("before", [0, 3])
def test_entries_trimmed_while_a_second_run_reads_what_is_new_are_a_gap(server, client, before):
    """Its first look found the group's last entry still there."""
    stream = next(names)
    add(client, stream)
    client.xtrim(stream, maxlen=40 - before, approximate=False)
    with source_of(server, stream) as source:
        source.read(10, timeout=0.0)
    with source_of(server, stream) as source:
        read_n(source, 12, (10, 2))
        client.xtrim(stream, maxlen=5, approximate=False)
        with pytest.raises(fi.stream.GapError, match=f"{23 - before} entries after"):
            source.read(10, timeout=0.0)


# --- servers that are killed, or hang -------------------------------------------------------------------------------


def test_the_groups_lag_is_right_after_the_server_was_killed(tmp_path):
    """Redis 7.0 doesn't write to its AOF how much a group has read."""
    server = RedisServer(tmp_path).start()
    try:
        with server.client() as client:
            add(client, "s")
        with source_of(server, "s") as source:
            position = source.read(10, timeout=0.0).position
            source.commit(position)
        with source_of(server, "s") as source:
            source.seek(position)
            read_n(source, 30)
            server.kill()
            server.start()
            assert source.read(1, timeout=1.0) is None
            with server.client() as client:
                row = group_of(client, "s")
                assert (row["entries-read"], row["lag"], row["pending"]) == (40, 0, 30)
                add(client, "s", EVENTS[:7])
                read_n(source, 3)
                assert group_of(client, "s")["lag"] == 4
    finally:
        server.kill()


def test_a_server_that_hangs_holds_up_a_read_for_a_moment(tmp_path):
    server = RedisServer(tmp_path).start()
    try:
        with server.client() as client, source_of(server, "s") as source:
            add(client, "s")
            found = [source.read(10, timeout=0.0)]
            server.process.send_signal(signal.SIGSTOP)
            for _ in range(2):
                begin = time.monotonic()
                assert source.read(10, timeout=0.1) is None
                assert time.monotonic() - begin < 4.0  # generous
            begin = time.monotonic()
            source.commit(found[0].position)
            assert time.monotonic() - begin < 4.0
            server.process.send_signal(signal.SIGCONT)
            assert events_in([*found, *read_n(source, 30)]) == EVENTS
    finally:
        server.process.send_signal(signal.SIGCONT)
        server.kill()


# --- the rest ---------------------------------------------------------------------------------------------------


def test_entries_that_are_never_saved_are_not_held_without_bound(server, client, monkeypatch):
    monkeypatch.setattr("fastinc.stream._redis._HELD", 10)
    stream = next(names)
    ids = add(client, stream)
    with source_of(server, stream) as source:
        batches = []
        for _ in range(40):
            batches.append(source.read(1, timeout=0.0))
            assert len(source._unacknowledged) <= 10
        drop_connections(client)
        assert source.read(1, timeout=0.1) is None
        for n in (3, 25, 35, 40):
            source.commit(batches[n - 1].position)
            left = client.xpending_range(stream, "fastinc", "-", "+", 100)
            assert [entry["message_id"] for entry in left] == ids[n:]
        add(client, stream, EVENTS[:5])
        source.commit(read_all(source)[-1].position)
    assert pending(client, stream) == 0


def test_an_acl_of_what_is_needed(server, client):
    stream = next(names)
    add(client, stream)
    needed = ["+multi", "+exec", "+xinfo", "+xgroup", "+xreadgroup", "+xrange", "+xpending", "+xack"]
    account = {"enabled": True, "passwords": ["+secret"], "reset": True}
    assert " ".join(needed) in " ".join(fi.stream.RedisSource.__doc__.split())
    url = f"unix://frugal:secret@{server.socket}?stream={stream}"
    client.acl_setuser("frugal", **account, keys=[stream], commands=needed)
    with fi.stream.open(url) as source:
        batch = source.read(10, timeout=0.0)
        source.commit(batch.position)
    with fi.stream.open(url) as source:
        source.seek(batch.position)
        assert events_in(read_all(source)) == EVENTS[10:]
        client.acl_setuser("frugal", **account, keys=["other"], commands=needed)
        drop_connections(client)
        with pytest.raises(ValueError, match="no permissions to access one of the keys"):
            source.read(10, timeout=0.0)
    for name in needed:
        others = [other for other in needed if other != name]
        client.acl_setuser("frugal", **account, keys=[stream], commands=others)
        with fi.stream.open(url) as source:
            source.seek(batch.position)
            if name == "+xack":  # it is logged
                source.read(10, timeout=0.0)
                continue
            with pytest.raises(ValueError, match=r"no permissions to run|EXEC without MULTI"):
                source.read(10, timeout=0.0)
