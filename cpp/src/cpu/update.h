// The one path every sparse update takes: refuse or drop bad gradients, group by row, step the rows in
// parallel.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cpu/coalesce.h"
#include "cpu/rows.h"
#include "fastinc/ops.h"
#include "fastinc/optimizer.h"

namespace fastinc {

/// Throws std::invalid_argument naming the first value of x that isn't finite. x: (n, dim), or (n,) for dim 0
void check_finite(const float* x, std::size_t n, std::size_t dim, const char* name);

/// The error of check_finite() for value `at` of x.
[[noreturn]] void refuse_value(const char* name, std::size_t at, std::size_t dim, float value);

/// Throws std::out_of_range naming the first id outside [0, num_rows).
template <class Id>
void check_row_numbers(std::span<const Id> ids, std::size_t num_rows);

/// Of the largest |gradient| of a batch: whether every id's sum of squares is finite, whatever the
/// duplicates.
bool surely_finite(float largest, std::size_t n, std::size_t dim);

/// Of the largest bit pattern of |x|: whether every x is finite.
inline bool all_finite(std::uint32_t max_abs_bits) {
  return max_abs_bits < 0x7f800000u;
}

/// What is left of a batch once rows with non-finite gradients are out of it.
template <class Id>
struct CleanBatch {
  std::span<const Id> ids;
  const float* grads;
  std::size_t skipped = 0;   // distinct ids dropped
  std::vector<Id> kept_ids;  // storage, used only when something was dropped
  std::vector<float> kept_grads;
};

/// A row is bad when a gradient of it, or the sum of squares of its summed gradient, isn't finite in float32.
/// kRaise throws std::invalid_argument naming the id and a place in grads; kSkip drops all of that id's
/// gradients.
template <class Id>
CleanBatch<Id> clean_batch(std::span<const Id> ids, const float* grads, std::size_t dim, NonFinite policy);

/// Allocate what step_rows() needs for n gradients on this thread, so that it can't fail afterwards.
void reserve_step(std::size_t n, std::size_t dim);

/// Step every row of the batch, for which reserve_step() was called; the ids are in range and the gradients
/// clean. Returns how many distinct rows there are.
///   row_numbers: (n,); grads: (n, dim); distinct: (n,) for the distinct rows, ascending, or nullptr
template <class Row>
std::size_t step_rows(const OptimizerParams& params, const RowSet& rows, std::uint64_t num_rows,
                      std::span<const Row> row_numbers, const float* grads, std::uint64_t version,
                      std::uint32_t* distinct = nullptr);

}  // namespace fastinc
