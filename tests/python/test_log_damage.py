"""Damaged, cut, swapped, foreign and hostile files: noticed, told, and never applied."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import shutil
import struct
import time
import warnings
import zlib

import pytest

import fastinc as fi
from _logs import learn, memory_fixture, new_table, quiet, restored, state_of
from fastinc.checkpoint import _directory, _manifest, _records, _restoring

LONG = bool(os.environ.get("FASTINC_TORTURE"))
tmp_path = memory_fixture()
Log, DamageWarning = fi.checkpoint.Log, fi.checkpoint.DamageWarning
SEGMENT = "increments-0000000000000002.log"


@pytest.fixture(params=[None, "zstd"], ids=["plain", "zstd"])
def compression(request):
    return request.param


def make(path, appends=3, compression=None, **options):
    """Return the states of a small log by number."""
    table, states = new_table(dim=1), {}
    with Log(path, compression=compression, **options) as log:
        for i in range(appends):
            learn(table, [i], seed=i)
            states[log.append(table, i).number] = state_of(table), i
    return states


def files(path):
    return [os.path.join(where, name) for where, _, names in os.walk(path) for name in names if name != "lock"]


def flip(file, at, bit):
    with open(file, "r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ 1 << bit]))


def offsets(path, number=2):
    with _directory.open_segment(path, number) as file:
        return [head.offset for head in _records.heads(file, file.size)] + [file.size]


def test_each_byte_of_a_log_flipped_is_noticed(tmp_path, compression, monkeypatch):
    # As many digits as a time may have: of the last, two can stand for the same time.
    monkeypatch.setattr(time, "time", lambda: 1763829127.1234567)
    states = make(tmp_path, compression=compression)
    bits = random.Random(5)
    last = offsets(tmp_path)[-2]
    for file in files(tmp_path):
        for at in range(os.path.getsize(file)):
            bit = bits.randrange(8)
            flip(file, at, bit)
            if file.endswith(".log") and at >= last:
                with pytest.warns(DamageWarning, match=re.escape(file)):
                    table, position = Log(tmp_path).restore()
                assert (state_of(table), position) == states[2]
            else:
                with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
                    Log(tmp_path).restore()
            flip(file, at, bit)
    assert restored(tmp_path) == states[3]


def test_each_byte_of_a_checkpoint_flipped_is_noticed(tmp_path, compression):
    table = new_table(dim=1)
    learn(table, [1, 2])
    fi.checkpoint.save(table, tmp_path, 7, compression=compression)
    bits = random.Random(6)
    for file in files(tmp_path):
        for at in range(os.path.getsize(file)):
            bit = bits.randrange(8)
            flip(file, at, bit)
            with pytest.raises((ValueError, FileNotFoundError), match=re.escape(str(tmp_path))):
                fi.checkpoint.load(tmp_path)
            flip(file, at, bit)
    assert fi.checkpoint.load(tmp_path)[1] == 7


def test_a_log_cut_anywhere_is_what_was_whole_before(tmp_path):
    states = make(tmp_path, 4)
    ends = offsets(tmp_path)
    assert restored(tmp_path) == states[4]
    near = {end + step for end in ends for step in range(-40, 80)}  # digests, headers; of the rest CI takes a share
    for cut in reversed(range(ends[-1])):
        if not (LONG or cut in near or cut % 5 == random.randrange(5)):
            continue
        os.truncate(tmp_path / SEGMENT, cut)
        number = 1 + sum(end <= cut for end in ends[1:])
        if cut in ends:
            assert restored(tmp_path) == states[number]
        else:
            with pytest.warns(DamageWarning, match=f"offset {max(e for e in ends if e <= cut)}.*number {number} is"):
                table, position = Log(tmp_path).restore()
            assert (state_of(table), position) == states[number]


def test_a_torn_end_is_cut_off_by_the_next_append(tmp_path):
    states = make(tmp_path, 4)
    ends = offsets(tmp_path)
    os.truncate(tmp_path / SEGMENT, ends[-1] - 5)
    with Log(tmp_path) as log:
        with pytest.warns(DamageWarning, match="is left out; number 3 is restored"):
            table, _ = log.restore()
        learn(table, [8])
        entry = log.append(table, "on")  # told already
        assert (entry.number, entry.kind) == (4, "increment")
    assert os.path.getsize(tmp_path / SEGMENT) == ends[-2]
    assert restored(tmp_path) == (state_of(table), "on")
    assert restored(tmp_path, number=3) == states[3]


def test_an_append_that_cuts_a_torn_end_off_says_so(tmp_path):
    make(tmp_path, 4)
    os.truncate(tmp_path / SEGMENT, offsets(tmp_path)[-1] - 5)
    table = new_table()
    with Log(tmp_path) as log, pytest.warns(DamageWarning, match="was cut off there"):
        assert log.append(table).number == 4
    assert restored(tmp_path) == (state_of(table), None)


def test_a_segment_of_which_nothing_is_whole_goes(tmp_path):
    states = make(tmp_path, 2)
    os.truncate(tmp_path / SEGMENT, 40)
    with quiet(), Log(tmp_path) as log:
        table, position = log.restore()
        assert (state_of(table), position) == states[1]
        assert log.append(table, "on").number == 2
    assert restored(tmp_path) == (state_of(table), "on")


def test_damage_in_the_middle_is_told_and_what_is_before_it_can_be_restored(tmp_path):
    states = make(tmp_path, 5)
    begin, after = offsets(tmp_path)[1:3]
    flip(tmp_path / SEGMENT, begin + 100, 3)
    message = rf"{SEGMENT} is damaged at record 3, offset {begin}: .* from offset {after} on; number 2 can be restored"
    with pytest.raises(ValueError, match=message):
        Log(tmp_path).restore()
    assert restored(tmp_path, number=2) == states[2]
    with pytest.raises(ValueError, match="number 2 can be restored"):
        Log(tmp_path).restore(number=4)
    table = new_table()
    with Log(tmp_path) as log:  # and a base makes the log whole again
        assert log.append(table, "whole").number == 6
    assert restored(tmp_path) == (state_of(table), "whole")


def test_damage_at_the_end_of_an_earlier_segment_is_damage_in_the_middle(tmp_path):
    make(tmp_path, 3)
    with Log(tmp_path) as log:
        table, _ = log.restore()
        log.append(table)
    os.truncate(tmp_path / SEGMENT, os.path.getsize(tmp_path / SEGMENT) - 1)
    with pytest.raises(ValueError, match=r"is damaged at record 3.*number 2 can be restored"):
        Log(tmp_path).restore()


@pytest.mark.parametrize("name", ["manifest.json", "arrays"])
def test_a_damaged_newest_base_isnt_needed(tmp_path, name):
    states = make(tmp_path, 4)
    with Log(tmp_path) as log:
        assert log.compact() == 4
    base = tmp_path / "base-0000000000000004"
    [file] = [file for file in files(base) if os.path.basename(file).startswith(name)]
    flip(file, 60, 2)
    with pytest.warns(DamageWarning, match=re.escape(str(base))):
        table, position = Log(tmp_path).restore()
    assert (state_of(table), position) == states[4]
    with quiet(), Log(tmp_path) as log:
        assert log.compact() == 4
    assert restored(tmp_path) == states[4]


def test_without_a_base_that_was_appended_the_log_ends_before_it(tmp_path):
    states = make(tmp_path, 3)
    with Log(tmp_path) as log:
        log.append(new_table(), "lost")
        table = new_table()
        log.append(table, "lost, too")
        log.append(table, "also")
    for number in (4, 5):
        shutil.rmtree(tmp_path / f"base-{number:016d}")
        (tmp_path / f"base-{number:016d}").mkdir()
    with pytest.warns(DamageWarning, match="number 3 is restored"):
        found, position = Log(tmp_path).restore()
    assert (state_of(found), position) == states[3]
    with quiet(), Log(tmp_path) as log:
        found, _ = log.restore()
        entry = log.append(found, "on")
        assert (entry.number, entry.kind) == (7, "base")
    assert restored(tmp_path) == (state_of(found), "on")


def test_a_missing_segment_is_a_gap(tmp_path):
    make(tmp_path, 2)
    for position in (10, 11):
        with Log(tmp_path) as log:
            table, _ = log.restore()
            log.append(table, position)
    (tmp_path / "increments-0000000000000003.log").unlink()
    with pytest.raises(ValueError, match=r"damaged at record 3.*it ends there; number 2 can be restored"):
        Log(tmp_path).restore()
    (tmp_path / SEGMENT).unlink()
    with pytest.raises(ValueError, match=r"record 2 is missing before .*; number 1 can be restored"):
        Log(tmp_path).restore()


def test_records_of_another_log_dont_follow(tmp_path):
    make(tmp_path / "mine", 3)
    make(tmp_path / "other", 3)
    shutil.copy(tmp_path / "other" / SEGMENT, tmp_path / "mine" / SEGMENT)
    with pytest.raises(ValueError, match="record 2 doesn't follow"):
        Log(tmp_path / "mine").restore()


def test_swapped_and_repeated_records_dont_follow(tmp_path):
    make(tmp_path, 5)
    whole = (tmp_path / SEGMENT).read_bytes()
    a, b, c, d, e = offsets(tmp_path)
    for wrong in (whole[:b] + whole[c:d] + whole[b:c] + whole[d:], whole[:c] + whole[d:], whole[b:c] + whole[c:]):
        (tmp_path / SEGMENT).write_bytes(wrong)
        with pytest.raises(ValueError, match=SEGMENT):
            Log(tmp_path).restore()
    (tmp_path / SEGMENT).write_bytes(whole[a:e])
    assert restored(tmp_path)[1] == 4


def test_a_newer_format_is_refused_and_left_alone(tmp_path):
    make(tmp_path, 3)
    whole = bytearray((tmp_path / SEGMENT).read_bytes())
    at = offsets(tmp_path)[1]
    struct.pack_into("<I", whole, at + 8, 2)
    struct.pack_into("<I", whole, at + 64, zlib.crc32(whole[at : at + 64]))
    (tmp_path / SEGMENT).write_bytes(whole)
    for call in (Log(tmp_path).restore, lambda: Log(tmp_path).append(new_table()), Log(tmp_path).compact):
        with pytest.raises(ValueError, match="format version 2; this fastinc reads 1"):
            call()
    assert (tmp_path / SEGMENT).read_bytes() == whole


def test_lengths_that_are_lies_make_room_for_nothing(tmp_path):
    make(tmp_path, 3)
    whole = bytearray((tmp_path / SEGMENT).read_bytes())
    at = offsets(tmp_path)[1]
    for place, code in ((12, "<I"), (24, "<Q")):
        lie = bytearray(whole)
        struct.pack_into(code, lie, at + place, 2 ** (8 * struct.calcsize(code)) - 1)
        struct.pack_into("<I", lie, at + 64, zlib.crc32(lie[at : at + 64]))
        (tmp_path / SEGMENT).write_bytes(lie)
        with pytest.warns(DamageWarning, match="it ends within record 3"):
            assert Log(tmp_path).restore()[1] == 1


def forge(path, meta_change, payload=None, number=2):
    """Replace the last record of a log by one that is whole, and says something else."""
    with _directory.open_segment(path, number) as file:
        tail = _records.Tail()
        *_, last = _records.records(file, file.size, tail)
        front = file(0, last.offset)
    meta = {**last.meta, **meta_change}
    pieces, _ = _records.encode(last.number, last.previous, meta, [last.payload if payload is None else payload])
    _directory.segment_path(path, number).write_bytes(front + b"".join(pieces))


@pytest.mark.parametrize(
    "meta",
    [
        {"kind": "Recommender"},
        {"kind": 7},
        {"time": "soon"},
        {"parameters": {}},
        {"parameters": []},
        {"parameters": {"version": -5}},
        {"compression": "zstd", "plain_bytes": 100},
        {"compression": "pickle", "plain_bytes": 100},
        {"compression": "zstd", "plain_bytes": 2**62},
    ],
    ids=str,
)
def test_records_that_are_whole_and_wrong_are_refused(tmp_path, meta):
    states = make(tmp_path, 3)
    forge(tmp_path, meta)
    with pytest.raises(ValueError, match=r"damaged at record 3.*malformed.*number 2 can be restored"):
        Log(tmp_path).restore()
    assert restored(tmp_path, number=2) == states[2]


class Shout:
    def __reduce__(self):
        return os.mkdir, (os.environ["FASTINC_TEST_SHOUT"],)


@pytest.mark.parametrize(("before", "after"), [('": ', '":\t'), ("1763829127.1234567", "1763829127.1234568")])
def test_a_manifest_that_says_the_same_in_other_bytes_is_damaged(tmp_path, monkeypatch, before, after):
    monkeypatch.setattr(time, "time", lambda: 1763829127.1234567)
    make(tmp_path, 1)
    manifest = tmp_path / "base-0000000000000001" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace(before, after))
    assert json.loads(text) == json.loads(manifest.read_text())
    with pytest.raises(ValueError, match="in other bytes than it was written in: it is damaged"):
        Log(tmp_path).restore()


def test_a_pickle_is_not_opened(tmp_path, monkeypatch):
    shout = tmp_path / "executed"
    monkeypatch.setenv("FASTINC_TEST_SHOUT", str(shout))
    text = io.BytesIO()
    pickle.dump({"table.ids": Shout()}, text)
    make(tmp_path / "log", 3)
    forge(tmp_path / "log", {}, text.getvalue())
    with pytest.raises(ValueError, match="not safetensors"):
        Log(tmp_path / "log").restore()
    (tmp_path / "log" / SEGMENT).write_bytes(text.getvalue())
    with pytest.warns(DamageWarning):
        Log(tmp_path / "log").restore()
    for file in files(tmp_path / "log" / "base-0000000000000001"):
        with open(file, "wb") as opened:
            opened.write(text.getvalue())
    with quiet(), pytest.raises(ValueError):
        Log(tmp_path / "log").restore()
    assert not shout.exists()


def test_a_bomb_stops_at_the_size_that_was_told(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    make(tmp_path, 3, compression="zstd")
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    forge(tmp_path, {"plain_bytes": 1000}, bomb)
    with pytest.raises(ValueError, match="isn't the 1000 bytes that were told"):
        Log(tmp_path).restore()


@pytest.mark.parametrize("name", [SEGMENT, "base-0000000000000001", "lock"])
def test_links_are_not_followed(tmp_path, name):
    states = make(tmp_path / "log", 3)
    outside = tmp_path / "outside"
    os.rename(tmp_path / "log" / name, outside)
    os.symlink(outside, tmp_path / "log" / name)
    before = {path: path.read_bytes() for path in [outside, *outside.glob("*")] if path.is_file()}
    log = Log(tmp_path / "log")
    if name == "lock":
        assert restored(tmp_path / "log") == states[3]
    else:
        with pytest.raises(ValueError, match="link"):
            log.restore()
    if name.startswith("base"):
        log.append(new_table())
    else:
        with pytest.raises((ValueError, OSError), match="link"):
            log.append(new_table())
    assert {path: path.read_bytes() for path in before} == before


def test_links_inside_a_base_are_not_followed(tmp_path):
    make(tmp_path / "log", 1)
    manifest = tmp_path / "log" / "base-0000000000000001" / "manifest.json"
    os.rename(manifest, tmp_path / "mine.json")
    os.symlink(tmp_path / "mine.json", manifest)
    with pytest.raises(ValueError, match="is not a regular file"):
        Log(tmp_path / "log").restore()


@pytest.mark.parametrize("name", ["../../outside.safetensors", "/etc/passwd", "arrays-0.safetensors", 5, None, ["a"]])
def test_manifests_name_files_inside_alone(tmp_path, name):
    fi.checkpoint.save(new_table(), tmp_path / "whole")
    manifest = json.loads((tmp_path / "whole" / "manifest.json").read_text())
    manifest["arrays"]["file"] = name
    manifest["sha256"] = _manifest._digest(manifest)
    (tmp_path / "whole" / "manifest.json").write_bytes(_manifest.as_text(manifest))
    outside = tmp_path / "outside.safetensors"
    outside.write_text("mine")
    with pytest.raises(ValueError):
        fi.checkpoint.load(tmp_path / "whole")
    fi.checkpoint.save(new_table(), tmp_path / "whole")
    assert outside.read_text() == "mine"


def test_a_path_with_dots_is_what_the_system_makes_of_it(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    os.symlink(tmp_path / "a" / "b", tmp_path / "link")
    make(tmp_path / "link" / ".." / "log", 2)
    assert (tmp_path / "a" / "log").is_dir()
    assert restored(tmp_path / "a" / "log") is not None


def test_a_pipe_named_like_a_segment_doesnt_hang(tmp_path):
    make(tmp_path, 2)
    (tmp_path / SEGMENT).unlink()
    os.mkfifo(tmp_path / SEGMENT)
    with pytest.raises(ValueError, match="is not a regular file"):
        Log(tmp_path).restore()


def test_a_record_being_written_is_not_damage(tmp_path):
    states = make(tmp_path, 4)
    with Log(tmp_path) as writer:
        writer.append(writer.restore()[0], 4)
        segment = tmp_path / "increments-0000000000000005.log"
        os.truncate(segment, os.path.getsize(segment) - 1)  # as a reader may see it
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert Log(tmp_path).restore()[1] == 3
    with pytest.warns(DamageWarning):
        table, position = Log(tmp_path).restore()
    assert (state_of(table), position) == states[4]


def test_entries_end_before_one_whose_own_words_are_damaged(tmp_path):
    make(tmp_path, 4)
    begin = offsets(tmp_path)[1]
    whole = (tmp_path / SEGMENT).read_bytes()
    flip(tmp_path / SEGMENT, whole.index(b'"position":1') + len('"position":'), 2)
    assert [entry.position for entry in Log(tmp_path).entries()] == [0]
    flip(tmp_path / SEGMENT, whole.index(b'"position":1') + len('"position":'), 2)
    flip(tmp_path / SEGMENT, begin + 20, 0)
    assert [entry.position for entry in Log(tmp_path).entries()] == [0, 1]


def test_damage_to_what_a_base_has_anyway_is_nobodys_business(tmp_path, monkeypatch):
    """Also where the damaged segment goes on after the base: appends went on while it was compacted."""
    table, states = new_table(dim=1), {}
    with Log(tmp_path) as log:

        def append():
            learn(table, [len(states)])
            states[log.append(table).number] = state_of(table), None

        def restore(*args):
            append()
            append()
            return real(*args)

        for _ in range(4):
            append()
        real = _restoring.restore
        with monkeypatch.context() as patched:
            patched.setattr(_restoring, "restore", restore)
            assert log.compact() == 4
    assert _directory.listing(tmp_path) == _directory.Listing((1, 4), (2,))
    begin = offsets(tmp_path)[1]
    flip(tmp_path / SEGMENT, begin + 100, 1)
    assert restored(tmp_path) == states[6]
    assert restored(tmp_path, number=5) == states[5]
    with pytest.raises(ValueError, match="is damaged at record 3"):
        Log(tmp_path).restore(number=3)


def test_a_reader_that_saw_a_log_in_between_looks_again(tmp_path, monkeypatch):
    make(tmp_path, 3)
    table = new_table()
    with Log(tmp_path) as log:
        log.append(table)
        log.append(table, "new")
    real, stale = _directory.listing, [_directory.Listing((1,), (2, 5))]
    monkeypatch.setattr(_directory, "listing", lambda folder: stale.pop() if stale else real(folder))
    assert Log(tmp_path).restore()[1] == "new"
    assert not stale


def test_damage_before_a_base_that_was_appended_is_nobodys_business(tmp_path):
    make(tmp_path, 3)
    table = new_table()
    with Log(tmp_path) as log:
        log.append(table, "whole")
    flip(tmp_path / SEGMENT, offsets(tmp_path)[-1] - 1, 0)
    assert restored(tmp_path) == (state_of(table), "whole")
    with quiet():
        assert Log(tmp_path).restore(number=2)[1] == 1
