"""The workloads; importing this registers them all, in the order in which they run."""

from bench.workloads import update, table, lookup, quantize, scale, sharing, growth  # noqa: F401, I001
