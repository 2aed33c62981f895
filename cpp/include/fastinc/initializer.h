// Start values of rows: a function of (seed, id, column) alone, so that a row can be computed before it
// exists.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastinc {

enum class InitializerKind : std::uint8_t { kConstant, kUniform, kNormal };

struct Initializer {
  InitializerKind kind = InitializerKind::kConstant;
  double a = 0.0;  // constant: the value; uniform: low; normal: mean
  double b = 0.0;  // uniform: high; normal: standard deviation
  std::uint64_t seed = 0;
};

/// Throws std::invalid_argument for a non-finite bound, low > high or std < 0.
void validate(const Initializer& init);

/// The start row of `id`; out: (dim,)
void start_row(const Initializer& init, std::int64_t id, float* out, std::size_t dim);

}  // namespace fastinc
