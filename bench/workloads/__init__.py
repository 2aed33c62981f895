"""The workloads; importing this registers them all, in the order in which they run."""

from bench.workloads import update, table, lookup, quantize, scale, sharing, search, live, growth  # noqa: F401, I001
