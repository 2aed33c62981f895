"""URLs: their parts, the options in their queries, and how messages name them, which passwords must not be in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from fastinc._arguments import as_choice, as_share
from fastinc.stream._events import EventParser

__all__ = [
    "UNSHOWN",
    "ServerOptions",
    "joined",
    "scheme_of",
    "server_options",
    "split_options",
    "split_url",
    "without_password",
]

#: Why a message doesn't show what it is about.
UNSHOWN = "it is not shown, as there may be a password in it"


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return text.lower() == "true"


_EVENT_OPTIONS: Mapping[str, Callable[[str], Any]] = {"ids": str, "labels": _flag, "timestamps": _flag}
#: What every source with a server can be told in a URL.
_SHARED: Mapping[str, Callable[[str], Any]] = {**_EVENT_OPTIONS, "on_gap": str, "retry_seconds": float}


@dataclass(frozen=True)
class ServerOptions:
    """What a source with a server was told, in its URL or beside it.

    Parameters
    ----------
    parts
        The URL, without query and fragment.
    own
        Options that only this source has, as far as they were given.
    rest
        What else is in the query.
    parser
        Made from `columns`, `ids`, `labels` and `timestamps`.
    skip_gaps
        Of `on_gap`.
    retry_seconds
        None: for ever.
    """

    parts: SplitResult
    own: dict[str, Any]
    rest: dict[str, str]
    parser: EventParser
    skip_gaps: bool
    retry_seconds: float | None


def server_options(
    url: str,
    given: Mapping[str, Any],
    known: Mapping[str, Callable[[str], Any]],
    columns: Mapping[str, str] | None,
) -> ServerOptions:
    """Take a source's options out of its URL, and check those that all sources with a server have.

    Parameters
    ----------
    url, given
        As for `split_options`.
    known
        As for `split_options`: the options that only this source has.
    columns
        As for `FileSource`.

    Raises
    ------
    ValueError, TypeError
        As for `split_options`; or an option that is text is empty, or isn't text.
    """
    parts, options, rest = split_options(url, given, {**known, **_SHARED})
    for name in known.keys() & options.keys():
        if known[name] is str:
            _check_name(options[name], name)
    gaps, seconds = options.get("on_gap", "raise"), options.get("retry_seconds")
    return ServerOptions(
        parts=parts,
        own={name: value for name, value in options.items() if name in known},
        rest=rest,
        parser=EventParser(columns, **{name: options.get(name) for name in _EVENT_OPTIONS}),
        skip_gaps=as_choice(gaps, "on_gap", ("raise", "skip")) == "skip",
        retry_seconds=None if seconds is None else as_share(seconds, "retry_seconds"),
    )


def _check_name(value: Any, name: str) -> None:
    """Refuse what names nothing; librdkafka aborts the process over an empty group."""
    if not isinstance(value, str):
        raise TypeError(f"{name} = {value!r} must be a str")
    if not value or "\0" in value:
        raise ValueError(f"{name} = {value!r} must not be empty, nor have a NUL")


def split_options(
    url: str, given: Mapping[str, Any], known: Mapping[str, Callable[[str], Any]]
) -> tuple[SplitResult, dict[str, Any], dict[str, str]]:
    """Take options out of a URL's query.

    Parameters
    ----------
    url
        The URL.
    given
        Options given beside it; None: not given.
    known
        The names of options, and what makes values of their text.

    Returns
    -------
    url
        Its parts, without query and fragment.
    options
        Those of `known` that were given, either way.
    rest
        What else is in the query.

    Raises
    ------
    ValueError
        An option is given twice (in the URL, or beside it as something else), or has a value that it can't have, or the
        URL has a fragment.

    Examples
    --------
    >>> parts, options, rest = split_options("redis://h/0?stream=s&n=7&db=1", {"group": "g"}, {"stream": str, "n": int})
    >>> parts.geturl(), options, rest
    ('redis://h/0', {'group': 'g', 'stream': 's', 'n': 7}, {'db': '1'})
    """
    parts = split_url(url)
    if parts.fragment:
        raise ValueError("url: what comes after # would be left out: write %23")  # not what: it may be half a password
    if "@" in parts.path + parts.query:  # of an unescaped password a part would be in all messages
        raise ValueError(
            f"url = {parts.scheme}://..., {UNSHOWN}: / ? # in a password must be written %2F %3F %23, and an @ behind "
            "the host %40"
        )
    options = {name: value for name, value in given.items() if value is not None}
    rest: dict[str, str] = {}
    seen: set[str] = set()
    for name, text in _pairs(parts.query):
        if name in seen:
            raise ValueError(f"{name} is given twice in the URL")
        seen.add(name)
        if name not in known:
            rest[name] = text
            continue
        try:
            value = known[name](text)
        except ValueError as error:
            raise ValueError(f"{name} = {text!r} in the URL: {error}") from None
        if name in options and options[name] != value:
            raise ValueError(f"{name} = {text!r} in the URL is given twice, beside it as {options[name]!r}")
        options[name] = value
    return parts._replace(query="", fragment=""), options, rest


def _pairs(query: str) -> list[tuple[str, str]]:
    if any("=" not in field for field in query.split("&") if query):  # not which: it may be half a password
        raise ValueError("url: its query must be name=value&name=value, with %26 for an & in a value")
    return parse_qsl(query, keep_blank_values=True)


def scheme_of(url: str) -> str:
    """Return what a URL begins with, in small letters; empty: with no such thing, which may be anything.

    Examples
    --------
    >>> scheme_of("Redis://host/0"), scheme_of("'redis://host/0'"), scheme_of("clicks.csv")
    ('redis', '', '')
    """
    found = re.match("([A-Za-z][A-Za-z0-9+.-]*)://", url)
    return found[1].lower() if found else ""


def split_url(url: str) -> SplitResult:
    """Return the parts of a URL, or raise ValueError, which doesn't show them."""
    try:
        return urlsplit(url)
    except ValueError:  # its text may have the password
        pass
    raise ValueError(
        f"url = {scheme_of(url)}://..., {UNSHOWN}: [ and ] are for IPv6 addresses, in a password %5B and %5D"
    )


def joined(parts: SplitResult, query: Mapping[str, str]) -> str:
    """Return a URL with another query."""
    return f"{parts.scheme}://{parts.netloc}{parts.path}{'?' if query else ''}{urlencode(query)}"  # as unix:///path


def without_password(parts: SplitResult) -> str:
    """Return a URL for messages."""
    return joined(parts._replace(netloc=parts.netloc.rpartition("@")[2]), {})
