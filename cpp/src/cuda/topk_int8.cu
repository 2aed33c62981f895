// Exact top-k over int8 rows in device memory.
#include <cub/cub.cuh>
#include <limits>
#include <stdexcept>

#include "cuda/scratch.h"
#include "cuda/topk_int8.h"
#include "cuda/topk_launch.h"
#include "fastinc/cuda_ops.h"
#include "search/topk_sizes.h"

namespace fastinc::cuda {
namespace {

/// What a call needs in device memory.
struct Memory {
  CodedQueriesView coded;
  TopkState state;
  Key *all, *sorted;  // (num_rows,) where scores are sorted
  void* cub;
  std::size_t cub_bytes;
};

bool is_sorted(std::size_t num_rows, std::size_t k) {
  return std::min(num_rows, k) > kMostSelected;
}

Memory take_memory(Scratch& scratch, const TopkPlan& plan, std::size_t n, std::size_t num_rows,
                   std::size_t dim, std::size_t k) {
  Memory memory{};
  const std::size_t together = std::min<std::size_t>(n, plan.queries), padded = pad(together);
  memory.coded = take_coded(scratch, padded, dim);
  memory.state = take_state(scratch, padded);
  TopkState& state = memory.state;
  if (is_sorted(num_rows, k)) {
    memory.all = scratch.take<Key>(num_rows);
    memory.sorted = scratch.take<Key>(num_rows);
    (void)cub::DeviceRadixSort::SortKeysDescending(nullptr, memory.cub_bytes, memory.all, memory.sorted,
                                                   num_rows);
    memory.cub = scratch.take<std::byte>(memory.cub_bytes);
    return memory;
  }
  state.k = static_cast<std::uint32_t>(std::min(num_rows, k));
  state.capacity = std::max(plan.capacity, state.k);  // what is kept between passes fits
  state.keys = scratch.take<Key>(together * (std::size_t{state.capacity} + state.k));
  return memory;
}

/// keys: (rows,)
template <class Metric, class Rows>
__global__ void score_all(const __grid_constant__ ScanTask<Rows> task, std::uint32_t query, Key* keys) {
  const bool wants = task.state.thresholds[query] != kBeyondKeys;
  for (std::size_t row = first_warp(); row < task.rows.size(); row += warp_count()) {
    const auto number = static_cast<std::uint32_t>(row);
    Key key = kNoKey;
    if (wants && task.rows.has_place(number) && task.rows.allows(query, number)) {
      const std::uint8_t* const codes[1] = {task.rows.row(number)};
      const ScaleAndBias tails[1] = {load_tail<false>(codes[0] + task.dim)};
      float scores[1];
      Metric::score(task.queries + std::size_t{query} * task.dim, codes, tails, task.dim, scores);
      if (scores[0] == scores[0]) key = make_key(scores[0], number);
    }
    if (lane() == 0) keys[row] = key;
  }
}

__global__ void store_sorted(const Key* __restrict__ keys, std::size_t num_rows, std::size_t k, float* scores,
                             std::int64_t* rows) {
  for (std::size_t i = first_thread(); i < k; i += thread_count()) {
    store_answer(i < num_rows ? keys[i] : kNoKey, scores + i, rows + i);
  }
}

template <class Rows>
void sort_scores(const ScanTask<Rows>& task, const Memory& memory, std::size_t k, float* scores,
                 std::int64_t* rows, cudaStream_t stream) {
  const std::size_t num_rows = task.rows.size();
  for (std::uint32_t query = 0; query < task.n; ++query) {
    launch("score_all", score_all<InnerProduct, Rows>, blocks_for(num_rows, kWarpsPerBlock), kBlock, stream,
           task, query, memory.all);
    std::size_t bytes = memory.cub_bytes;
    check(cub::DeviceRadixSort::SortKeysDescending(memory.cub, bytes, memory.all, memory.sorted, num_rows, 0,
                                                   64, stream),
          "cub::DeviceRadixSort::SortKeysDescending");
    launch("store_sorted", store_sorted, blocks_for(k, kBlock), kBlock, stream, memory.sorted, num_rows, k,
           scores + query * k, rows + query * k);
  }
}

template <class Rows>
void answer(const TopkPlan& plan, const TopkCall& call, const Rows& rows, void* scratch,
            cudaStream_t stream) {
  check(cudaMemsetAsync(call.nonfinite, 0xff, sizeof *call.nonfinite, stream), "cudaMemsetAsync");
  if (call.n == 0) return;
  Scratch pieces(scratch);
  const Memory memory = take_memory(pieces, plan, call.n, rows.size(), call.dim, call.k);
  ScanTask<Rows> task{};
  task.rows = rows;
  task.dim = static_cast<std::uint32_t>(call.dim);
  task.coded = memory.coded;
  task.state = memory.state;
  task.order = order_tiles(tiles_of(rows.size()));
  for (std::size_t first = 0; first < call.n; first += plan.queries) {
    task.n = static_cast<std::uint32_t>(std::min<std::size_t>(call.n - first, plan.queries));
    task.padded = pad(task.n);
    task.coded.group_tiles = group_tiles(task.n);
    task.queries = call.queries + first * call.dim;
    launch("encode_queries", encode_queries, blocks_for(task.padded, kWarpsPerBlock), kBlock, stream,
           task.queries, task.n, task.dim, task.padded, first, task.coded, task.state,
           reinterpret_cast<unsigned long long*>(call.nonfinite));
    float* const scores = call.scores + first * call.k;
    std::int64_t* const numbers = call.rows + first * call.k;
    if (is_sorted(rows.size(), call.k)) {
      sort_scores(task, memory, call.k, scores, numbers, stream);
      continue;
    }
    scan_passes<InnerProduct>(plan, task, stream);
    launch("store_best", store_best, task.n, kSelectBlock, stream, task.state, call.k, scores, numbers);
  }
}

}  // namespace

std::size_t topk_scratch_bytes_by(const TopkPlan& plan, std::size_t n, std::size_t num_rows, std::size_t dim,
                                  std::size_t k) {
  if (n == 0) return 0;
  Scratch scratch(nullptr);
  (void)take_memory(scratch, plan, n, num_rows, dim, k);
  return scratch.used();
}

void topk_by(const TopkPlan& plan, const TopkCall& call, const QuantizedRows& rows, void* scratch,
             Stream stream) {
  answer(plan, call, rows, scratch, stream);
}
void topk_by(const TopkPlan& plan, const TopkCall& call, const RowsWithSkips& rows, void* scratch,
             Stream stream) {
  answer(plan, call, rows, scratch, stream);
}

std::size_t topk_scratch_bytes(std::size_t n, std::size_t num_rows, std::size_t dim, std::size_t k) {
  check_topk_sizes(n, num_rows, dim, k);
  return topk_scratch_bytes_by(plan_topk(n, num_rows, k), n, num_rows, dim, k);
}

void topk_int8(const float* queries, std::size_t n, const std::uint8_t* q, std::size_t num_rows,
               std::size_t dim, std::size_t k, float* scores, std::int64_t* rows, std::uint64_t* nonfinite,
               void* scratch, Stream stream) {
  check_topk_sizes(n, num_rows, dim, k);
  const QuantizedRows searched{q, static_cast<std::uint32_t>(num_rows),
                               static_cast<std::uint32_t>(dim + kQuantizedTail)};
  topk_by(plan_topk(n, num_rows, k), {queries, n, dim, k, scores, rows, nonfinite}, searched, scratch,
          stream);
}

}  // namespace fastinc::cuda
