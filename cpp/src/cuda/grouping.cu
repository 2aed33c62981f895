#include <algorithm>
#include <bit>
#include <cub/cub.cuh>
#include <limits>

#include "cuda/grouping.h"

namespace fastinc::cuda {
namespace {

// One block groups so many ids by itself: one launch in the place of some ten.
constexpr std::uint32_t kSmallBatch = 2048;
constexpr unsigned kSmallBlock = 1024;
constexpr unsigned kPositionBits = 11;
static_assert(kSmallBatch == 1u << kPositionBits && kSmallBatch == 2 * kSmallBlock);

/// Groups that a warp goes through without cutting them.
constexpr std::size_t kDirect = std::size_t{kSumGroup} * kSumGroup;

bool is_small(std::size_t n, std::uint64_t num_rows) {
  return n <= kSmallBatch && num_rows < std::uint64_t{1} << (64 - kPositionBits);
}
bool has_narrow_keys(std::uint64_t num_rows) {
  return num_rows < std::numeric_limits<std::uint32_t>::max();
}

/// Of keys 0 .. num_rows.
int key_bits(std::uint64_t num_rows) {
  return static_cast<int>(std::bit_width(num_rows));
}

/// As CUB counts fastest; batches are shorter than 2^32.
std::uint32_t narrow(std::size_t n) {
  return static_cast<std::uint32_t>(n);
}

/// Sums of a level there can be: groups are cut after 64, and each group that is cut has one more.
std::size_t sums_of(std::size_t n) {
  return n / kSumGroup + n / (kSumGroup + 1) + 1;
}

/// visit(sums of this level, sums of the levels before it) for each level that n ids need.
template <class Visit>
void for_each_level(std::size_t n, Visit visit) {
  std::size_t most = n, before = 0;
  for (std::size_t longest = n; longest > kDirect; longest = (longest + kSumGroup - 1) / kSumGroup) {
    most = sums_of(most);
    visit(most, before);
    before += most;
  }
}

/// Rows as sort keys; those out of range go last.
template <class Id, class Key>
__global__ void make_keys(const Id* __restrict__ ids, std::size_t n, std::uint64_t num_rows,
                          Key* __restrict__ keys, std::uint32_t* __restrict__ positions) {
  for (std::size_t i = first_thread(); i < n; i += thread_count()) {
    const auto row = static_cast<std::uint64_t>(ids[i]);  // a negative one is too large
    keys[i] = static_cast<Key>(row < num_rows ? row : num_rows);
    positions[i] = static_cast<std::uint32_t>(i);
  }
}

/// heads: (n,) 1 at the first of each row that is in range.
template <class Key>
__global__ void mark_heads(const Key* __restrict__ keys, std::size_t n, std::uint64_t num_rows,
                           std::uint8_t* __restrict__ heads) {
  for (std::size_t i = first_thread(); i < n; i += thread_count()) {
    heads[i] = keys[i] < num_rows && (i == 0 || keys[i] != keys[i - 1]);
  }
}

/// The first place in [low, high) whose key is num_rows, or high.
template <class Key>
__device__ std::uint32_t end_of_rows(const Key* keys, std::uint32_t low, std::uint32_t high,
                                     std::uint64_t num_rows) {
  while (low < high) {
    const std::uint32_t middle = low + (high - low) / 2;
    if (keys[middle] < num_rows) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/// heads: where groups begin, in order.
template <class Key>
__global__ void make_groups(const std::uint32_t* __restrict__ heads, const Key* __restrict__ keys,
                            std::uint64_t num_rows, const __grid_constant__ Grouping g) {
  const std::uint32_t count = *g.count, n = static_cast<std::uint32_t>(g.n);
  for (std::size_t i = first_thread(); i < count; i += thread_count()) {
    const std::uint32_t begin = heads[i];
    const std::uint32_t end = i + 1 < count ? heads[i + 1] : end_of_rows(keys, begin, n, num_rows);
    g.rows[i] = keys[begin];
    g.groups[i] = {begin, end - begin, false};
  }
}

__device__ std::uint32_t parts_of(std::uint32_t count) {
  return count > kSumGroup ? (count + kSumGroup - 1) / kSumGroup : 0;
}

__global__ void count_parts(const __grid_constant__ Grouping g, std::uint32_t* __restrict__ parts) {
  const std::uint32_t count = *g.count;
  for (std::size_t i = first_thread(); i < g.n; i += thread_count()) {
    parts[i] = i < count ? parts_of(g.groups[i].count) : 0;
  }
}

/// A warp for each part of 64. ends: (n,) inclusive sums of the parts; sums: this level's
__global__ void sum_parts(const __grid_constant__ Grouping g, const std::uint32_t* __restrict__ ends,
                          float* __restrict__ sums) {
  const std::uint32_t count = *g.count;
  const std::uint32_t total = count == 0 ? 0 : ends[count - 1];
  for (std::size_t part = first_warp(); part < total; part += warp_count()) {
    std::uint32_t low = 0, high = count;  // to the first group that ends after the part
    while (low < high) {
      const std::uint32_t middle = low + (high - low) / 2;
      if (ends[middle] > part) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    const Group group = g.groups[low];
    const std::uint32_t first_part = ends[low] - parts_of(group.count);
    const std::uint32_t begin = (static_cast<std::uint32_t>(part) - first_part) * kSumGroup;
    const std::uint32_t end = min(group.count, begin + kSumGroup);
    for (std::size_t i = lane(); i < g.dim; i += kWarp) {
      sums[part * g.dim + i] = sum_part(g, group, begin, end, i);
    }
  }
}

/// Groups that were cut are now sums of sums, which begin at `first`.
__global__ void raise_groups(const __grid_constant__ Grouping g, const std::uint32_t* __restrict__ ends,
                             std::uint32_t first) {
  const std::uint32_t count = *g.count;
  for (std::size_t i = first_thread(); i < count; i += thread_count()) {
    const std::uint32_t parts = parts_of(g.groups[i].count);
    if (parts != 0) g.groups[i] = {first + ends[i] - parts, parts, true};
  }
}

/// Sorts keys[0 .. count), bitonically, a thread a pair. count: a power of two up to kSmallBatch
__device__ void sort_block(std::uint64_t* keys, unsigned count) {
  for (unsigned size = 2; size <= count; size *= 2) {
    for (unsigned stride = size / 2; stride > 0; stride /= 2) {
      const unsigned low = 2 * threadIdx.x - (threadIdx.x & (stride - 1)), high = low + stride;
      if (high < count) {
        const std::uint64_t a = keys[low], b = keys[high];
        if ((a > b) == ((low & size) == 0)) {
          keys[low] = b;
          keys[high] = a;
        }
      }
      __syncthreads();
    }
  }
}

/// Sum of `value` over the threads before this one, and of all. shared: one for each warp
__device__ std::uint32_t sum_before(std::uint32_t value, std::uint32_t* shared, std::uint32_t& total) {
  std::uint32_t sum = value;
  for (unsigned step = 1; step < kWarp; step *= 2) {
    const std::uint32_t other = __shfl_up_sync(kAllLanes, sum, step);
    if (lane() >= step) sum += other;
  }
  if (lane() == kWarp - 1) shared[threadIdx.x / kWarp] = sum;
  __syncthreads();
  std::uint32_t before = 0;
  total = 0;
  for (unsigned warp = 0; warp < kSmallBlock / kWarp; ++warp) {
    if (warp < threadIdx.x / kWarp) before += shared[warp];
    total += shared[warp];
  }
  return before + sum - value;
}

/// The whole grouping of a small batch, in one block.
template <class Id>
__global__ void __launch_bounds__(kSmallBlock)
    group_small(const Id* __restrict__ ids, std::uint64_t num_rows, const __grid_constant__ Grouping g) {
  __shared__ std::uint64_t keys[kSmallBatch];  // row, position
  __shared__ std::uint32_t starts[kSmallBatch + 1];
  __shared__ std::uint32_t sums[kSmallBlock / kWarp];
  __shared__ std::uint32_t in_range;
  const auto n = static_cast<std::uint32_t>(g.n);
  for (std::uint32_t i = threadIdx.x; i < kSmallBatch; i += kSmallBlock) {
    const std::uint64_t row = i < n ? static_cast<std::uint64_t>(ids[i]) : num_rows;
    keys[i] = (row < num_rows ? row : num_rows) << kPositionBits | i;
  }
  if (threadIdx.x == 0) in_range = 0;
  __syncthreads();
  unsigned sorted = 1;
  while (sorted < n) sorted *= 2;
  sort_block(keys, sorted);
  bool head[2];
  for (unsigned k = 0; k < 2; ++k) {
    const std::uint32_t i = 2 * threadIdx.x + k;
    const std::uint64_t row = keys[i] >> kPositionBits;
    head[k] = row < num_rows && (i == 0 || row != keys[i - 1] >> kPositionBits);
    if (row < num_rows) atomicMax(&in_range, i + 1);
    if (i < n) g.positions[i] = static_cast<std::uint32_t>(keys[i]) & (kSmallBatch - 1);
  }
  std::uint32_t count;
  std::uint32_t at = sum_before(head[0] + head[1], sums, count);
  for (unsigned k = 0; k < 2; ++k) {
    if (head[k]) starts[at++] = 2 * threadIdx.x + k;
  }
  if (threadIdx.x == 0) {
    starts[count] = in_range;
    *g.count = count;
  }
  __syncthreads();
  for (std::uint32_t i = threadIdx.x; i < count; i += kSmallBlock) {
    g.rows[i] = keys[starts[i]] >> kPositionBits;
    g.groups[i] = {starts[i], starts[i + 1] - starts[i], false};
  }
}

template <class Key, class Id>
void group_large(const Id* ids, std::uint64_t num_rows, const Grouping& g, const GroupingScratch& scratch,
                 cudaStream_t stream) {
  const unsigned blocks = blocks_for(g.n, kBlock);
  auto* const keys_in = static_cast<Key*>(scratch.keys_in);
  auto* const keys = static_cast<Key*>(scratch.keys);
  launch("make_keys", make_keys<Id, Key>, blocks, kBlock, stream, ids, g.n, num_rows, keys_in,
         scratch.positions_in);
  std::size_t bytes = scratch.cub_bytes;
  check(cub::DeviceRadixSort::SortPairs(scratch.cub, bytes, keys_in, keys, scratch.positions_in, g.positions,
                                        narrow(g.n), 0, key_bits(num_rows), stream),
        "cub::DeviceRadixSort::SortPairs");
  launch("mark_heads", mark_heads<Key>, blocks, kBlock, stream, keys, g.n, num_rows, scratch.marks);
  bytes = scratch.cub_bytes;
  check(cub::DeviceSelect::Flagged(scratch.cub, bytes, thrust::counting_iterator<std::uint32_t>(0),
                                   scratch.marks, scratch.heads, g.count, narrow(g.n), stream),
        "cub::DeviceSelect::Flagged");
  launch("make_groups", make_groups<Key>, blocks, kBlock, stream, scratch.heads, keys, num_rows, g);
}

}  // namespace

Grouping take_grouping(Scratch& scratch, std::size_t n, std::uint64_t num_rows, std::size_t dim,
                       GroupingScratch& more) {
  Grouping g{};
  g.n = n;
  g.dim = dim;
  g.count = scratch.take<std::uint32_t>(1);
  g.positions = scratch.take<std::uint32_t>(n);
  g.rows = scratch.take<std::uint64_t>(n);
  g.groups = scratch.take<Group>(n);
  std::size_t sums = 0;
  for_each_level(n, [&](std::size_t most, std::size_t) { sums += most; });
  g.sums = scratch.take<float>(sums * dim);
  if (is_small(n, num_rows)) return g;
  const std::size_t key_bytes = has_narrow_keys(num_rows) ? sizeof(std::uint32_t) : sizeof(std::uint64_t);
  more.keys_in = scratch.take<std::byte>(n * key_bytes);
  more.keys = scratch.take<std::byte>(n * key_bytes);
  more.positions_in = scratch.take<std::uint32_t>(n);
  more.heads = scratch.take<std::uint32_t>(n);
  more.parts = scratch.take<std::uint32_t>(n);
  more.marks = scratch.take<std::uint8_t>(n);
  // The largest of what CUB asks for; a sort of wide keys asks for no less than one of narrow ones.
  std::size_t sort = 0, select = 0, scan = 0;
  std::uint64_t* const keys = nullptr;
  std::uint32_t* const values = nullptr;
  (void)cub::DeviceRadixSort::SortPairs(nullptr, sort, keys, keys, values, values, narrow(n), 0,
                                        key_bits(num_rows));
  (void)cub::DeviceSelect::Flagged(nullptr, select, thrust::counting_iterator<std::uint32_t>(0),
                                   static_cast<std::uint8_t*>(nullptr), values, values, narrow(n));
  (void)cub::DeviceScan::InclusiveSum(nullptr, scan, values, values, narrow(n));
  if (has_narrow_keys(num_rows)) {
    std::uint32_t* const short_keys = nullptr;
    (void)cub::DeviceRadixSort::SortPairs(nullptr, sort, short_keys, short_keys, values, values, narrow(n), 0,
                                          key_bits(num_rows));
  }
  more.cub_bytes = std::max({sort, select, scan});
  more.cub = scratch.take<std::byte>(more.cub_bytes);
  return g;
}

template <class Id>
void group_by_row(const Id* ids, std::uint64_t num_rows, const Grouping& g, const GroupingScratch& scratch,
                  cudaStream_t stream) {
  if (is_small(g.n, num_rows)) {
    launch("group_small", group_small<Id>, 1, kSmallBlock, stream, ids, num_rows, g);
    return;
  }
  if (has_narrow_keys(num_rows)) {
    group_large<std::uint32_t>(ids, num_rows, g, scratch, stream);
  } else {
    group_large<std::uint64_t>(ids, num_rows, g, scratch, stream);
  }
  if (g.grads == nullptr) return;
  const unsigned blocks = blocks_for(g.n, kBlock);
  for_each_level(g.n, [&](std::size_t most, std::size_t before) {
    launch("count_parts", count_parts, blocks, kBlock, stream, g, scratch.parts);
    std::size_t bytes = scratch.cub_bytes;
    check(
        cub::DeviceScan::InclusiveSum(scratch.cub, bytes, scratch.parts, scratch.heads, narrow(g.n), stream),
        "cub::DeviceScan::InclusiveSum");
    launch("sum_parts", sum_parts, blocks_for(most, kWarpsPerBlock), kBlock, stream, g, scratch.heads,
           g.sums + before * g.dim);
    launch("raise_groups", raise_groups, blocks, kBlock, stream, g, scratch.heads,
           static_cast<std::uint32_t>(before));
  });
}

template void group_by_row(const std::int64_t*, std::uint64_t, const Grouping&, const GroupingScratch&,
                           cudaStream_t);
template void group_by_row(const std::int32_t*, std::uint64_t, const Grouping&, const GroupingScratch&,
                           cudaStream_t);
template void group_by_row(const std::uint32_t*, std::uint64_t, const Grouping&, const GroupingScratch&,
                           cudaStream_t);

}  // namespace fastinc::cuda
