#include "cuda/segments.h"

#include <algorithm>
#include <cub/cub.cuh>

#include "cuda/segment_steps.h"

namespace fastinc::cuda {
namespace {

/// Rows as sort keys; those out of range go last, and the first of them is told of.
template <class Id>
__global__ void make_keys(const Id* __restrict__ ids, std::size_t n, std::uint64_t num_rows,
                          std::uint64_t* __restrict__ keys, std::uint32_t* __restrict__ positions,
                          UpdateReport* report) {
  const std::size_t step = gridDim.x * std::size_t{blockDim.x};
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < n; i += step) {
    const auto row = static_cast<std::uint64_t>(ids[i]);  // a negative one is too large
    if (row >= num_rows) atomicMax(&report->out_of_range, 0xffffffffu - static_cast<std::uint32_t>(i));
    keys[i] = row < num_rows ? row : num_rows;
    positions[i] = static_cast<std::uint32_t>(i);
  }
}

/// Where groups begin: (n,) 1 at the first of each row that is in range.
__global__ void mark_heads(const std::uint64_t* __restrict__ keys, std::size_t n, std::uint64_t num_rows,
                           std::uint8_t* __restrict__ heads) {
  const std::size_t step = gridDim.x * std::size_t{blockDim.x};
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < n; i += step) {
    heads[i] = keys[i] < num_rows && (i == 0 || keys[i] != keys[i - 1]);
  }
}

