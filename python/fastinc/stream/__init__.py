"""Streams of events, and models that learn from them for ever: files that grow, Redis Streams, Kafka.

:func:`open` makes a source of a path or URL; :func:`train` learns from it, and saves state and position together, so
that every event is in the saved state exactly once, whatever is killed when.
"""

from fastinc.stream._files import FileSource
from fastinc.stream._kafka import KafkaSource
from fastinc.stream._open import open
from fastinc.stream._redis import RedisSource
from fastinc.stream._source import Batch, GapError, Rejected, Source
from fastinc.stream._trainer import Progress, train

__all__ = [
    "Batch",
    "FileSource",
    "GapError",
    "KafkaSource",
    "Progress",
    "RedisSource",
    "Rejected",
    "Source",
    "open",
    "train",
]
