"""Evaluation as a stream allows it: every event is first predicted, then learned."""

from fastinc.evaluate.metrics import Estimate
from fastinc.evaluate.prequential import prequential
from fastinc.evaluate.report import Curve, ModelResult, PrequentialReport

__all__ = ["Curve", "Estimate", "ModelResult", "PrequentialReport", "prequential"]
