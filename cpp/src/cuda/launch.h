// Launches and calls that are checked, and what warps do together.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "math/config.h"

namespace fastinc::cuda {

/// The device has too little memory.
class OutOfDeviceMemory : public std::bad_alloc {
 public:
  explicit OutOfDeviceMemory(std::string what) : what_(std::move(what)) {}
  const char* what() const noexcept override { return what_.c_str(); }

 private:
  std::string what_;
};

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const std::string text = std::string("CUDA: ") + what + ": " + cudaGetErrorString(status);
  (void)cudaGetLastError();  // told here, and not once more by a later call
  if (status == cudaErrorMemoryAllocation) throw OutOfDeviceMemory(text);
  throw std::runtime_error(text);
}

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr unsigned kBlock = 256;  // threads
inline constexpr unsigned kWarpsPerBlock = kBlock / kWarp;

/// Blocks for so many pieces of work, of which each block takes per_block at a time. Kernels go round where
/// there are more.
inline unsigned blocks_for(std::size_t pieces, std::size_t per_block) {
  constexpr std::size_t kMost = std::size_t{1} << 20;
  return static_cast<unsigned>(std::clamp<std::size_t>((pieces + per_block - 1) / per_block, 1, kMost));
}

/// Launches the kernel on the stream, its blocks with so many bytes of dynamic shared memory. An error, also
/// of an earlier launch, names it.
template <class... Params, class... Args>
void launch_shared(const char* name, void (*kernel)(Params...), unsigned blocks, unsigned threads,
                   unsigned shared_bytes, cudaStream_t stream, Args&&... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...), name);
  check(cudaGetLastError(), name);
}
template <class... Params, class... Args>
void launch(const char* name, void (*kernel)(Params...), unsigned blocks, unsigned threads,
            cudaStream_t stream, Args&&... args) {
  launch_shared(name, kernel, blocks, threads, 0, stream, std::forward<Args>(args)...);
}

/// A copy of device memory; waits for the stream.
template <class T>
std::vector<T> to_host(const T* device, std::size_t n, cudaStream_t stream) {
  std::vector<T> host(n);
  if (n == 0) return host;
  check(cudaMemcpyAsync(host.data(), device, n * sizeof(T), cudaMemcpyDeviceToHost, stream),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  return host;
}

/// Of the whole grid.
__device__ __forceinline__ std::size_t first_thread() {
  return blockIdx.x * std::size_t{blockDim.x} + threadIdx.x;
}
__device__ __forceinline__ std::size_t thread_count() {
  return gridDim.x * std::size_t{blockDim.x};
}
__device__ __forceinline__ std::size_t first_warp() {
  return first_thread() / kWarp;
}
__device__ __forceinline__ std::size_t warp_count() {
  return thread_count() / kWarp;
}
__device__ __forceinline__ unsigned lane() {
  return threadIdx.x % kWarp;
}

/// What combining all lanes in the order of math/lane_sum.h comes to, for every lane.
template <class Combine>
__device__ __forceinline__ float halve_lanes(float value, Combine combine) {
  for (unsigned half = kWarp / 2; half != 0; half /= 2) {
    const float other = __shfl_down_sync(kAllLanes, value, half);
    combine(value, other);
  }
  return __shfl_sync(kAllLanes, value, 0);
}

}  // namespace fastinc::cuda
