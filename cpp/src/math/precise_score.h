// Scores beyond what float32 arithmetic reaches, and where it does: the same for the CPU and for CUDA.
#pragma once

#include <cfloat>

#include "fastinc/metric.h"
#include "math/config.h"
#include "math/scalar.h"

namespace FASTINC_ISA_NAMESPACE {

FASTINC_HD float saturate(double x) {
  constexpr double kLargest = FLT_MAX;
  return static_cast<float>(x > kLargest ? kLargest : (x < -kLargest ? -kLargest : x));
}

/// Outside this range a float32 norm, or a product of two, may overflow or lose its digits.
FASTINC_HD bool is_safe_square(float squared_norm) {
  return squared_norm > 1e-30f && squared_norm < 1e30f;
}

/// The rare score that float32 arithmetic can't reach.
FASTINC_HD float precise_score(Metric metric, const float* q, const float* x, std::size_t dim) {
  double ip = 0.0, qq = 0.0, xx = 0.0, distance = 0.0;
  for (std::size_t i = 0; i < dim; ++i) {
    const double a = static_cast<double>(q[i]), b = static_cast<double>(x[i]);
    ip += a * b;
    qq += a * a;
    xx += b * b;
    distance += (a - b) * (a - b);
  }
  if (metric == Metric::kL2) return saturate(distance);
  if (metric == Metric::kIp) return saturate(ip);
  constexpr double kNone = 1e-80;  // codes can't tell rows shorter than 1e-40 from zero
  if (qq == 0.0 || xx < kNone) return 0.0f;
  return saturate(ip / (square_root(qq) * square_root(xx)));
}

}  // namespace FASTINC_ISA_NAMESPACE
