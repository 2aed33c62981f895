"""Redis Streams that have lower ids than were read, with gaps skipped: made anew, or an older state of the same."""

from __future__ import annotations

import pytest

from _redis import EVENTS, client_fixture, names, need_redis, pending, server_fixture, source_of
from _streams import events_in, read_n, through_json

need_redis()
server, client = server_fixture(), client_fixture()

LEFT_OUT = "going on after {}-0: what is there up to that may have been read before, and is left out"


def add_from(client, stream, begin, events):
    """Append events with ids of their own, one after the other."""
    for n, (user, item, _, timestamp) in enumerate(events):
        client.xadd(stream, {"user": user, "item": item, "timestamp": timestamp}, id=f"{begin + n}-0")


def skipping(server, stream, position=None, **options):
    source = source_of(server, stream, on_gap="skip", **options)
    if position is not None:
        source.seek(through_json(position))
    return source


def read_ten(server, client, stream):
    """Have 10 events read, and the first 7 saved; return the source and the position behind them."""
    add_from(client, stream, 1000, EVENTS[:10])
    source = skipping(server, stream)
    batches = read_n(source, 10, (7, 3))
    source.commit(batches[0].position)
    return source, batches[-1].position


@pytest.mark.parametrize("n_new", [3, 30])
@pytest.mark.parametrize("ids", ["lower", "in between"])
@pytest.mark.parametrize("how", ["running", "with a group", "gone meanwhile", "again"])
def test_a_stream_that_was_made_anew_is_read_from_its_beginning(server, client, caplog, how, ids, n_new):
    """Also where the ids are between the old ones, as of a clock that was set back by less than the stream's age."""
    stream = next(names)
    source, position = read_ten(server, client, stream)
    new = EVENTS[5 : 5 + n_new]
    client.delete(stream)
    if how == "gone meanwhile":
        assert source.read(10, timeout=0.2) is None
    ids = [f"{10 + n}-0" if ids == "lower" else f"{1000 + n // 4}-{n % 4 + 1}" for n in range(n_new)]
    for name, (user, item, _, timestamp) in zip(ids, new, strict=True):
        client.xadd(stream, {"user": user, "item": item, "timestamp": timestamp}, id=name)
    if how == "with a group":
        client.xgroup_create(stream, "fastinc", id="0")
    if how == "again":
        source.close()
        source = skipping(server, stream, position)
    with source:
        batches = read_n(source, n_new, (2,))
        assert events_in(batches) == new
        assert source.read(10, timeout=0.1) is None
        assert source.lost == 0
        assert caplog.text.count("going on at the beginning") == 1
        assert pending(client, stream) == n_new  # they are in no saved state
        source.commit(batches[0].position)
        assert pending(client, stream) == n_new - 2
    with skipping(server, stream, batches[0].position) as source:
        assert events_in(read_n(source, n_new - 2)) == new[2:]
        add_from(client, stream, 2000_000, EVENTS[:4])
        rest = read_n(source, 4)
        assert events_in(rest) == EVENTS[:4]
        source.commit(rest[-1].position)
    assert pending(client, stream) == 0
    assert caplog.text.count("going on") == 1


@pytest.mark.parametrize("how", ["running", "again"])
@pytest.mark.parametrize("n_kept", [1, 6])
@pytest.mark.parametrize("trimmed", [False, True])
def test_an_older_state_of_a_stream_is_not_learned_twice(server, client, caplog, how, n_kept, trimmed):
    """What comes after it has ids that were there before, of entries that are lost."""
    stream = next(names)
    source, position = read_ten(server, client, stream)
    client.delete(stream)
    add_from(client, stream, 1000, EVENTS[:n_kept])
    if trimmed:
        client.xtrim(stream, maxlen=n_kept - 1, approximate=False)
    if how == "again":
        source.close()
        source = skipping(server, stream, position)
    with source:
        assert source.read(10, timeout=0.1) is None
        assert LEFT_OUT.format(999 + n_kept) in caplog.text
        add_from(client, stream, 1000 + n_kept, EVENTS[20:32])
        batches = read_n(source, 12, (3,))
        assert events_in(batches) == EVENTS[20:32]
        assert (source.lost, pending(client, stream)) == (0, 12)
        source.commit(batches[-1].position)
    assert pending(client, stream) == 0
    assert caplog.text.count("going on") == 1
    with skipping(server, stream, batches[1].position) as source:
        assert events_in(read_n(source, 6)) == EVENTS[26:32]


