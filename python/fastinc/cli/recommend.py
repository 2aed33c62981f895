"""``fastinc recommend``: ask a saved model."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import numpy.typing as npt

from fastinc._arguments import as_path
from fastinc.cli._options import print_json
from fastinc.datasets import ids_from_text
from fastinc.explanation import Explanation


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("recommend", help="ask a saved model for the best items of some users")
    parser.add_argument("--model", required=True, metavar="DIR", help="where `fastinc train` saved the model")
    parser.add_argument("--user", required=True, action="append", metavar="ID", help="a user; may be repeated")
    parser.add_argument("-k", type=int, default=10, metavar="K", help="how many items for each (default: 10)")
    parser.add_argument("--include-seen", action="store_true", help="let items the user has had take part")
    parser.add_argument("--explain", action="store_true", help="say which past items each comes from most")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the best items of every user, with their scores."""
    import fastinc as fi

    if args.k < 1:
        raise ValueError(f"-k must be at least 1, got {args.k}")
    if not as_path(args.model, "--model").exists():
        raise FileNotFoundError(f"{args.model}: there is no model")
    model, _ = fi.checkpoint.load(args.model)
    if not isinstance(model, fi.Recommender):
        raise ValueError(f"{args.model} holds a {type(model).__name__}; recommend needs a Recommender")
    users, ids, scores = _ask(model, args.user, args.k, not args.include_seen)
    answers = []
    for user, row, values in zip(users.tolist(), ids.tolist(), scores.tolist(), strict=True):
        pairs = [(item, score) for item, score in zip(row, values, strict=True) if score != -np.inf]
        answer = {"user": user, "items": [i for i, _ in pairs], "scores": [s for _, s in pairs]}
        if args.explain:
            answer["explanations"] = [model.explain(user, item) for item, _ in pairs]
        answers.append(answer)
    if args.json:
        for answer in answers:
            if args.explain:
                answer["explanations"] = [found.to_dict() for found in answer["explanations"]]
        print_json(answers)
        return
    for answer in answers:
        print(f"user {answer['user']}")
        for rank, (item, score) in enumerate(zip(answer["items"], answer["scores"], strict=True), 1):
            print(f"{rank:>4}  {item!s:<20} {score:.4f}")
            if args.explain:
                print(f"        {_why(answer['explanations'][rank - 1])}")
        if not answer["items"]:
            print("      no items")


def _why(found: Explanation) -> str:
    """Return the largest shares in words."""
    past = "".join(f"{item} {share:+.2f}, " for item, share in found.top(3))
    rest = found.score - found.offset - found.bias - sum(share for _, share in found.top(3))
    return f"{past}bias {found.bias:+.2f}, the rest {rest:+.2f}"


def _ask(model: Any, texts: list[str], k: int, exclude_seen: bool) -> tuple[npt.NDArray[Any], Any, Any]:
    """Return the users as ids of the model's type, their items and the scores.

    A shell knows strings only. A model learned from integers or from strings, and refuses the others: so
    users that read as integers are first asked for as such.
    """
    integers = ids_from_text(texts)
    if integers.dtype.kind == "i":
        try:
            return integers, *model.recommend(integers, k=min(k, max(model.n_items, 1)), exclude_seen=exclude_seen)
        except TypeError:
            pass
    users = np.array(texts, dtype=np.str_)
    try:
        return users, *model.recommend(users, k=min(k, max(model.n_items, 1)), exclude_seen=exclude_seen)
    except TypeError as error:
        raise ValueError(f"--user {' '.join(texts)}: {error}") from error
