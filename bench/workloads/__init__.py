"""The workloads; importing this registers them all, in the order in which they run."""

from bench.workloads import update, table, lookup, quantize, scale, sharing, search, live, growth, dlrm, sharded  # noqa: F401, I001
from bench.workloads import durability, durability_live  # noqa: F401
from bench.workloads import gpu_update, gpu_quantize, gpu_pool, gpu_table, gpu_topk  # noqa: F401
