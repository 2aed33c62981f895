#include "fastinc/initializer.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"
#include "fastinc/runtime.h"

namespace fastinc {

namespace {

/// Finite as the float32 it is used as.
bool fits(double x) {
  return std::isfinite(static_cast<float>(x));
}

}  // namespace

void validate(const Initializer& init) {
  const char* a = init.kind == InitializerKind::kNormal    ? "mean"
                  : init.kind == InitializerKind::kUniform ? "low"
                                                           : "value";
  const char* b = init.kind == InitializerKind::kNormal ? "std" : "high";
  if (!fits(init.a))
    throw std::invalid_argument(std::string(a) + " = " + number_text(init.a) + " must be finite in float32");
  if (!fits(init.b))
    throw std::invalid_argument(std::string(b) + " = " + number_text(init.b) + " must be finite in float32");
  constexpr double kFarthest = 6.0;  // standard deviations: no start value is farther out
  if (init.kind == InitializerKind::kNormal && init.b < 0.0) {
    throw std::invalid_argument("std = " + number_text(init.b) + " must be >= 0");
  }
  if (init.kind == InitializerKind::kNormal && !fits(std::abs(init.a) + kFarthest * init.b)) {
    throw std::invalid_argument("std = " + number_text(init.b) + " makes start values that overflow float32");
  }
  if (init.kind == InitializerKind::kUniform && (init.a > init.b || !fits(init.b - init.a))) {
    throw std::invalid_argument("low = " + number_text(init.a) + " must be <= high = " + number_text(init.b));
  }
}

void start_row(const Initializer& init, std::int64_t id, float* out, std::size_t dim) {
  kernels().start_row(init, id, out, dim);
}

}  // namespace fastinc