/// heads: where groups begin, in order; in_range: ids that have a row.
__global__ void make_groups(const std::uint32_t* __restrict__ heads, const std::uint32_t* count,
                            const std::uint64_t* __restrict__ keys, std::size_t n, std::uint64_t num_rows,
                            DeviceSegments s) {
  const std::size_t step = gridDim.x * std::size_t{blockDim.x};
  for (std::size_t g = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; g < *count; g += step) {
    std::uint32_t end = static_cast<std::uint32_t>(n);
    if (g + 1 < *count) {
      end = heads[g + 1];
    } else {  // the last: ids out of range may follow
      std::uint32_t low = heads[g], high = end;
      while (low < high) {
        const std::uint32_t middle = low + (high - low) / 2;
        if (keys[middle] < num_rows) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      end = low;
    }
    s.rows[g] = keys[heads[g]];
    s.groups[g] = {heads[g], end - heads[g], 0};
  }
}

__global__ void count_parts(DeviceSegments s, std::uint32_t* __restrict__ parts) {
  const std::size_t step = gridDim.x * std::size_t{blockDim.x};
  for (std::size_t g = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; g < s.n; g += step) {
    const std::uint32_t count = g < *s.count ? s.groups[g].count : 0;
    parts[g] = count > kSumGroup ? (count + kSumGroup - 1) / kSumGroup : 0;
  }
}

/// A warp for each part of 64: its sum in order. ends: (n,) inclusive sums of the parts.
__global__ void sum_parts(DeviceSegments s, const std::uint32_t* __restrict__ ends, std::uint32_t level) {
  const std::uint32_t groups = *s.count;
  const std::uint32_t total = groups == 0 ? 0 : ends[groups - 1];
  for (std::size_t part = first_warp(); part < total; part += warp_count()) {
    std::uint32_t low = 0, high = groups;  // the first group that ends after the part
    while (low < high) {
      const std::uint32_t middle = low + (high - low) / 2;
      if (ends[middle] > part) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    Group group = s.groups[low];
    const std::uint32_t parts = (group.count + kSumGroup - 1) / kSumGroup;
    const std::uint32_t number = static_cast<std::uint32_t>(part) - (ends[low] - parts);
    group.first += number * kSumGroup;
    group.count = min(group.count - number * kSumGroup, std::uint32_t{kSumGroup});
    float* const out = s.sums[level] + part * s.dim;
    for (std::size_t i = lane(); i < s.dim; i += kWarp) out[i] = gradient(s, group, i);
  }
}

/// Groups that were cut are now sums of sums.
__global__ void raise_groups(DeviceSegments s, const std::uint32_t* __restrict__ ends, std::uint32_t level) {
  const std::size_t step = gridDim.x * std::size_t{blockDim.x};
  for (std::size_t g = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; g < *s.count; g += step) {
    const std::uint32_t count = s.groups[g].count;
    if (count <= kSumGroup) continue;
    const std::uint32_t parts = (count + kSumGroup - 1) / kSumGroup;
    s.groups[g] = {ends[g] - parts, parts, level};
  }
}

}  // namespace

template <class Id>
void group(const Id* ids, const GroupScratch& scratch, const DeviceSegments& s, UpdateReport* report,
           Stream stream) {
  const unsigned blocks = blocks_for(s.n, kBlock);
  make_keys<<<blocks, kBlock, 0, stream>>>(ids, s.n, s.num_rows, scratch.keys_in, scratch.positions_in, report);
  check(cudaGetLastError(), "make_keys");
  std::size_t bytes = s.scratch_bytes;
  check(cub::DeviceRadixSort::SortPairs(s.scratch, bytes, scratch.keys_in, scratch.keys, scratch.positions_in,
                                        s.positions, s.n, 0, bits_of(s.num_rows), stream),
        "cub::DeviceRadixSort");
  mark_heads<<<blocks, kBlock, 0, stream>>>(scratch.keys, s.n, s.num_rows, scratch.marks);
  check(cudaGetLastError(), "mark_heads");
  bytes = s.scratch_bytes;
  check(cub::DeviceSelect::Flagged(s.scratch, bytes, thrust::counting_iterator<std::uint32_t>(0),
                                   scratch.marks, scratch.heads, s.count, s.n, stream),
        "cub::DeviceSelect");
  make_groups<<<blocks, kBlock, 0, stream>>>(scratch.heads, s.count, scratch.keys, s.n, s.num_rows, s);
  check(cudaGetLastError(), "make_groups");
  std::uint32_t level = 1;
  for (std::size_t longest = s.n; longest > kSumGroup; longest = (longest + kSumGroup - 1) / kSumGroup) {
    count_parts<<<blocks, kBlock, 0, stream>>>(s, scratch.parts);
    check(cudaGetLastError(), "count_parts");
    bytes = s.scratch_bytes;
    check(cub::DeviceScan::InclusiveSum(s.scratch, bytes, scratch.parts, scratch.heads, s.n, stream),
          "cub::DeviceScan");
    sum_parts<<<blocks_for(sums_at(s.n, level), kWarpsPerBlock), kBlock, 0, stream>>>(s, scratch.heads, level);
    check(cudaGetLastError(), "sum_parts");
    raise_groups<<<blocks, kBlock, 0, stream>>>(s, scratch.heads, level);
    check(cudaGetLastError(), "raise_groups");
    ++level;
  }
}

template void group(const std::int64_t*, const GroupScratch&, const DeviceSegments&, UpdateReport*, Stream);
template void group(const std::int32_t*, const GroupScratch&, const DeviceSegments&, UpdateReport*, Stream);

std::size_t cub_bytes(std::size_t n, std::size_t num_rows) {
  std::size_t sort = 0, select = 0, scan = 0;
  std::uint64_t* const keys = nullptr;
  std::uint32_t* const values = nullptr;
  const auto quiet = [](cudaError_t status) { (void)status; };  // sizes are told without a device, too
  quiet(cub::DeviceRadixSort::SortPairs(nullptr, sort, keys, keys, values, values, n, 0, bits_of(num_rows)));
  quiet(cub::DeviceSelect::Flagged(nullptr, select, thrust::counting_iterator<std::uint32_t>(0),
                                   static_cast<std::uint8_t*>(nullptr), values, values, n));
  quiet(cub::DeviceScan::InclusiveSum(nullptr, scan, values, values, n));
  return std::max({sort, select, scan});
}

}  // namespace fastinc::cuda