@pytest.mark.parametrize("n_new", [0, 2])
@pytest.mark.parametrize("how", ["running", "again"])
@pytest.mark.parametrize("began", ["$", "a group that was read", "a group elsewhere"])
def test_what_came_before_reading_began_is_not_read_after_a_loss(server, client, caplog, began, how, n_new):
    """The older state is of before this reader read anything: its own first entry is lost, too."""
    stream = next(names)
    add_from(client, stream, 1000, EVENTS[:5])
    if began == "a group that was read":
        with skipping(server, stream) as earlier:
            earlier.commit(read_n(earlier, 5)[-1].position)
    if began == "a group elsewhere":
        client.xgroup_create(stream, "fastinc", id="$")
    source = skipping(server, stream, start="$")
    assert source.read(10, timeout=0.0) is None
    add_from(client, stream, 1005, EVENTS[5:8])
    (batch,) = read_n(source, 3)
    source.commit(batch.position)
    if how == "again":
        source.close()
    client.delete(stream)
    add_from(client, stream, 1000, EVENTS[:5])
    client.xgroup_create(stream, "fastinc", id="1004-0", entries_read=5)
    add_from(client, stream, 2000, EVENTS[20 : 20 + n_new])
    if how == "again":
        source = skipping(server, stream, batch.position, start="$")
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    with source:
        assert events_in(read_n(source, n_new)) == EVENTS[20 : 20 + n_new]
        assert source.read(10, timeout=0.1) is None
        assert LEFT_OUT.format(1007 if n_new else 1004) in caplog.text
        add_from(client, stream, 3000, EVENTS[30:33])
        assert events_in(read_n(source, 3)) == EVENTS[30:33]
    assert caplog.text.count("going on") == 1


def test_an_older_state_put_in_place_while_it_is_read_is_not_learned_twice(server, client):
    """Nothing fails, and new entries come before the count tells: the last that was read is there then."""
    stream = next(names)
    add_from(client, stream, 1000, EVENTS[:5])
    client.xgroup_create(stream, "fastinc", id="0")
    older = client.dump(stream)
    client.xtrim(stream, maxlen=0)
    add_from(client, stream, 1005, EVENTS[5:8])
    with skipping(server, stream) as source:
        batches = read_n(source, 3)
        assert batches[0].position["since"] == "0-0"
        assert source.read(10, timeout=0.0) is None  # it counts
        client.restore(stream, 0, older, replace=True)
        client.xgroup_setid(stream, "fastinc", "1004-0", entries_read=5)
        add_from(client, stream, 2000, EVENTS[20:22])
        batches += read_n(source, 2)
        assert source.read(10, timeout=0.1) is None
        add_from(client, stream, 3000, EVENTS[30:33])
        batches += read_n(source, 3)
        assert events_in(batches) == [*EVENTS[5:8], *EVENTS[20:22], *EVENTS[30:33]]


@pytest.mark.parametrize(
    "why", ["a position of before", "and one that noted the first", "trimmed", "the same first id"]
)
def test_where_it_cannot_be_told_nothing_is_learned_twice(server, client, caplog, why):
    stream = next(names)
    source, position = read_ten(server, client, stream)
    source.close()
    client.delete(stream)
    add_from(client, stream, 10, EVENTS[:3])
    if why == "a position of before":
        position = {name: value for name, value in position.items() if name not in ("first", "since")}
    elif why == "and one that noted the first":
        position = {name: value for name, value in position.items() if name != "since"}
    else:
        add_from(client, stream, 1000 if why == "the same first id" else 1005, EVENTS[3:6])
    if why == "trimmed":
        client.xtrim(stream, maxlen=4, approximate=False)
    with skipping(server, stream, position) as source:
        assert source.read(10, timeout=0.1) is None
        ends = {"trimmed": 1007, "the same first id": 1002}.get(why, 12)
        assert LEFT_OUT.format(ends) in caplog.text
        add_from(client, stream, ends + 1, EVENTS[10:15])
        assert events_in(read_n(source, 5)) == EVENTS[10:15]


def test_entries_trimmed_from_the_new_stream_are_lost(server, client, caplog):
    stream = next(names)
    source, _ = read_ten(server, client, stream)
    client.delete(stream)
    add_from(client, stream, 10, EVENTS)
    client.xtrim(stream, maxlen=30, approximate=False)
    with source:
        assert events_in(read_n(source, 30)) == EVENTS[10:]
        assert source.lost == 10
    assert "10 entries after 0-0 were trimmed or deleted" in caplog.text


def test_a_position_of_the_old_stream_acknowledges_nothing_of_the_new(server, client):
    """The trainer may save and commit what it read before."""
    stream = next(names)
    source, position = read_ten(server, client, stream)
    client.delete(stream)
    add_from(client, stream, 10, EVENTS[:8])
    with source:
        assert events_in(read_n(source, 5, (5,))) == EVENTS[:5]
        source.commit(position)
        assert pending(client, stream) == 5
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert events_in(read_n(source, 3)) == EVENTS[5:8]
        assert pending(client, stream) == 8
