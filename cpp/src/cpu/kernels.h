// The row loops of one instruction set, behind function pointers. One instance per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/code_scan.h"
#include "cpu/rows.h"
#include "fastinc/initializer.h"
#include "fastinc/optimizer.h"

namespace fastinc {

/// Step the rows of the segments. params: the optimizer's XParams; grads: (n, dim);
/// scratch: kSumLevels * dim floats; version: stamped on the rows of a table.
struct UpdateTask {
  const void* params;
  const RowSet* rows;
  const Segments* segments;
  const float* grads;
  std::uint64_t version;
};
using UpdateFn = void (*)(const UpdateTask& task, float* scratch);

/// coefficients[coefficient] * directions[direction]: a part of a row's gradient.
struct GradientTerm {
  std::uint32_t coefficient, direction;
};

/// Rows that are pulled to where they were: strength * (row - anchor) is added to their gradients.
struct Anchoring {
  static constexpr std::uint32_t kNone = UINT32_MAX;
  const std::uint32_t* places =
      nullptr;                    // (rows,) where among the values a row's anchor is; kNone: it has none
  std::size_t rows = 0;           // those from here on have none
  const float* values = nullptr;  // (anchors, dim)
  float strength = 0.0f;

  __attribute__((always_inline)) const float* find(std::uint32_t row, std::size_t dim) const {
    return row < rows && places[row] != kNone ? values + places[row] * dim : nullptr;
  }
};

/// Step n distinct rows; the gradient of row r[j] is the sum of terms[starts[j]] .. terms[starts[j + 1] - 1],
/// in order, shortened, and then what pulls it to its anchor.
struct SumStepTask {
  const void* params;
  const RowSet* rows;
  const std::uint32_t* row_numbers;  // (n,)
  const std::uint32_t* starts;       // (n + 1,)
  std::size_t n;
  const GradientTerm* terms;
  const float* coefficients;
  const float* directions;  // (directions, stride), the first dim of each
  std::size_t stride;
  float max_norm;         // longer gradients are shortened to this length; inf: none are
  std::uint64_t version;  // stamped on the rows of a table
  Anchoring anchors = {};
};
using SumStepFn = void (*)(const SumStepTask& task, float* scratch);  // scratch: dim floats

struct Kernels {
  const char* isa;

  UpdateFn update[kOptimizerCount];
  SumStepFn sum_step[kOptimizerCount];

  /// The largest bit pattern of |x|: at least 0x7f800000 when any value is inf or NaN.
  std::uint32_t (*max_abs_bits)(const float* x, std::size_t n);
  /// 1 if the fixed-order sum of the segment's gradients has a finite sum of squares.
  bool (*segment_is_finite)(const Segments& segments, std::size_t s, const float* grads, std::size_t dim,
                            float* scratch);

  void (*start_row)(const Initializer& init, std::int64_t id, float* out, std::size_t dim);
  /// Returns max_abs_bits of x.
  std::uint32_t (*quantize_rows)(const float* x, std::size_t n, std::size_t dim, std::uint8_t* q);
  void (*dequantize_rows)(const std::uint8_t* q, std::size_t n, std::size_t dim, float* x);

  /// Rows of a table that may be written meanwhile, whole: out[j] = row slots[j] if it is ids[j]'s and wasn't
  /// written while it was read, else done[j] = 0. slots: (n,), kNoSlot allowed; out: (n, dim)
  void (*read_rows)(const RowSet& rows, const std::uint32_t* slots, const std::int64_t* ids, std::size_t n,
                    float* out, std::uint8_t* done);
  /// The same of their int8 copies; out: (n, dim + 8)
  void (*read_codes)(const RowSet& rows, const std::uint32_t* slots, const std::int64_t* ids, std::size_t n,
                     std::uint8_t* out, std::uint8_t* done);

  /// Appends to each query's hits the rows whose score may be its threshold or more.
  void (*scan_codes)(const CodeScan& scan);
  /// Query codes that it can take are from -limit to limit.
  int (*scan_code_limit)();

  /// out[j] = <query, row r[j]>; here and below, row_numbers null means 0 .. n-1
  void (*score_rows)(const RowSet& rows, const std::uint32_t* row_numbers, std::size_t n, const float* query,
                     float* out);
  /// out[j] = |query - row r[j]|^2
  void (*squared_distances)(const RowSet& rows, const std::uint32_t* row_numbers, std::size_t n,
                            const float* query, float* out);
  /// out[j] = |row r[j]|^2
  void (*squared_norms)(const RowSet& rows, const std::uint32_t* row_numbers, std::size_t n, float* out);
  /// out += sum_j coefficients[j] * row r[j], in order of j
  void (*accumulate_rows)(const RowSet& rows, const std::uint32_t* row_numbers, std::size_t n,
                          const float* coefficients, float* out);
  /// out += c * x
  void (*add_scaled)(float* out, const float* x, float c, std::size_t n);
  /// In the fixed order.
  float (*sum)(const float* x, std::size_t n);
  float (*dot)(const float* a, const float* b, std::size_t n);
  /// x[j] = e^(x[j] - shift); returns the sum in the fixed order
  float (*exponentiate)(float* x, std::size_t n, float shift);
};

/// The kernels of the instruction set in use; read once per call, outside every loop.
const Kernels& kernels();

}  // namespace fastinc
