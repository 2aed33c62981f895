// The kernels of fastinc/ops.h over device memory: the same results in the same bytes, on the caller's
// stream. Functions don't wait for the device, and read no size back, unless they say so: calls can be
// captured in a CUDA graph. Arrays and scratch are the caller's, in memory of the current device.
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

/// Makes a device the current one, for as long as it lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

/// Memory of the current device for calls on a stream, in whose order it is made and freed.
class DeviceBuffer {
 public:
  DeviceBuffer(std::size_t bytes, Stream stream);
  ~DeviceBuffer();
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  void* data() const { return data_; }
  /// Copies all of it; the second waits for the stream.
  void from_host(const void* host);
  void to_host(void* host) const;

 private:
  void* data_ = nullptr;
  std::size_t bytes_;
  Stream stream_;
  int device_ = 0;
};

/// Waits for what was put on the stream.
void synchronize(Stream stream);

/// Throws std::invalid_argument where the stream is being captured: `what` waits, `instead` doesn't.
void check_not_capturing(Stream stream, const char* what, const char* instead);

/// What a batch came to.
struct UpdateReport {
  std::uint32_t skipped;       // rows left out because their gradient isn't finite
  std::uint32_t out_of_range;  // 0, or 2^32 - 1 - the position of the first id that has no row
  std::uint32_t largest;       // bits of the largest |gradient|, where check_batch() looked
};

/// Waits for the device.
UpdateReport read_report(const UpdateReport* report, Stream stream);

/// Bytes of scratch that update_rows() needs for n ids of a batch and rows of so many dims.
std::size_t update_scratch_bytes(std::size_t n, std::size_t num_rows, std::size_t dim);

/// Waits for the device. Throws as fastinc::update_rows() does under kRaise. report: (1,), written
void check_batch(const std::int64_t* ids, std::size_t n, std::size_t num_rows, const float* grads,
                 std::size_t dim, UpdateReport* report, Stream stream);
void check_batch(const std::int32_t* ids, std::size_t n, std::size_t num_rows, const float* grads,
                 std::size_t dim, UpdateReport* report, Stream stream);

/// One optimizer step per distinct id on the float32 sum of its gradients. Rows whose gradients aren't finite
/// are left out and counted, ids out of range are left out and told.
///   ids: (n,), grads: (n, dim), scratch: update_scratch_bytes(), report: (1,), written
void update_rows(const OptimizerParams& params, const DenseRows& rows, const std::int64_t* ids, std::size_t n,
                 const float* grads, void* scratch, UpdateReport* report, Stream stream);
void update_rows(const OptimizerParams& params, const DenseRows& rows, const std::int32_t* ids, std::size_t n,
                 const float* grads, void* scratch, UpdateReport* report, Stream stream);

///   x: (n, dim) -> q: (n, dim + 8). nonfinite: (1,) the position of the first value that isn't finite, or
///   all ones; written
void quantize_rowwise(const float* x, std::size_t n, std::size_t dim, std::uint8_t* q,
                      std::uint64_t* nonfinite, Stream stream);
/// Waits for the device. Throws std::invalid_argument naming the value where `nonfinite`, as
/// quantize_rowwise() wrote it, says that there is one. x: (n, dim)
void refuse_nonfinite(const float* x, std::size_t dim, const std::uint64_t* nonfinite, const char* name,
                      Stream stream);
void dequantize_rowwise(const std::uint8_t* q, std::size_t n, std::size_t dim, float* x, Stream stream);

/// Waits for the device. Throws as fastinc::pool_rows() does; ids: (n,) or nullptr. report: 12 bytes, written
void check_pool(const std::int64_t* ids, std::size_t n, std::size_t num_rows, const std::int64_t* offsets,
                std::size_t bags, PoolMode mode, const float* sample_weights, void* report, Stream stream);
void check_pool(const std::int32_t* ids, std::size_t n, std::size_t num_rows, const std::int64_t* offsets,
                std::size_t bags, PoolMode mode, const float* sample_weights, void* report, Stream stream);

/// As fastinc::pool_rows(), without its checks: rows out of range count as zero, and positions as the nearest
/// there are.
void pool_rows(const float* weights, std::size_t num_rows, std::size_t dim, const std::int64_t* ids,
               std::size_t n, const std::int64_t* offsets, std::size_t bags, PoolMode mode,
               const float* sample_weights, float* out, Stream stream);
void pool_rows(const float* weights, std::size_t num_rows, std::size_t dim, const std::int32_t* ids,
               std::size_t n, const std::int64_t* offsets, std::size_t bags, PoolMode mode,
               const float* sample_weights, float* out, Stream stream);
void pool_rows_backward(const float* grads, std::size_t dim, std::size_t n, const std::int64_t* offsets,
                        std::size_t bags, PoolMode mode, const float* sample_weights, float* out,
                        Stream stream);

/// Bytes of scratch that topk_int8() needs. Throws as it does.
std::size_t topk_scratch_bytes(std::size_t n, std::size_t num_rows, std::size_t dim, std::size_t k);

/// The k largest inner products of each query with the rows that dequantize_rowwise() would give: see
/// fastinc/ops.h. A query that isn't finite gets padding.
///   queries: (n, dim), q: (num_rows, dim + 8), scratch: topk_scratch_bytes() -> scores, rows: (n, k)
///   nonfinite: (1,) the position of the first value of queries that isn't finite, or all ones; written
void topk_int8(const float* queries, std::size_t n, const std::uint8_t* q, std::size_t num_rows,
               std::size_t dim, std::size_t k, float* scores, std::int64_t* rows, std::uint64_t* nonfinite,
               void* scratch, Stream stream);

}  // namespace fastinc::cuda
