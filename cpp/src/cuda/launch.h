// Launches and calls that are checked: errors name the kernel.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace fastinc::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status));
}

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kBlock = 256;  // threads
inline constexpr unsigned kWarpsPerBlock = kBlock / kWarp;

/// Blocks for so many pieces of work; more than a grid can have go round in the kernel (see grid_stride).
inline unsigned blocks_for(std::size_t pieces, std::size_t per_block) {
  const std::size_t blocks = (pieces + per_block - 1) / per_block;
  constexpr std::size_t kMost = std::size_t{1} << 20;
  return static_cast<unsigned>(blocks < 1 ? 1 : (blocks < kMost ? blocks : kMost));
}

__device__ __forceinline__ std::size_t first_warp() {
  return (blockIdx.x * std::size_t{blockDim.x} + threadIdx.x) / kWarp;
}
__device__ __forceinline__ std::size_t warp_count() {
  return gridDim.x * std::size_t{blockDim.x} / kWarp;
}
__device__ __forceinline__ unsigned lane() {
  return threadIdx.x % kWarp;
}

/// lane 0's result of combining all lanes in the order of math/lane_sum.h, given to every lane.
template <class Combine>
__device__ __forceinline__ float halve_lanes(float value, Combine combine) {
  for (unsigned half = kWarp / 2; half != 0; half /= 2) {
    const float other = __shfl_down_sync(0xffffffffu, value, half);
    combine(value, other);
  }
  return __shfl_sync(0xffffffffu, value, 0);
}

}  // namespace fastinc::cuda
