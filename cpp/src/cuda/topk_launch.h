// How a top-k's kernels are launched: the same for every kind of rows and every metric. Its kernels belong to
// the file that includes it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cuda/scratch.h"
#include "cuda/topk_plan.h"
#include "cuda/topk_queries.h"
#include "cuda/topk_scan.h"
#include "cuda/topk_select.h"
#include "cuda/topk_state.h"

namespace fastinc::cuda {

/// A warp for each query, and for those that only fill the last tiles; those, and queries that aren't finite,
/// want no row. first_query: of a call's queries, the first of these
static __global__ void encode_queries(const float* __restrict__ queries, std::size_t n, unsigned dim,
                                      std::size_t padded, std::size_t first_query,
                                      const __grid_constant__ CodedQueriesView out,
                                      const __grid_constant__ TopkState state,
                                      unsigned long long* nonfinite) {
  for (std::size_t query = first_warp(); query < padded; query += warp_count()) {
    unsigned long long bad = ~0ull;
    for (std::size_t i = lane(); query < n && i < dim && bad == ~0ull; i += kWarp) {
      const bool finite = (base::float_bits(queries[query * dim + i]) & 0x7f800000u) != 0x7f800000u;
      if (!finite) bad = (first_query + query) * dim + i;
    }
    if (bad != ~0ull) atomicMin(nonfinite, bad);
    const bool wants = query < n && __all_sync(kAllLanes, bad == ~0ull) != 0;
    if (lane() == 0) {
      state.thresholds[query] = wants ? kNoKey : kBeyondKeys;
      state.counts[query] = state.locks[query] = state.spilled[query] = 0;
    }
    encode_query(queries + (wants ? query : 0) * dim, wants ? dim : 0, query, out);
  }
}

/// Between passes: raises thresholds. A block for each query.
static __global__ void __launch_bounds__(kSelectBlock) keep_best(const __grid_constant__ TopkState state) {
  __shared__ SelectMemory memory;
  const std::size_t query = blockIdx.x;
  const std::uint32_t size = state.held(query);
  if (size <= state.k && state.spilled[query] == 0) return;
  Key* const keys = state.buffer(query);
  const Key least = gather_best(state, query, memory);
  const std::uint32_t kept = memory.found;
  for (std::uint32_t i = threadIdx.x; i < kept; i += kSelectBlock) keys[i] = memory.best[i];
  if (threadIdx.x == 0) {
    state.counts[query] = kept;
    state.spilled[query] = 0;
    state.thresholds[query] = max(state.thresholds[query], least);
  }
}

/// At the end: in order. A block for each query. scores, rows: (n, k), of which the state's k, or fewer, are
/// there
static __global__ void __launch_bounds__(kSelectBlock)
    store_best(const __grid_constant__ TopkState state, std::size_t k, float* scores, std::int64_t* rows) {
  __shared__ SelectMemory memory;
  const std::size_t query = blockIdx.x;
  (void)gather_best(state, query, memory);
  const std::uint32_t found = memory.found;
  unsigned sorted = 1;
  while (sorted < found) sorted *= 2;
  for (unsigned i = found + threadIdx.x; i < sorted; i += kSelectBlock) memory.best[i] = kNoKey;
  __syncthreads();
  sort_keys(memory.best, sorted);
  for (std::size_t i = threadIdx.x; i < k; i += kSelectBlock) {
    store_answer(i < found ? memory.best[i] : kNoKey, scores + query * k + i, rows + query * k + i);
  }
}

/// Tiles of queries that a warp has at once.
inline unsigned group_tiles(std::size_t n) {
  return n <= kTileQueries ? 1 : 8;
}
inline std::uint32_t pad(std::size_t n) {
  const unsigned group = group_tiles(n) * kTileQueries;
  return (static_cast<std::uint32_t>(n) + group - 1) / group * group;
}

/// padded: queries, with those that fill the last tiles
inline CodedQueriesView take_coded(Scratch& scratch, std::size_t padded, std::size_t dim) {
  CodedQueriesView coded{};
  coded.codes = scratch.take<std::uint8_t>(padded * steps_of(static_cast<unsigned>(dim)) * kStepCodes);
  coded.terms = scratch.take<QueryTerms>(padded);
  coded.rounding = score_rounding(dim);
  return coded;
}
/// All but the keys.
inline TopkState take_state(Scratch& scratch, std::size_t padded) {
  TopkState state{};
  state.thresholds = scratch.take<Key>(padded);
  state.counts = scratch.take<std::uint32_t>(padded);
  state.locks = scratch.take<std::uint32_t>(padded);
  state.spilled = scratch.take<std::uint32_t>(padded);
  state.least = scratch.take<std::uint32_t>(padded);
  return state;
}

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

template <class Metric, class Rows, unsigned kTiles, bool kStaged, bool kAligned>
void launch_scan(const ScanTask<Rows>& task, unsigned shared, cudaStream_t stream) {
  const auto kernel = scan_rows<Rows, Metric, kTiles, kStaged, kAligned>;
  // Always the same, for all threads that launch the kernel share it.
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)),
        "cudaFuncSetAttribute");
  int blocks = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kBlock, shared),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  blocks = std::max(blocks, 1) * device_attribute(cudaDevAttrMultiProcessorCount);
  launch_shared("scan_rows", kernel, std::min(static_cast<unsigned>(blocks), task.end - task.begin), kBlock,
                shared, stream, task);
}

template <class Metric, class Rows, unsigned kTiles>
void choose_scan(const ScanTask<Rows>& task, bool aligned, cudaStream_t stream) {
  const ScanMemory<Metric> memory{task.padded, task.rows.bytes_apart()};
  const std::size_t staged = memory.stages() + std::size_t{2} * memory.stage_bytes();
  if (staged <= static_cast<std::size_t>(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin))) {
    const auto scan = aligned ? launch_scan<Metric, Rows, kTiles, true, true>
                              : launch_scan<Metric, Rows, kTiles, true, false>;
    scan(task, static_cast<unsigned>(staged), stream);
  } else {
    const auto scan = aligned ? launch_scan<Metric, Rows, kTiles, false, true>
                              : launch_scan<Metric, Rows, kTiles, false, false>;
    scan(task, memory.stages(), stream);
  }
}

template <class Metric, class Rows>
void scan_passes(const TopkPlan& plan, ScanTask<Rows>& task, cudaStream_t stream) {
  const bool aligned = is_aligned(task.rows);
  const std::uint32_t tiles = task.order.count;
  for (task.begin = 0; task.begin < tiles; task.begin = task.end) {
    task.end = pass_end(plan, task.begin, tiles);
    if (task.coded.group_tiles == 1) {
      choose_scan<Metric, Rows, 1>(task, aligned, stream);
    } else {
      choose_scan<Metric, Rows, 8>(task, aligned, stream);
    }
    if (task.end < tiles) {
      launch("keep_best", keep_best, task.n, kSelectBlock, stream, task.state);
    }
  }
}

}  // namespace fastinc::cuda
