"""Passwords in URLs, also where they are in the wrong place or not escaped, are in no message."""

from __future__ import annotations

import traceback

import pytest

import fastinc as fi
from _commands import assert_one_line_error, command

#: Each with s3 and cret, the parts of a password that an unescaped letter may part.
URLS = (
    "Redis://u:s3cret@127.0.0.1:1/0?stream=s&retry_seconds=0&frob=1",
    "REDISS://u:s3cret@127.0.0.1/x?stream=s",
    "mqtt://u:s3cret@h",
    "mqtt://u:s3/cret@h/t",
    " redis://u:s3cret@h/0?stream=s",
    "\tredis://u:s3cret@h/0?stream=s",
    "'redis://u:s3cret@h/0?stream=s'",
    '"redis://u:s3cret@h/0?stream=s"',
    "redis:/u:s3cret@h/0?stream=s",
    "redis:u:s3cret@h/0?stream=s",
    "//u:s3cret@h/0?stream=s",
    "u:s3cret@h",
    "u:s3cret@redis://h/0",
    "u s3cret://h/0",
    "redis://u:s3/cret@h/0?stream=s",
    "redis://u:s3?cret@h/0?stream=s",
    "redis://u:s3#cret@h/0?stream=s",
    "redis://u:12?s3=cret@h/0&stream=s",
    "redis://u:12/s3cret@h/0?stream=s",
    "redis://u:12?stream=s3cret@h/0",
    "redis://u:s3@x/cret@h/0?stream=s",
    "redis://u:[s3cret]@h/0?stream=s",
    "redis://u:[s3cret@h/0?stream=s",
    "redis://u:s3\u2100cret@h/0?stream=s",
    "redis://:s3cret",
    "redis://u:s3cret/0?stream=s",
    "redis://u:s3cret@h:port/0?stream=s",
    "redis://u:s3cret@h:99999/0?stream=s",
    "redis://u:s3cret@h/0",
    "redis://u:s3cret@h/x?stream=s",
    "redis://u:s3cret@h/0?stream=s&stream=t",
    "redis://u:s3cret@h/0?stream=s&password=s3cret",
    "redis://h/0?stream=s&password=x&s3cret",
    "redis://h/0?stream=s&password=s3&cret",
    "unix://u:s3cret@?stream=s",
    "unix://u:s3/cret@/redis.sock?stream=s",
    "kafka://u:s3cret@h/t",
    "kafka://u:s3/cret@h/t",
    "kafka://u:s3?cret.x=1@h/t",
    "kafka://h/t?security.protocol=sasl_plaintext&sasl.mechanism=FOO&sasl.password=s3cret",
    "file://u:s3cret@h/clicks.csv",
    "file:///u:s3cret@h/clicks.csv",
    "file://[u:s3cret@h/clicks.csv",
)


@pytest.mark.parametrize("url", URLS)
def test_no_part_of_a_password_is_told(url, tmp_path, monkeypatch, capsys, caplog):
    pytest.importorskip("redis")
    pytest.importorskip("confluent_kafka")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLICKS", url)
    with pytest.raises((ValueError, OSError)) as failure:
        fi.stream.open(url)
    error = failure.value
    told = ["".join(traceback.format_exception_only(error))]
    while (error := error.__cause__ or error.__context__) is not None:
        told.append(str(error))
    for follow in ((), ("--follow",)):
        result = command(capsys, "train", "--from-env", "CLICKS", "--model", tmp_path / "m", "--dim", 4, *follow)
        assert_one_line_error(result)
        told.append(result[2])
    told.append(caplog.text)
    for text in told:
        assert "s3" not in text
        assert "cret" not in text


def test_what_is_told_says_what_to_mend():
    for url, message in (
        ("mqtt://u:s3cret@h", "mqtt:// is no stream; file, redis, rediss, unix and kafka are"),
        ("'redis://u:s3cret@h'", "perhaps with a quote or a space"),
        ("redis://u:s3/cret@h/0", "/ [?] # in a password must be written %2F %3F %23"),
        ("redis://h/0?stream=a@b", "and an @ behind the host %40"),
        ("redis://u:[s3cret@h/0", "in a password %5B and %5D"),
        ("redis://u:s3cret", "its port must be a number from 1 to 65535"),
        ("redis:/u:s3cret@h", "a URL has :// behind its scheme"),
        ("redis://h/0?stream=s&password=a&b", "%26 for an & in a value"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            fi.stream.open(url)


def test_a_scheme_may_be_in_capitals_and_a_path_may_have_an_at(tmp_path):
    folder = tmp_path / "a@b"
    folder.mkdir()
    (folder / "x@y.csv").write_text("user,item\n1,2\n")
    for url in (folder, folder / "x@y.csv", folder / "*@*.csv", f"FILE://{folder}"):
        with fi.stream.open(url) as source:
            assert source.read(10, timeout=0.0).users.tolist() == [1]
    with fi.stream.open(folder / "*.jsonl", follow=True) as source:  # it may come
        assert source.read(10, timeout=0.0) is None
    pytest.importorskip("redis")
    for url in ("Redis://ann:a%2Fb%40c@h/0?stream=s", "UNIX:///tmp/a%40b.sock?stream=s%40t"):
        fi.stream.open(url).close()
