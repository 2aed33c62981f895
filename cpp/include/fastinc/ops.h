// Kernels over the caller's arrays. In place, no copies; each function validates once and changes nothing on
// error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "fastinc/optimizer.h"

namespace fastinc {

enum class NonFinite : std::uint8_t { kRaise, kSkip };

enum class PoolMode : std::uint8_t { kSum, kMean };

/// Bytes a quantised row has beyond its codes: float32 scale, float32 bias.
inline constexpr std::size_t kQuantizedTail = 8;

/// Caller-owned rows: weights and, per optimizer, its state.
struct DenseRows {
  float* weights;           // (num_rows, dim)
  float* element_state[2];  // (num_rows, dim) each, as many as the optimizer has
  float* row_state;         // (num_rows,) where the optimizer has one
  std::size_t num_rows;
  std::size_t dim;
};

/// One optimizer step per distinct id on the float32 sum of its gradients.
///   ids:   (n,) row numbers, repeats allowed; out of range throws std::out_of_range
///   grads: (n, dim)
/// Returns how many rows were skipped for a non-finite gradient (0 under kRaise, which throws
/// std::invalid_argument instead). Same bytes for any thread count and instruction set.
std::size_t update_rows(const OptimizerParams& params, const DenseRows& rows,
                        std::span<const std::int64_t> ids, const float* grads, NonFinite policy);
std::size_t update_rows(const OptimizerParams& params, const DenseRows& rows,
                        std::span<const std::int32_t> ids, const float* grads, NonFinite policy);

/// Fused 8-bit rowwise format (FBGEMM's and torch's): codes, scale, bias.
///   x: (n, dim) -> q: (n, dim + 8). Throws std::invalid_argument for a non-finite value, if `check` says so;
///   q then holds anything.
void quantize_rowwise(const float* x, std::size_t n, std::size_t dim, std::uint8_t* q, bool check = true);

///   q: (n, dim + 8) -> x: (n, dim)
void dequantize_rowwise(const std::uint8_t* q, std::size_t n, std::size_t dim, float* x);

/// Sum or mean (or weighted sum) of rows per bag, in order.
///   weights: (num_rows, dim); ids: (n,) row numbers; offsets: (bags,) first position of each bag, from 0 on,
///   non-decreasing; sample_weights: (n,) for kSum, or nullptr; out: (bags, dim), an empty bag is zero
void pool_rows(const float* weights, std::size_t num_rows, std::size_t dim, std::span<const std::int64_t> ids,
               std::span<const std::int64_t> offsets, PoolMode mode, const float* sample_weights, float* out);
void pool_rows(const float* weights, std::size_t num_rows, std::size_t dim, std::span<const std::int32_t> ids,
               std::span<const std::int64_t> offsets, PoolMode mode, const float* sample_weights, float* out);

/// The gradient of each id's row in pool_rows(). grads: (bags, dim), of its result; out: (n, dim)
void pool_rows_backward(const float* grads, std::size_t dim, std::size_t n,
                        std::span<const std::int64_t> offsets, PoolMode mode, const float* sample_weights,
                        float* out);

/// The k largest inner products of each query with the rows that dequantize_rowwise() would give, best first,
/// equal float32 scores by smaller row: none is left out.
///   queries: (n, dim), finite; q: (num_rows, dim + 8), dim at most 65536
///   scores, rows: (n, k), padded with score -3.4028235e38 and row -1
/// Scores are float32 sums in the same bytes for any thread count and instruction set; one that float32
/// arithmetic would overflow on the way to is summed in float64 and saturates. A row whose values aren't
/// finite has no place. Throws std::invalid_argument, naming the argument and the value.
void topk_int8(const float* queries, std::size_t n, const std::uint8_t* q, std::size_t num_rows,
               std::size_t dim, std::size_t k, float* scores, std::int64_t* rows);

/// The largest |x[i]|; infinity where one isn't finite. x: (n,)
float largest_magnitude(const float* x, std::size_t n);

}  // namespace fastinc
