// The public kernels: validate once, then dispatch.
#include "fastinc/ops.h"

#include <atomic>
#include <cmath>
#include <stdexcept>
#include <string>
#include <variant>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "cpu/update.h"
#include "fastinc/runtime.h"

namespace fastinc {
namespace {

template <class Id>
void check_row_numbers(std::span<const Id> ids, std::size_t num_rows) {
  std::atomic<bool> in_range{true};
  parallel_ranges(ids.size(), 1, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    std::uint64_t largest = 0;  // a negative id is larger than any row
    for (std::size_t i = begin; i < end; ++i) {
      const auto id = static_cast<std::uint64_t>(static_cast<std::int64_t>(ids[i]));
      largest = id > largest ? id : largest;
    }
    if (begin < end && largest >= num_rows) in_range = false;
  });
  if (in_range) return;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || static_cast<std::uint64_t>(ids[i]) >= num_rows) {
      throw std::out_of_range("ids[" + std::to_string(i) + "] = " + std::to_string(ids[i]) +
                              " is out of range for weights with " + std::to_string(num_rows) + " rows");
    }
  }
}

template <class Id>
std::size_t update_dense_rows(const OptimizerParams& params, const DenseRows& dense, std::span<const Id> ids,
                              const float* grads, NonFinite policy) {
  if (dense.dim == 0) throw std::invalid_argument("weights: dim must be at least 1, not 0");
  check_row_numbers(ids, dense.num_rows);
  const CleanBatch<Id> batch = clean_batch(ids, grads, dense.dim, policy);
  float* pages[4] = {dense.weights, dense.element_state[0], dense.element_state[1], dense.row_state};
  RowSet rows;
  rows.dim = dense.dim;
  rows.weights = {&pages[0], 0, dense.dim};
  rows.element_state[0] = {&pages[1], 0, dense.dim};
  rows.element_state[1] = {&pages[2], 0, dense.dim};
  rows.row_state = {&pages[3], 0, 1};
  reserve_step(batch.ids.size(), dense.dim);
  step_rows(params, rows, dense.num_rows, batch.ids, batch.grads, 0);
  return batch.skipped;
}

}  // namespace

std::size_t update_rows(const OptimizerParams& params, const DenseRows& rows,
                        std::span<const std::int64_t> ids, const float* grads, NonFinite policy) {
  return update_dense_rows(params, rows, ids, grads, policy);
}

std::size_t update_rows(const OptimizerParams& params, const DenseRows& rows,
                        std::span<const std::int32_t> ids, const float* grads, NonFinite policy) {
  return update_dense_rows(params, rows, ids, grads, policy);
}

void quantize_rowwise(const float* x, std::size_t n, std::size_t dim, std::uint8_t* q) {
  if (dim == 0) throw std::invalid_argument("x: dim must be at least 1, not 0");
  const auto kernel = kernels().quantize_rows;
  std::atomic<bool> finite{true};
  parallel_ranges(n, dim, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    if (!all_finite(kernel(x + begin * dim, end - begin, dim, q + begin * (dim + kQuantizedTail))))
      finite = false;
  });
  if (!finite) check_finite(x, n, dim, "x");  // throws, naming the value
}

void dequantize_rowwise(const std::uint8_t* q, std::size_t n, std::size_t dim, float* x) {
  if (dim == 0) throw std::invalid_argument("q: rows must be at least 9 bytes (1 code, scale, bias)");
  const auto kernel = kernels().dequantize_rows;
  parallel_ranges(n, dim, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    kernel(q + begin * (dim + kQuantizedTail), end - begin, dim, x + begin * dim);
  });
}

}  // namespace fastinc
