// A batch grouped by row in device memory, and its long groups summed 64 at a time (see cpu/rows.h): whatever
// is left of a group has at most 64 parts, whose sum in order is the CPU's to the bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/rows.h"
#include "cuda/launch.h"
#include "fastinc/cuda_ops.h"

namespace fastinc::cuda {

/// What a group's gradient is the sum of: count rows from `first` on, of the batch (in the order of `positions`)
/// or of the sums of `level`.
struct Group {
  std::uint32_t first, count, level;
};

/// Pointers into the caller's scratch, for n ids.
struct DeviceSegments {
  std::uint32_t* count;            // (1,) how many groups there are
  std::uint32_t* positions;        // (n,) in the batch, by row and then in order
  std::uint64_t* rows;             // (n,) of each group
  Group* groups;                   // (n,)
  float* sums[kSumLevels];         // (sums_at(level), dim) from level 1 on
  const float* grads;              // (n, dim), the caller's
  std::size_t n, dim, num_rows;
  void* scratch;                   // of CUB
  std::size_t scratch_bytes;
};

/// Sums of a level there can be: groups are cut after 64, and each group that is cut has one more.
inline std::size_t sums_at(std::size_t n, std::size_t level) {
  for (std::size_t l = 0; l < level; ++l) n = n / kSumGroup + n / (kSumGroup + 1) + 1;
  return n;
}

/// Row `j` of what a group is the sum of.
__device__ __forceinline__ const float* source(const DeviceSegments& s, const Group& group, std::uint32_t j) {
  if (group.level == 0) return s.grads + std::size_t{s.positions[group.first + j]} * s.dim;
  return s.sums[group.level] + std::size_t{group.first + j} * s.dim;
}

/// Value i of a group's gradient: at most 64 parts, in order.
__device__ __forceinline__ float gradient(const DeviceSegments& s, const Group& group, std::size_t i) {
  float sum = source(s, group, 0)[i];
  for (std::uint32_t j = 1; j < group.count; ++j) sum += source(s, group, j)[i];
  return sum;
}

}  // namespace fastinc::cuda
