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

void quantize_rowwise(const float* x, std::size_t n, std::size_t dim, std::uint8_t* q, bool check) {
  if (dim == 0) throw std::invalid_argument("x: dim must be at least 1, not 0");
  const auto kernel = kernels().quantize_rows;
  std::atomic<bool> finite{true};
  parallel_ranges(n, dim, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    if (!all_finite(kernel(x + begin * dim, end - begin, dim, q + begin * (dim + kQuantizedTail))))
      finite = false;
  });
  if (check && !finite) check_finite(x, n, dim, "x");  // throws, naming the value
}

void dequantize_rowwise(const std::uint8_t* q, std::size_t n, std::size_t dim, float* x) {
  if (dim == 0) throw std::invalid_argument("q: rows must be at least 9 bytes (1 code, scale, bias)");
  const auto kernel = kernels().dequantize_rows;
  parallel_ranges(n, dim, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    kernel(q + begin * (dim + kQuantizedTail), end - begin, dim, x + begin * dim);
  });
}

}  // namespace fastinc
