"""Event streams: readers for files, MovieLens, and a synthetic stream that drifts."""

from fastinc.datasets._text import ids_from_text
from fastinc.datasets.events import Events
from fastinc.datasets.movielens import movielens
from fastinc.datasets.readers import load_events
from fastinc.datasets.synthetic import synthetic

__all__ = ["Events", "ids_from_text", "load_events", "movielens", "synthetic"]
