// Exact search over a table: by short lists of allowed rows, by a scan with bounds, or by sorting all scores.
#include <algorithm>
#include <cub/cub.cuh>
#include <vector>

#include "cpu/update.h"
#include "cuda/exact_search.h"
#include "cuda/table_search.h"
#include "cuda/table_store.h"
#include "cuda/topk_select.h"

namespace fastinc::cuda {
namespace {

/// A warp for each query: its norm, and whether it is finite.
__global__ void measure_queries(const __grid_constant__ ExactQueries queries, std::size_t n, unsigned dim,
                                float* norms, SearchReport* report) {
  for (std::size_t q = first_warp(); q < n; q += warp_count()) {
    const float* const x = queries.x + q * dim;
    float square = 0.0f;
    unsigned long long bad = ~0ull;
    for (unsigned i = lane(); i < dim; i += kWarp) {
      square += x[i] * x[i];
      if ((base::float_bits(x[i]) & 0x7f800000u) == 0x7f800000u && bad == ~0ull) bad = q * dim + i;
    }
    square = halve_lanes(square, base::Add());
    if (lane() == 0) norms[q] = safe_norm(square);
    if (bad != ~0ull) atomicMin(&report->nonfinite, bad);
  }
}

/// The warp's rank of a row, as a key with `number`.
__device__ __forceinline__ Key key_of_row(const TableQuery& task, std::size_t query, Slot slot,
                                          std::uint32_t number) {
  const float* const rows[1] = {task.rows.weights(slot)};
  float ranks[1];
  rank_rows(task.queries, query, rows, task.rows.dim, ranks);
  return ranks[0] == ranks[0] ? make_key(ranks[0], number) : kNoKey;
}

// --- short lists of allowed rows

/// A block for each query, whose list has at most kMostSelected ids. Keys number the list's ids, which
/// ascend.
__global__ void __launch_bounds__(kSelectBlock)
    answer_listed(const __grid_constant__ TableQuery task, std::size_t k, float* scores, std::int64_t* ids) {
  __shared__ Key keys[kMostSelected];
  const std::size_t query = blockIdx.x;
  const DeviceLists& lists = task.filter.allowed;
  const std::int64_t* const list = lists.ids + lists.first(query);
  const auto count = static_cast<unsigned>(lists.last(query) - lists.first(query));
  unsigned sorted = 1;
  while (sorted < count) sorted *= 2;
  for (unsigned i = threadIdx.x / kWarp; i < sorted; i += kSelectBlock / kWarp) {
    Key key = kNoKey;
    if (i < count && !(task.filter.excluded.count != 0 && task.filter.excluded.has(query, list[i]))) {
      const Slot slot = find_slot(task.index, task.rows, list[i]);
      if (slot != kNoSlot) key = key_of_row(task, query, slot, i);
    }
    if (lane() == 0) keys[i] = key;
  }
  __syncthreads();
  sort_keys(keys, sorted);
  const Answers out{scores, ids, k};
  for (std::size_t i = threadIdx.x; i < k; i += kSelectBlock) {
    const Key key = i < count ? keys[i] : kNoKey;
    store_row(task.queries, out, query, i, key != kNoKey, score_of(key),
              key != kNoKey ? list[row_of(key)] : 0);
  }
}

// --- all scores, sorted

/// Memory to sort all rows by id, and then by score for one query after the other.
struct SortMemory {
  std::uint64_t *id_keys, *sorted_ids;  // (slots,)
  Slot *slots, *order;                  // (slots,) slots by id; kNoSlot where there is no row
  Key *keys, *sorted;                   // (slots,)
  void* cub;
  std::size_t cub_bytes;

