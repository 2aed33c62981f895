// Row loops of the optimizers: sum a row's gradients in the fixed order, then one step.
#pragma once

#include "cpu/kernels.h"
#include "cpu/quantize_loop.h"
#include "cpu/rows.h"
#include "cpu/wide.h"
#include "math/lane_sum.h"
#include "math/optimizers.h"

namespace FASTINC_ISA_NAMESPACE {

inline __attribute__((always_inline)) void add_to(float* __restrict sum, const float* __restrict x,
                                                  std::size_t n) {
  FASTINC_VECTORIZE
  for (std::size_t i = 0; i < n; ++i) sum[i] += x[i];
}

inline __attribute__((always_inline)) void copy_to(float* __restrict out, const float* __restrict x,
                                                   std::size_t n) {
  FASTINC_VECTORIZE
  for (std::size_t i = 0; i < n; ++i) out[i] = x[i];
}

/// The row's summed gradient: the gradient itself where there is one, else a sum in scratch (levels of dim
/// floats).
static const float* sum_gradients(const Segments& segments, std::size_t s, const float* grads,
                                  std::size_t dim, float* scratch) {
  const std::uint64_t mask = segments.position_mask();
  const std::uint32_t first = segments.starts[s], n = segments.starts[s + 1] - first;
  const std::uint64_t* keys = segments.keys + first;
  if (n == 1) return grads + (keys[0] & mask) * dim;
  std::uint32_t filled[kSumLevels] = {};
  for (std::uint32_t k = 0; k < n; ++k) {
    const float* x = grads + (keys[k] & mask) * dim;
    if (filled[0]++ == 0) {
      copy_to(scratch, x, dim);
    } else {
      add_to(scratch, x, dim);
    }
    // a full group, or the last one, moves up a level
    for (std::size_t level = 0; filled[level] == kSumGroup && k + 1 < n; ++level) {
      float* sum = scratch + level * dim;
      if (filled[level + 1]++ == 0) {
        copy_to(sum + dim, sum, dim);
      } else {
        add_to(sum + dim, sum, dim);
      }
      filled[level] = 0;
    }
  }
  std::size_t level = 0;
  for (std::size_t up = 1; up < kSumLevels; ++up) {
    if (filled[up] == 0) continue;
    // every lower level holds something here: the last gradients are always in level 0
    add_to(scratch + up * dim, scratch + level * dim, dim);
    level = up;
  }
  return scratch + level * dim;
}

/// One optimizer step of a row. gradient(i) is the summed gradient of weight i.
template <class Functor, class Gradient>
inline __attribute__((always_inline)) void step_row(const Functor& functor, Gradient gradient,
                                                    float* __restrict w, float* __restrict state0,
                                                    float* __restrict state1, float* __restrict row_state,
                                                    std::size_t dim) {
  float mean = 0.0f;
  if constexpr (Functor::kNeedsStatistic) {
    mean = lane_sum(dim, [&](std::size_t i) { return functor.element_statistic(gradient(i), w[i]); }) /
           static_cast<float>(dim);
  }
  const typename Functor::Row row = functor.begin_row(row_state, mean);
  FASTINC_VECTORIZE
  for (std::size_t i = 0; i < dim; ++i) {
    float weight = w[i];
    float s0 = 0.0f, s1 = 0.0f;
    if constexpr (Functor::Params::kElementStates > 0) s0 = state0[i];
    if constexpr (Functor::Params::kElementStates > 1) s1 = state1[i];
    functor.element(row, gradient(i), weight, s0, s1);
    w[i] = weight;
    if constexpr (Functor::Params::kElementStates > 0) state0[i] = s0;
    if constexpr (Functor::Params::kElementStates > 1) state1[i] = s1;
  }
}

template <class Params>
struct RowPointers {
  float *w, *state0 = nullptr, *state1 = nullptr, *row_state = nullptr;
  inline __attribute__((always_inline)) RowPointers(const RowSet& rows, std::uint64_t row)
      : w(row_pointer(rows, rows.weights, row)) {
    if constexpr (Params::kElementStates > 0) state0 = row_pointer(rows, rows.element_state[0], row);
    if constexpr (Params::kElementStates > 1) state1 = row_pointer(rows, rows.element_state[1], row);
    if constexpr (Params::kRowStates > 0) row_state = row_pointer(rows, rows.row_state, row);
  }
};

inline __attribute__((always_inline)) void prefetch_to_write(const void* p, std::size_t bytes) {
  const std::uintptr_t first = reinterpret_cast<std::uintptr_t>(p);
  for (std::uintptr_t line = first & ~std::uintptr_t{63}; line < first + bytes; line += 64) {
    __builtin_prefetch(reinterpret_cast<const void*>(line), 1);
  }
}

/// Everything that a step writes.
template <class Params>
inline __attribute__((always_inline)) void prefetch_row(const RowSet& rows, std::uint64_t row) {
  const std::size_t row_bytes = rows.dim * sizeof(float);
  const RowPointers<Params> p(rows, row);
  if (rows.is_table) {  // header, weights and state are one run
    prefetch_to_write(header_of(p.w), rows.weights.stride * sizeof(float));
    if (rows.has_codes()) {
      prefetch_to_write(code_pointer(rows, row) - sizeof(CodeStamp), rows.code_stride);
    }
    return;
  }
  prefetch_to_write(p.w, row_bytes);
  if constexpr (Params::kElementStates > 0) prefetch_to_write(p.state0, row_bytes);
  if constexpr (Params::kElementStates > 1) prefetch_to_write(p.state1, row_bytes);
  if constexpr (Params::kRowStates > 0) __builtin_prefetch(p.row_state, 1);
}

/// Bring a row's serving copy up to date.
inline __attribute__((always_inline)) void write_codes(const RowSet& rows, std::uint64_t row,
                                                       const float* weights, std::size_t dim) {
  if (!rows.has_codes()) return;
  std::uint8_t* const codes = code_pointer(rows, row);
  const CodeStamp stamp = begin_codes(codes);
  quantize_row(weights, dim, codes);
  end_codes(codes, stamp, true);
}

/// One optimizer step of a row of a row set. A table's may be read meanwhile: finish(weights, stamp) does
/// what else belongs to the write and returns the stamp that the row has then.
template <class Functor, class Gradient, class Finish>
inline __attribute__((always_inline)) void write_row(const Functor& functor, Gradient gradient,
                                                     const RowSet& rows, std::uint64_t row, std::size_t dim,
                                                     Finish finish) {
  const RowPointers<typename Functor::Params> p(rows, row);
  RowHeader* const header = rows.is_table ? header_of(p.w) : nullptr;
  const std::uint64_t stamp = header != nullptr ? begin_write(header) : 0;
  step_row(functor, gradient, p.w, p.state0, p.state1, p.row_state, dim);
  if (header != nullptr) end_write(header, finish(p.w, stamp));
}

/// How many rows ahead to prefetch: enough to cover a memory access at a few tens of ns a row.
inline constexpr std::size_t kPrefetchDistance = 8;

/// Dim: the rows' dim, or 0 for any. A dim that the compiler knows takes half the time.
template <class Functor, std::size_t Dim>
static void update_segments_of(const UpdateTask& task, float* scratch) {
  using Params = typename Functor::Params;
  const Functor functor(*static_cast<const Params*>(task.params));
  const RowSet& rows = *task.rows;
  const Segments& segments = *task.segments;
  const std::size_t dim = Dim != 0 ? Dim : rows.dim;
  const std::uint64_t mask = segments.position_mask();
  for (std::size_t s = 0; s < segments.count; ++s) {
    if (s + kPrefetchDistance < segments.count) {
      const std::uint64_t key = segments.keys[segments.starts[s + kPrefetchDistance]];
      prefetch_row<Params>(rows, key >> segments.position_bits);
      const float* g = task.grads + (key & mask) * dim;
      for (std::size_t i = 0; i < dim; i += 16) __builtin_prefetch(g + i);
    }
    const float* __restrict g = sum_gradients(segments, s, task.grads, dim, scratch);
    const std::uint64_t row = segments.row(s);
    write_row(
        functor, [g](std::size_t i) { return g[i]; }, rows, row, dim,
        [&](const float* weights, std::uint64_t stamp) {
          write_codes(rows, row, weights, dim);
          return next_stamp(stamp, task.version);
        });
  }
}

template <class Functor>
static void update_segments(const UpdateTask& task, float* scratch) {
  switch (task.rows->dim) {
    case 16:
      return update_segments_of<Functor, 16>(task, scratch);
    case 32:
      return update_segments_of<Functor, 32>(task, scratch);
    case 64:
      return update_segments_of<Functor, 64>(task, scratch);
    case 128:
      return update_segments_of<Functor, 128>(task, scratch);
    default:
      return update_segments_of<Functor, 0>(task, scratch);
  }
}

/// out = sum of the terms. Registers hold a block of the sum while the terms go by.
inline __attribute__((always_inline)) void sum_terms(const SumStepTask& task, std::size_t j, std::size_t dim,
                                                     float* __restrict out) {
  const GradientTerm* const begin = task.terms + task.starts[j];
  const GradientTerm* const end = task.terms + task.starts[j + 1];
  for_each_block(dim, [&](std::size_t at, auto block) {
    for (const GradientTerm* t = begin; t != end; ++t) {
      block.add(task.coefficients[t->coefficient], task.directions + t->direction * task.stride + at);
    }
    block.store(out + at);
  });
}

/// Shorten a gradient to the length that it may have. One whose square overflows becomes 0.
inline __attribute__((always_inline)) void clip(float* __restrict g, std::size_t dim, float max_norm) {
  const float norm = square_root(lane_sum(dim, [g](std::size_t i) { return g[i] * g[i]; }));
  if (norm <= max_norm) return;
  const float factor = max_norm / norm;
  for (std::size_t i = 0; i < dim; ++i) g[i] *= factor;
}

/// Add the gradient of strength / 2 |w - anchor|^2: L2-SP (Li, Grandvalet and Davoine 2018).
inline __attribute__((always_inline)) void pull(float* __restrict g, const float* __restrict w,
                                                const float* __restrict anchor, float strength,
                                                std::size_t dim) {
  FASTINC_VECTORIZE
  for (std::size_t i = 0; i < dim; ++i) g[i] += strength * (w[i] - anchor[i]);
}

template <class Functor, std::size_t Dim>
static void sum_step_of(const SumStepTask& task, float* scratch) {
  using Params = typename Functor::Params;
  const Functor functor(*static_cast<const Params*>(task.params));
  const RowSet& rows = *task.rows;
  const std::size_t dim = Dim != 0 ? Dim : rows.dim;
  float* __restrict g = scratch;
  for (std::size_t j = 0; j < task.n; ++j) {
    if (j + kPrefetchDistance < task.n) {
      const std::uint32_t next = task.row_numbers[j + kPrefetchDistance];
      prefetch_row<Params>(rows, next);
      if (const float* const anchor = task.anchors.find(next, dim); anchor != nullptr) {
        for (std::size_t i = 0; i < dim; i += 16) __builtin_prefetch(anchor + i);
      }
    }
    sum_terms(task, j, dim, g);
    if (bits_float(0x7f800000u) > task.max_norm) clip(g, dim, task.max_norm);
    if (const float* const anchor = task.anchors.find(task.row_numbers[j], dim); anchor != nullptr) {
      pull(g, row_pointer(rows, rows.weights, task.row_numbers[j]), anchor, task.anchors.strength, dim);
    }
    write_row(
        functor, [g](std::size_t i) { return g[i]; }, rows, task.row_numbers[j], dim,
        [&](const float* weights, std::uint64_t stamp) {
          write_codes(rows, task.row_numbers[j], weights, dim);
          return next_stamp(stamp, task.version);
        });
  }
}

/// Item rows have a bias after their vector.
template <class Functor>
static void sum_step(const SumStepTask& task, float* scratch) {
  switch (task.rows->dim) {
    case 32:
      return sum_step_of<Functor, 32>(task, scratch);
    case 33:
      return sum_step_of<Functor, 33>(task, scratch);
    case 64:
      return sum_step_of<Functor, 64>(task, scratch);
    case 65:
      return sum_step_of<Functor, 65>(task, scratch);
    case 128:
      return sum_step_of<Functor, 128>(task, scratch);
    case 129:
      return sum_step_of<Functor, 129>(task, scratch);
    default:
      return sum_step_of<Functor, 0>(task, scratch);
  }
}

static std::uint32_t max_abs_bits(const float* x, std::size_t n) {
  return largest_magnitude(x, n);
}

static bool segment_is_finite(const Segments& segments, std::size_t s, const float* grads, std::size_t dim,
                              float* scratch) {
  const float* g = sum_gradients(segments, s, grads, dim, scratch);
  const float squares = lane_sum(dim, [g](std::size_t i) { return g[i] * g[i]; });
  return (float_bits(squares) & 0x7f800000u) != 0x7f800000u;
}

}  // namespace FASTINC_ISA_NAMESPACE
