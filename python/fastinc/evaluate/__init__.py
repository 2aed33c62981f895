"""Evaluation as a stream allows it: every event is first predicted, then learned."""

from fastinc.evaluate.comparison import Comparison, compare
from fastinc.evaluate.curves import Curve
from fastinc.evaluate.estimates import Estimate
from fastinc.evaluate.prequential import prequential
from fastinc.evaluate.report import PrequentialReport
from fastinc.evaluate.results import ModelResult

__all__ = ["Comparison", "Curve", "Estimate", "ModelResult", "PrequentialReport", "compare", "prequential"]
