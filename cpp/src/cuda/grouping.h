// A batch grouped by row in device memory. Sums of gradients are made in the CPU's order (see cpu/rows.h): 64
// at a time, those sums 64 at a time, and so on. Of long groups, warps sum parts of 64 first; whatever is
// left has at most 64 * 64 parts, which one warp goes through.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/rows.h"
#include "cuda/launch.h"
#include "cuda/scratch.h"

namespace fastinc::cuda {

/// What a group's gradient is the sum of: count rows of the batch, from `first` on in the order of
/// `positions`, or of the sums made of it.
struct Group {
  std::uint32_t first, count;
  bool summed;
};

/// A batch of n gradients, in pieces of scratch memory.
struct Grouping {
  std::size_t n, dim;
  const float* grads;        // (n, dim), the caller's; null: no sums are wanted
  std::uint32_t* count;      // (1,) groups there are
  std::uint32_t* positions;  // (n,) in the batch, by row and then in order
  std::uint64_t* rows;       // (n,) of each group, ascending
  Group* groups;             // (n,)
  float* sums;               // (sums of all levels, dim)
};

/// What making a grouping takes beside it.
struct GroupingScratch {
  void *keys_in, *keys;                         // (n,) 4 or 8 bytes each
  std::uint32_t *positions_in, *heads, *parts;  // (n,)
  std::uint8_t* marks;                          // (n,)
  void* cub;
  std::size_t cub_bytes;
};

/// Lays a grouping of n ids of 0 .. num_rows - 1 out.
Grouping take_grouping(Scratch& scratch, std::size_t n, std::uint64_t num_rows, std::size_t dim,
                       GroupingScratch& more);

/// Group ids by row, those outside [0, num_rows) left out. Id: std::int32_t, std::int64_t or std::uint32_t.
/// No size is read back.
template <class Id>
void group_by_row(const Id* ids, std::uint64_t num_rows, const Grouping& grouping,
                  const GroupingScratch& scratch, cudaStream_t stream);

/// Row j of what a group is the sum of.
__device__ __forceinline__ const float* source(const Grouping& g, const Group& group, std::uint32_t j) {
  const std::uint32_t at = group.first + j;
  return group.summed ? g.sums + std::size_t{at} * g.dim : g.grads + std::size_t{g.positions[at]} * g.dim;
}

/// Value i of the sum of rows [begin, end), at most 64 of them, in order.
__device__ __forceinline__ float sum_part(const Grouping& g, const Group& group, std::uint32_t begin,
                                          std::uint32_t end, std::size_t i) {
  float sum = source(g, group, begin)[i];
#pragma unroll 4
  for (std::uint32_t j = begin + 1; j < end; ++j) sum += source(g, group, j)[i];
  return sum;
}

/// Value i of a group's gradient.
__device__ __forceinline__ float gradient(const Grouping& g, const Group& group, std::size_t i) {
  float sum = sum_part(g, group, 0, min(group.count, kSumGroup), i);
  for (std::uint32_t at = kSumGroup; at < group.count; at += kSumGroup) {
    sum += sum_part(g, group, at, min(group.count, at + kSumGroup), i);
  }
  return sum;
}

}  // namespace fastinc::cuda
