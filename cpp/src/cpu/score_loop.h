// Row loops that read: scores, weighted sums, start rows.
#pragma once

#include "cpu/kernels.h"
#include "cpu/rows.h"
#include "math/lane_sum.h"
#include "math/random.h"
#include "math/scalar.h"

namespace FASTINC_ISA_NAMESPACE {

static void start_row(const Initializer& init, std::int64_t id, float* out, std::size_t dim) {
  const std::uint64_t key = row_key(init.seed, id);
  FASTINC_VECTORIZE
  for (std::size_t i = 0; i < dim; ++i) out[i] = start_value(init, key, i);
}

static void score_rows(const RowSet& rows, const std::uint32_t* row_numbers, std::size_t n,
                       const float* query, float* out) {
  for (std::size_t j = 0; j < n; ++j) {
    const std::uint64_t row = row_numbers != nullptr ? row_numbers[j] : j;
    out[j] = dot(query, row_pointer(rows, rows.weights, row), rows.dim);
  }
}

static void squared_distances(const RowSet& rows, const std::uint32_t* row_numbers, std::size_t n,
                              const float* query, float* out) {
  for (std::size_t j = 0; j < n; ++j) {
    const float* x = row_pointer(rows, rows.weights, row_numbers != nullptr ? row_numbers[j] : j);
    out[j] = lane_sum(rows.dim, [=](std::size_t i) { return (query[i] - x[i]) * (query[i] - x[i]); });
  }
}

static void squared_norms(const RowSet& rows, const std::uint32_t* row_numbers, std::size_t n, float* out) {
  for (std::size_t j = 0; j < n; ++j) {
    const float* x = row_pointer(rows, rows.weights, row_numbers != nullptr ? row_numbers[j] : j);
    out[j] = dot(x, x, rows.dim);
  }
}

static void add_scaled(float* __restrict out, const float* __restrict x, float c, std::size_t n) {
  FASTINC_VECTORIZE
  for (std::size_t i = 0; i < n; ++i) out[i] += c * x[i];
}

static void accumulate_rows(const RowSet& rows, const std::uint32_t* row_numbers, std::size_t n,
                            const float* coefficients, float* __restrict out) {
  for (std::size_t j = 0; j < n; ++j) {
    add_scaled(out, row_pointer(rows, rows.weights, row_numbers[j]), coefficients[j], rows.dim);
  }
}

static float dot_product(const float* a, const float* b, std::size_t n) {
  return dot(a, b, n);
}

static float exponentiate(float* x, std::size_t n, float shift) {
  FASTINC_VECTORIZE
  for (std::size_t j = 0; j < n; ++j) x[j] = exponential(x[j] - shift);
  return lane_sum(n, [x](std::size_t j) { return x[j]; });
}

}  // namespace FASTINC_ISA_NAMESPACE
