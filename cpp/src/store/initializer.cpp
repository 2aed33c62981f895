#include "fastinc/initializer.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"

namespace fastinc {

void validate(const Initializer& init) {
  const char* a = init.kind == InitializerKind::kNormal ? "mean" : init.kind == InitializerKind::kUniform ? "low"
                                                                                                         : "value";
  const char* b = init.kind == InitializerKind::kNormal ? "std" : "high";
  if (!std::isfinite(init.a)) throw std::invalid_argument(std::string(a) + " = " + std::to_string(init.a) + " must be finite");
  if (!std::isfinite(init.b)) throw std::invalid_argument(std::string(b) + " = " + std::to_string(init.b) + " must be finite");
  if (init.kind == InitializerKind::kNormal && init.b < 0.0f) {
    throw std::invalid_argument("std = " + std::to_string(init.b) + " must be >= 0");
  }
  if (init.kind == InitializerKind::kUniform && (init.a > init.b || !std::isfinite(init.b - init.a))) {
    throw std::invalid_argument("low = " + std::to_string(init.a) + " must be <= high = " + std::to_string(init.b));
  }
}

void start_row(const Initializer& init, std::int64_t id, float* out, std::size_t dim) {
  kernels().start_row(init, id, out, dim);
}

}  // namespace fastinc