  SortMemory(Scratch& scratch, std::size_t n) {
    id_keys = scratch.take<std::uint64_t>(n);
    sorted_ids = scratch.take<std::uint64_t>(n);
    slots = scratch.take<Slot>(n);
    order = scratch.take<Slot>(n);
    keys = scratch.take<Key>(n);
    sorted = scratch.take<Key>(n);
    std::size_t pairs = 0, alone = 0;
    (void)cub::DeviceRadixSort::SortPairs(nullptr, pairs, id_keys, sorted_ids, slots, order, n);
    (void)cub::DeviceRadixSort::SortKeysDescending(nullptr, alone, keys, sorted, n);
    cub_bytes = std::max(pairs, alone);
    cub = scratch.take<std::byte>(cub_bytes);
  }
};

__global__ void list_slots(const __grid_constant__ DeviceRows rows, std::size_t slots, std::uint64_t* id_keys,
                           Slot* numbers) {
  for (std::size_t i = first_thread(); i < slots; i += thread_count()) {
    const auto slot = static_cast<Slot>(i);
    const bool there = rows.version(slot) != 0;
    id_keys[i] = there ? ordered_id(rows.id(slot)) : ~std::uint64_t{0};
    numbers[i] = there ? slot : kNoSlot;
  }
}

/// order: (slots,) by id, so that keys number rows by their ids. keys: (slots,)
__global__ void score_in_order(const __grid_constant__ TableQuery task, std::size_t query,
                               const Slot* __restrict__ order, Key* keys) {
  for (std::size_t i = first_warp(); i < task.slots; i += warp_count()) {
    const Slot slot = order[i];
    Key key = kNoKey;
    if (slot != kNoSlot && !task.filter.refuses(query, task.rows.id(slot))) {
      key = key_of_row(task, query, slot, static_cast<std::uint32_t>(i));
    }
    if (lane() == 0) keys[i] = key;
  }
}

__global__ void store_in_order(const __grid_constant__ TableQuery task, std::size_t query,
                               const Key* __restrict__ keys, const Slot* __restrict__ order,
                               const __grid_constant__ Answers out) {
  for (std::size_t i = first_thread(); i < out.k; i += thread_count()) {
    const Key key = i < task.slots ? keys[i] : kNoKey;
    store_row(task.queries, out, query, i, key != kNoKey, score_of(key),
              key != kNoKey ? task.rows.id(order[row_of(key)]) : 0);
  }
}

void answer_sorted(const TableQuery& task, std::size_t n, const SortMemory& memory, const Answers& out,
                   cudaStream_t stream) {
  const std::size_t slots = task.slots;
  std::size_t bytes = memory.cub_bytes;
  if (slots > 0) {
    launch("list_slots", list_slots, blocks_for(slots, kBlock), kBlock, stream, task.rows, slots,
           memory.id_keys, memory.slots);
    check(cub::DeviceRadixSort::SortPairs(memory.cub, bytes, memory.id_keys, memory.sorted_ids, memory.slots,
                                          memory.order, slots, 0, 64, stream),
          "cub::DeviceRadixSort::SortPairs");
  }
  for (std::size_t query = 0; query < n; ++query) {
    if (slots > 0) {
      launch("score_in_order", score_in_order, blocks_for(slots, kWarpsPerBlock), kBlock, stream, task, query,
             memory.order, memory.keys);
      bytes = memory.cub_bytes;
      check(cub::DeviceRadixSort::SortKeysDescending(memory.cub, bytes, memory.keys, memory.sorted, slots, 0,
                                                     64, stream),
            "cub::DeviceRadixSort::SortKeysDescending");
    }
    launch("store_in_order", store_in_order, blocks_for(out.k, kBlock), kBlock, stream, task, query,
           memory.sorted, memory.order, out);
  }
}

// --- what is common to all

/// Takes room for lists, and copies them there once there is some.
DeviceLists take_lists(Scratch& scratch, const Lists<std::int64_t>& lists, cudaStream_t stream) {
  static_assert(sizeof(std::size_t) == sizeof(std::uint64_t));
  auto* const ids = scratch.take<std::int64_t>(lists.values.size());
  auto* const starts = scratch.take<std::uint64_t>(lists.starts.size());
  if (ids != nullptr) {
    const auto copy = [&](void* to, const void* from, std::size_t bytes) {
      if (bytes == 0) return;
      check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
    };
    copy(ids, lists.values.data(), lists.values.size() * sizeof(std::int64_t));
    copy(starts, lists.starts.data(), lists.starts.size() * sizeof(std::uint64_t));
  }
  return {ids, lists.shared() ? nullptr : starts, lists.values.size()};
}

bool are_short(const Lists<std::int64_t>& lists, std::size_t n) {
  for (std::size_t q = 0; q < (lists.shared() ? std::min<std::size_t>(n, 1) : n); ++q) {
    if (lists.of(q).size() > kMostSelected) return false;
  }
  return true;
}

enum class Way { kListed, kScanned, kSorted };

/// One request, once without memory, to know how much it takes, and once with it.
void search_with(Scratch& scratch, Way way, const TopkPlan* plan, const TableQuery& asked,
                 const RowFilter& filter, std::size_t n, const Answers& out, cudaStream_t stream) {
  TableQuery task = asked;
  auto* const report = scratch.take<SearchReport>(1);
  auto* const norms = scratch.take<float>(n);
  const bool counts_only = report == nullptr;
  task.queries.norms = norms;
  task.filter.excluded = take_lists(scratch, filter.excluded, stream);
  task.filter.has_allowed = filter.allowed.has_value();
  if (filter.allowed) task.filter.allowed = take_lists(scratch, *filter.allowed, stream);
  if (!counts_only) {
    check(cudaMemsetAsync(report, 0xff, sizeof *report, stream), "cudaMemsetAsync");
    launch("measure_queries", measure_queries, blocks_for(n, kWarpsPerBlock), kBlock, stream, task.queries, n,
           task.rows.dim, norms, report);
  }
  SearchReport seen{};
  if (way == Way::kScanned) {
    TableScan scan(scratch, task, plan, n, out.k);
    if (!counts_only) seen = scan.run(task, out, report, stream);
  } else if (way == Way::kSorted) {
    const SortMemory memory(scratch, task.slots);
    if (!counts_only) answer_sorted(task, n, memory, out, stream);
  } else if (!counts_only) {
    launch("answer_listed", answer_listed, static_cast<unsigned>(n), kSelectBlock, stream, task, out.k,
           out.scores, out.ids);
  }
  if (counts_only) return;
  if (way != Way::kScanned) seen = to_host(report, 1, stream).front();
  if (seen.nonfinite == ~0ull) return;
  const auto at = static_cast<std::size_t>(seen.nonfinite);
  refuse_value("queries", at, task.rows.dim, to_host(task.queries.x + at, 1, stream).front());
}

}  // namespace

void search_table(const IndexView& index, const DeviceRows& rows, std::size_t slots,
                  const CudaSearchRequest& request, const TopkPlan* plan, DeviceArray<std::byte>& scratch,
                  float* scores, std::int64_t* ids, cudaStream_t stream) {
  check_shape(request.n, request.k, request.exclude, request.allow);
  if (request.n == 0) return;
  const RowFilter filter = make_filter(request.exclude, request.allow);
  TableQuery task{};
  task.index = index;
  task.rows = rows;
  task.slots = static_cast<std::uint32_t>(slots);
  task.queries = {request.queries, nullptr, request.metric};
  const Answers out{scores, ids, request.k};
  const Way way = filter.allowed && are_short(*filter.allowed, request.n)       ? Way::kListed
                  : TableScan::fits(slots, rows.dim, request.k, request.metric) ? Way::kScanned
                                                                                : Way::kSorted;
  Scratch sizes(nullptr);
  search_with(sizes, way, plan, task, filter, request.n, out, stream);
  reserve_bytes(scratch, sizes.used(), "a search");
  Scratch pieces(scratch.data());
  search_with(pieces, way, plan, task, filter, request.n, out, stream);
}

std::uint64_t TableStore::search(const CudaSearchRequest& request, const TopkPlan* plan, float* scores,
                                 std::int64_t* ids, cudaStream_t stream) {
  const Turn turn(*this, stream);
  search_table(index_.view(), pages_.view(), slot_count_, request, plan, scratch_, scores, ids, stream);
  return version_;
}

std::uint64_t exact_search(const Table& table, const CudaSearchRequest& request, float* scores,
                           std::int64_t* ids, Stream stream) {
  return table.store().search(request, nullptr, scores, ids, stream);
}

std::uint64_t exact_search_by(const TopkPlan& plan, const Table& table, const CudaSearchRequest& request,
                              float* scores, std::int64_t* ids, Stream stream) {
  return table.store().search(request, &plan, scores, ids, stream);
}

}  // namespace fastinc::cuda
