// Row loops that read: scores, weighted sums, start rows.
#pragma once

#include "cpu/kernels.h"
#include "cpu/rows.h"
#include "cpu/wide.h"
#include "math/lane_sum.h"
#include "math/random.h"
#include "math/scalar.h"

namespace FASTINC_ISA_NAMESPACE {

static void start_row(const Initializer& init, std::int64_t id, float* out, std::size_t dim) {
  const std::uint64_t key = row_key(init.seed, id);
  FASTINC_VECTORIZE
  for (std::size_t i = 0; i < dim; ++i) out[i] = start_value(init, key, i);
}

/// The 32 lanes of lane_sum() for one row, folded to 4.
FASTINC_HD Four fold_product(const float* __restrict query, const float* __restrict x, std::size_t dim) {
  constexpr std::size_t kParts = kLanes / kWideFloats;
  Wide lanes[kParts] = {};
  std::size_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) {
    for (std::size_t p = 0; p < kParts; ++p) {
      lanes[p] += load_wide(query + i + p * kWideFloats) * load_wide(x + i + p * kWideFloats);
    }
  }
  if (dim - i == 1) {  // a bias
    Wide last = {};
    last[0] = query[i] * x[i];
    lanes[0] += last;
  } else if (i < dim) {
    alignas(64) float rest[kLanes];
    __builtin_memcpy(rest, lanes, sizeof lanes);
    for (std::size_t j = 0; i + j < dim; ++j) rest[j] += query[i + j] * x[i + j];
    __builtin_memcpy(lanes, rest, sizeof lanes);
  }
  for (std::size_t half = kParts / 2; half != 0; half /= 2) {
    for (std::size_t p = 0; p < half; ++p) lanes[p] += lanes[p + half];
  }
  Four parts[kWideFloats / 4];
  __builtin_memcpy(parts, lanes, sizeof parts);
  for (std::size_t half = kWideFloats / 8; half != 0; half /= 2) {
    for (std::size_t p = 0; p < half; ++p) parts[p] += parts[p + half];
  }
  return parts[0];
}

/// How many rows ahead to fetch those that come in any order.
inline constexpr std::size_t kRowsAhead = 8;

FASTINC_HD void prefetch_to_read(const float* row, std::size_t dim) {
  for (std::size_t i = 0; i < dim + 15; i += 16) __builtin_prefetch(row + i);
}

/// out[j] = <query, row r[j]>, summed as by dot(). Four rows at a time share the end of the halving tree.
template <std::size_t Dim>
static void score_rows_of(const RowSet& rows, const std::uint32_t* row_numbers, std::size_t n,
                          const float* query, float* out) {
  const auto at = [&](std::size_t j) {
    return row_pointer(rows, rows.weights, row_numbers != nullptr ? row_numbers[j] : j);
  };
  const std::size_t dim = Dim != 0 ? Dim : rows.dim;
  std::size_t j = 0;
  for (; j + 4 <= n; j += 4) {
    if (row_numbers != nullptr && j + 4 + kRowsAhead <= n) {  // rows in order are prefetched anyway
      for (std::size_t k = 0; k < 4; ++k) prefetch_to_read(at(j + kRowsAhead + k), dim);
    }
    const Four a = fold_product(query, at(j), dim), b = fold_product(query, at(j + 1), dim);
    const Four c = fold_product(query, at(j + 2), dim), d = fold_product(query, at(j + 3), dim);
    const Four ab = __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
    const Four cd = __builtin_shufflevector(c, d, 0, 1, 4, 5) + __builtin_shufflevector(c, d, 2, 3, 6, 7);
    const Four sums =
        __builtin_shufflevector(ab, cd, 0, 2, 4, 6) + __builtin_shufflevector(ab, cd, 1, 3, 5, 7);
    __builtin_memcpy(out + j, &sums, sizeof sums);
  }
  for (; j < n; ++j) out[j] = dot(query, at(j), dim);
}

static void score_rows(const RowSet& rows, const std::uint32_t* row_numbers, std::size_t n,
                       const float* query, float* out) {
  switch (rows.dim) {  // item rows have a bias after their vector
    case 32:
      return score_rows_of<32>(rows, row_numbers, n, query, out);
    case 33:
      return score_rows_of<33>(rows, row_numbers, n, query, out);
    case 64:
      return score_rows_of<64>(rows, row_numbers, n, query, out);
    case 65:
      return score_rows_of<65>(rows, row_numbers, n, query, out);
    case 128:
      return score_rows_of<128>(rows, row_numbers, n, query, out);
    case 129:
      return score_rows_of<129>(rows, row_numbers, n, query, out);
    default:
      return score_rows_of<0>(rows, row_numbers, n, query, out);
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
  for_each_block(rows.dim, [&](std::size_t at, auto block) {
    block.load(out + at);
    for (std::size_t j = 0; j < n; ++j) {
      block.add(coefficients[j], row_pointer(rows, rows.weights, row_numbers[j]) + at);
    }
    block.store(out + at);
  });
}

static float sum(const float* x, std::size_t n) {
  return lane_sum(n, [x](std::size_t j) { return x[j]; });
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
