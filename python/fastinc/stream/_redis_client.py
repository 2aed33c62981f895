"""The client of a Redis server, made of what a URL says."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import SplitResult

from fastinc._arguments import as_whole
from fastinc._extras import require
from fastinc.stream._url import UNSHOWN, joined, without_password

__all__ = ["ANSWER", "BLOCK", "check_url", "make_client"]

#: Seconds that one read waits at most in the server, and that an answer may take: nothing else is done meanwhile, such
#: as stopping.
BLOCK = 0.5
ANSWER = 1.0

#: What the client may be told in a URL: of any connection, by TCP, by TLS. Its other parameters aren't text, or are
#: not to be changed: what is read and repeated depends on them.
_ANY = {"db", "username", "password", "client_name", "max_connections", "health_check_interval"}
_ANY |= {"socket_timeout", "socket_connect_timeout", "socket_read_size"}
_TCP = _ANY | {"socket_keepalive"}
_TLS = _TCP | {"ssl_keyfile", "ssl_certfile", "ssl_password", "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data"}
_TLS |= {"ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version", "ssl_ciphers"}
_KNOWN = {"redis": _TCP, "rediss": _TLS, "unix": _ANY}
_FIXED = ("protocol", "decode_responses", "retry_on_timeout", "retry_on_error")
#: Limits that a waiting read has to keep within, and what they must be more than.
_LIMITS = {"socket_timeout": BLOCK, "socket_connect_timeout": 0.0}
#: Whole numbers, and the least they may be. With less, the client fails at every attempt, as if the server were away.
_WHOLE = {"db": 0, "max_connections": 1, "health_check_interval": 0, "socket_read_size": 1}


def check_url(parts: SplitResult, told: Collection[str]) -> None:
    """Refuse what the client would leave out without a word, or stumble over at its first connection.

    Parameters
    ----------
    parts
        The URL, without query.
    told
        The names in its query that the client is to be told. Messages have no values: a password may be one.
    """
    if parts.scheme != "unix" and not _has_good_port(parts):  # not which: it may be a password without a host
        raise ValueError(f"url = {parts.scheme}://..., {UNSHOWN}: its port must be a number from 1 to 65535")
    name = without_password(parts)
    for option in told:
        if option in _FIXED:
            raise ValueError(f"{option} in the URL is not yours to set")
        if option not in _KNOWN[parts.scheme]:
            raise ValueError(f"{option} is no option of a {parts.scheme}:// URL")
    for option in ("username", "password"):
        if getattr(parts, option) and option in told:
            raise ValueError(f"url = {name!r}: {option} is given twice, before the host and as an option")
    if parts.scheme == "unix":
        if parts.hostname or not parts.path:
            raise ValueError(f"url = {name!r} must be unix:///path")
        return
    database = parts.path.strip("/")
    if database and not re.fullmatch("[0-9]+", database):
        raise ValueError(f"url = {name!r}: {database!r} must be the number of a database")
    if database and "db" in told:
        raise ValueError(f"url = {name!r}: db is given twice, as the path and as an option")


def _has_good_port(parts: SplitResult) -> bool:
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


def _number(text: str, name: str) -> int:
    if not re.fullmatch("-?[0-9]+", text):
        raise ValueError(f"{name} = {text!r} in the URL must be a whole number")
    return int(text)


def make_client(parts: SplitResult, told: dict[str, str], connected: Callable[[], None]) -> Any:
    """Return a client that repeats nothing by itself: a repeated read skips what the lost answer had in it.

    Parameters
    ----------
    parts, told
        What `check_url` let pass, with the values.
    connected
        Called after each connection is made: the client makes a new one by itself, without an error, when the server
        has closed the old one and nothing was under way.
    """

    def connect(connection: Any) -> None:
        connection.on_connect()
        connected()

    redis = require("redis", extra="redis", purpose="reading from Redis")
    for name in _WHOLE.keys() & told.keys():
        as_whole(_number(told[name], name), f"{name} in the URL", _WHOLE[name])
    retry = require("redis.retry", extra="redis", purpose="reading from Redis")
    backoff = require("redis.backoff", extra="redis", purpose="reading from Redis")
    client = redis.Redis.from_url(
        joined(parts, told),
        protocol=2,
        decode_responses=False,
        retry=retry.Retry(backoff.NoBackoff(), 0),
        socket_timeout=BLOCK + ANSWER,
        socket_connect_timeout=ANSWER,
        redis_connect_func=connect,
    )
    pool = client.connection_pool
    for name, least in _LIMITS.items():
        seconds = pool.connection_kwargs[name]
        if not least < seconds < float("inf"):
            raise ValueError(f"{name} = {seconds} in the URL must be finite seconds, more than {least}")
    try:
        pool.connection_class(**pool.connection_kwargs)  # as the first read would make it: it isn't connected
    except (TypeError, redis.RedisError) as error:
        raise ValueError(f"url = {without_password(parts)!r}: the client refuses its options: {error}") from error
    # By itself it makes dicts of fields, which lose those that come twice.
    client.set_response_callback("XREADGROUP", lambda reply, **_: reply or [])
    return client
