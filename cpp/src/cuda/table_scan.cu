// Exact search over a table by a bounded scan. Rows are chosen by score, then by slot. Where rows of the last
// place's score had to go, a second scan chooses among all of that score by their ids.
#include <algorithm>

#include "cuda/table_scan.h"
#include "cuda/topk_launch.h"

namespace fastinc::cuda {
namespace {

/// A row of an answer.
struct Place {
  float rank;
  std::int64_t id;

  __device__ bool comes_before(const Place& other) const {
    return rank > other.rank || (rank == other.rank && id < other.id);
  }
};

/// Sorts count places, a power of two.
__device__ __forceinline__ void sort_places(Place* places, unsigned count) {
  for (unsigned size = 2; size <= count; size *= 2) {
    for (unsigned stride = size / 2; stride > 0; stride /= 2) {
      const unsigned low = 2 * threadIdx.x - (threadIdx.x & (stride - 1)), high = low + stride;
      if (high < count) {
        const Place a = places[low], b = places[high];
        if (b.comes_before(a) == ((low & size) == 0)) {
          places[low] = b;
          places[high] = a;
        }
      }
      __syncthreads();
    }
  }
}

/// What store_best() left, ranks and slots, becomes scores and ids, in order. ties: (n,), written. A block
/// for each query.
__global__ void __launch_bounds__(kSelectBlock)
    name_rows(const __grid_constant__ TableQuery task, const __grid_constant__ TopkState state,
              const __grid_constant__ Answers out, float* ties, std::uint32_t* tied) {
  __shared__ Place places[kMostSelected];
  const std::size_t query = blockIdx.x, first = query * out.k;
  unsigned sorted = 1;
  while (sorted < state.k) sorted *= 2;
  for (unsigned i = threadIdx.x; i < sorted; i += kSelectBlock) {
    const std::int64_t slot = i < state.k ? out.ids[first + i] : -1;
    places[i] = {-__builtin_inff(), 0};
    if (slot >= 0) places[i] = {out.scores[first + i], task.rows.id(static_cast<Slot>(slot))};
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    const float last = places[state.k - 1].rank;
    const bool is_tied = last > -__builtin_inff() &&
                         state.dropped[query] == static_cast<std::uint32_t>(make_key(last, 0) >> 32);
    ties[query] = is_tied ? last : __builtin_nanf("");
    if (is_tied) atomicAdd(tied, 1u);
  }
  __syncthreads();  // before places move
  sort_places(places, sorted);
  for (std::size_t i = threadIdx.x; i < out.k; i += kSelectBlock) {
    const bool there = i < state.k && places[i].rank > -__builtin_inff();
    store_row(task.queries, out, query, i, there, there ? places[i].rank : 0.0f, there ? places[i].id : 0);
  }
}

/// The scan begins anew, for the queries that are tied alone. ties: (n,)
__global__ void begin_ties(const __grid_constant__ TopkState state, const float* __restrict__ ties,
                           std::size_t n, std::size_t padded) {
  for (std::size_t query = first_thread(); query < padded; query += thread_count()) {
    const bool is_tied = query < n && ties[query] == ties[query];
    state.thresholds[query] = is_tied ? kNoKey : kBeyondKeys;
    state.counts[query] = state.locks[query] = state.spilled[query] = 0;
  }
}

/// The least ids found, in the last places of an answer. A block for each query.
__global__ void __launch_bounds__(kSelectBlock)
    place_ties(const __grid_constant__ TableQuery task, const __grid_constant__ TopkState state,
               const __grid_constant__ Answers out, const float* __restrict__ ties) {
  __shared__ SelectMemory memory;
  __shared__ unsigned first;
  const std::size_t query = blockIdx.x;
  const float rank = ties[query];
  if (rank != rank) return;
  if (threadIdx.x == 0) first = state.k;
  (void)gather_best(state, query, memory);
  const std::uint32_t found = memory.found;
  unsigned sorted = 1;
  while (sorted < found) sorted *= 2;
  for (unsigned i = found + threadIdx.x; i < sorted; i += kSelectBlock) memory.best[i] = kNoKey;
  const float score = task.queries.score_of(rank);
  for (unsigned i = threadIdx.x; i < state.k; i += kSelectBlock) {
    if (out.scores[query * out.k + i] == score) atomicMin(&first, i);
  }
  __syncthreads();
  sort_keys(memory.best, sorted);
  for (unsigned i = first + threadIdx.x; i < state.k; i += kSelectBlock) {
    const Key key = i - first < found ? memory.best[i - first] : kNoKey;
    out.ids[query * out.k + i] = static_cast<std::int64_t>(ordered_id(static_cast<std::int64_t>(~key)));
  }
}

}  // namespace

bool TableScan::fits(std::size_t slots, std::size_t dim, std::size_t k, Metric metric) {
  const std::size_t longest = metric == Metric::kIp ? kMostScanDim : kMostSquaresDim;
  return slots > 0 && std::min(slots, k) <= kMostSelected && dim <= longest;
}

TableScan::TableScan(Scratch& scratch, const TableQuery& task, const TopkPlan* plan, std::size_t n,
                     std::size_t k)
    : n_(n), plan_(plan != nullptr ? *plan : plan_topk(n, task.slots, k)) {
  const std::size_t together = std::min<std::size_t>(n, plan_.queries), padded = pad(together);
  coded_ = take_coded(scratch, padded, task.rows.dim);
  const Metric metric = task.queries.metric;
  if (metric == Metric::kL2) coded_.squares = scratch.take<float>(padded);
  if (metric != Metric::kL2) coded_.code_error = kCodeError;
  coded_.normalised = metric == Metric::kCosine;
  state_ = take_state(scratch, padded);
  state_.dropped = scratch.take<std::uint32_t>(padded);
  ties_ = scratch.take<float>(padded);
  state_.k = static_cast<std::uint32_t>(std::min<std::size_t>(task.slots, k));
  state_.capacity = std::max(plan_.capacity, state_.k);
  state_.keys = scratch.take<Key>(together * (std::size_t{state_.capacity} + state_.k));
}

template <Metric kMetric>
SearchReport TableScan::run_by(const TableQuery& task, const Answers& out, SearchReport* report,
                               cudaStream_t stream) {
  ScanTask<ScannedTable> scan{};
  scan.rows.table = task;
  scan.rows.thresholds = state_.thresholds;
  scan.dim = task.rows.dim;
  scan.coded = coded_;
  const std::uint32_t tile = scan.rows.tile_rows();
  scan.order = order_tiles((task.slots + tile - 1) / tile);
  SearchReport seen{};
  for (std::size_t first = 0; first < n_; first += plan_.queries) {
    scan.n = static_cast<std::uint32_t>(std::min<std::size_t>(n_ - first, plan_.queries));
    scan.padded = pad(scan.n);
    scan.coded.group_tiles = group_tiles(scan.n);
    scan.queries = task.queries.x + first * scan.dim;
    scan.rows.first_query = static_cast<std::uint32_t>(first);
    scan.rows.ties = nullptr;
    scan.state = state_;
    const Answers block{out.scores + first * out.k, out.ids + first * out.k, out.k};
    check(cudaMemsetAsync(state_.dropped, 0, scan.padded * sizeof(std::uint32_t), stream), "cudaMemsetAsync");
    check(cudaMemsetAsync(&report->ties, 0, sizeof report->ties, stream), "cudaMemsetAsync");
    launch("encode_queries", encode_queries, blocks_for(scan.padded, kWarpsPerBlock), kBlock, stream,
           scan.queries, scan.n, scan.dim, scan.padded, first, scan.coded, scan.state, &report->nonfinite);
    scan_passes<TableMetric<kMetric>>(plan_, scan, stream);
    launch("store_best", store_best, scan.n, kSelectBlock, stream, scan.state, block.k, block.scores,
           block.ids);
    launch("name_rows", name_rows, scan.n, kSelectBlock, stream, task, scan.state, block, ties_,
           &report->ties);
    seen = to_host(report, 1, stream).front();
    if (seen.nonfinite != ~0ull) return seen;
    if (seen.ties == 0) continue;
    scan.rows.ties = ties_;
    scan.state.dropped = nullptr;
    launch("begin_ties", begin_ties, blocks_for(scan.padded, kBlock), kBlock, stream, scan.state, ties_,
           scan.n, scan.padded);
    scan_passes<TableMetric<kMetric>>(plan_, scan, stream);
    launch("place_ties", place_ties, scan.n, kSelectBlock, stream, task, scan.state, block, ties_);
  }
  return seen;
}

SearchReport TableScan::run(const TableQuery& task, const Answers& out, SearchReport* report,
                            cudaStream_t stream) {
  switch (task.queries.metric) {
    case Metric::kCosine:
      return run_by<Metric::kCosine>(task, out, report, stream);
    case Metric::kL2:
      return run_by<Metric::kL2>(task, out, report, stream);
    default:
      return run_by<Metric::kIp>(task, out, report, stream);
  }
}

}  // namespace fastinc::cuda
