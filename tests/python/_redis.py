"""What the tests of Redis streams share: a redis-server of their own, and events in it."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess

import pytest

import fastinc as fi
from _streams import DEADLINE, wait_for

EVENTS = [(n % 7, f"i{n % 5}", None, 1000.0 + n) for n in range(40)]
#: Of streams that no other test has.
names = (f"stream{n}" for n in itertools.count())


class RedisServer:
    """A server of its own, on a socket in a folder, that has on disk what it acknowledged."""

    def __init__(self, folder, *options):
        self.folder, self.options = folder, options
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}?db=0"
        self.process = None

    def start(self):
        config = ["--port", "0", "--unixsocket", self.socket, "--dir", self.folder, "--loglevel", "warning"]
        config += ["--save", "", "--appendonly", "yes", "--appendfsync", "always", *self.options]
        with open(self.folder / "redis.log", "ab") as output:
            self.process = subprocess.Popen(["redis-server", *map(str, config)], stdout=output, stderr=output)
        wait_for(self.answers, "redis-server")
        return self

    def answers(self):
        import redis

        assert self.process.poll() is None, (self.folder / "redis.log").read_text()
        try:
            with self.client() as client:
                return client.ping()
        except redis.exceptions.ConnectionError:
            return False

    def client(self):
        import redis

        return redis.Redis.from_url(self.url)

    def kill(self, how=signal.SIGKILL):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(DEADLINE)


def need_redis():
    """Skip where there is no redis-server, unless there must be one."""
    if shutil.which("redis-server") is None:
        assert not os.environ.get("FASTINC_REQUIRE_REDIS"), "there is no redis-server"
        pytest.skip("there is no redis-server", allow_module_level=True)
    pytest.importorskip("redis")


def server_fixture():
    """A fixture: one server for a module, which doesn't wait for its disk; `server = server_fixture()` in it."""

    @pytest.fixture(scope="module")
    def server(tmp_path_factory):
        server = RedisServer(tmp_path_factory.mktemp("redis"), "--appendfsync", "no").start()
        yield server
        server.kill()

    return server


def client_fixture():
    """A fixture: a client of `server`."""

    @pytest.fixture
    def client(server):
        with server.client() as client:
            yield client

    return client


def add(client, stream, events=EVENTS):
    """Append events; return their ids."""
    return [client.xadd(stream, {"user": u, "item": i, "timestamp": t}) for u, i, _, t in events]


def source_of(server, stream, **options):
    return fi.stream.open(server.url, stream=stream, **options)


def pending(client, stream, group="fastinc"):
    return client.xpending(stream, group)["pending"]
