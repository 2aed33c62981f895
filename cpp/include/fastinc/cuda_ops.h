// The kernels of fastinc/ops.h over device memory: the same results, on the caller's stream. Nothing here waits
// for the device unless it says so, and no size is read back, so that calls can be captured in a CUDA graph.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fastinc/ops.h"

// As in the CUDA runtime, whose headers this needs none of.
struct CUstream_st;

namespace fastinc::cuda {

using Stream = CUstream_st*;

/// Why there is no device to use; empty: there is one. Never throws.
const char* why_unusable() noexcept;

/// Bytes of scratch that update_rows() needs for n ids of a batch and rows of so many dims.
std::size_t update_scratch_bytes(std::size_t n, std::size_t num_rows, std::size_t dim);

/// What a batch came to, in device memory.
struct UpdateReport {
  std::uint32_t skipped;       // rows with a gradient that isn't finite
  std::uint32_t out_of_range;  // ids outside [0, num_rows): 1 + the position of the first
};

/// One optimizer step per distinct id on the float32 sum of its gradients, in the order of the CPU's: the same
/// bytes. Rows whose gradients aren't finite, and ids out of range, are left out and counted in `report`.
///   ids: (n,), grads: (n, dim), scratch: update_scratch_bytes(), report: all in device memory
void update_rows(const OptimizerParams& params, const DenseRows& rows, const std::int64_t* ids, std::size_t n,
                 const float* grads, void* scratch, UpdateReport* report, Stream stream);
void update_rows(const OptimizerParams& params, const DenseRows& rows, const std::int32_t* ids, std::size_t n,
                 const float* grads, void* scratch, UpdateReport* report, Stream stream);

/// nonfinite: set to 1 + the position of a value that isn't finite, else left as it is. Device memory, (1,)
void quantize_rowwise(const float* x, std::size_t n, std::size_t dim, std::uint8_t* q,
                      std::uint64_t* nonfinite, Stream stream);
void dequantize_rowwise(const std::uint8_t* q, std::size_t n, std::size_t dim, float* x, Stream stream);

}  // namespace fastinc::cuda
