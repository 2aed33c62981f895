// Between what a score is, from integer inner products: one formula for every instruction set.
#pragma once

#include "cpu/code_scan.h"
#include "math/config.h"
#include "math/scalar.h"

namespace FASTINC_ISA_NAMESPACE {

// What follows bounds; its own bits don't matter: it may be contracted.
FASTINC_HD float multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#elif defined(__FMA__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

FASTINC_HD float magnitude(float x) {
#if defined(__CUDA_ARCH__)
  return fabsf(x);
#else
  return __builtin_fabsf(x);
#endif
}
/// What isn't a number stays so.
FASTINC_HD float at_least_0(float x) {
  return x < 0.0f ? 0.0f : x;
}

/// What the bounds need of 16 rows: see CodeQuery. For kCosine scale and bias are divided by the row's norm.
struct RowTerms {
  alignas(64) float scale[kScanRows], bias[kScanRows];
  alignas(64) float scale_margin[kScanRows], bias_margin[kScanRows];
  alignas(64) float rest_margin[kScanRows];    // kCosine
  alignas(64) float spread[kScanRows];         // kCosine: share that the norm may be off by; kL2: distance
  alignas(64) float square[kScanRows];         // kL2: squared norm,
  alignas(64) float square_margin[kScanRows];  // and its error
  std::uint32_t live, wild;  // a bit for each row that has a place, and for each that is beyond bounds
  float rounding;            // share of a score
};

/// A row's squared norm by its codes, how far that may be off, and how far the row is from its codes.
struct NormTerms {
  float square, error, distance;
  FASTINC_HD NormTerms(float scale, float bias, float sum, float squares, float dim, float root_dim) {
    const float a = scale * (scale * squares), b = 2.0f * scale * bias * sum, c = dim * bias * bias;
    square = a + b + c;
    error = 0x1p-20f * (a + magnitude(b) + c);
    const float code = multiply_add(kCodeError, magnitude(scale), kRangeError);
    distance =
        root_dim * multiply_add(0x1p-20f, multiply_add(255.0f, magnitude(scale), magnitude(bias)), code);
  }
};

template <Metric kMetric>
struct ScoreBounds {
  const CodeQuery& query;
  const RowTerms& rows;

  inline __attribute__((always_inline)) float value(std::size_t j, std::int32_t dot, float middle) const {
    const float inner = multiply_add(query.scale, static_cast<float>(dot), middle);
    return multiply_add(rows.scale[j], inner, rows.bias[j] * query.sum);
  }
  inline __attribute__((always_inline)) float margin(std::size_t j, float value, float width) const {
    float rest = query.rest;
    if constexpr (kMetric == Metric::kCosine) {
      rest = multiply_add(rows.rest_margin[j], query.rest, rows.spread[j] * magnitude(value));
    }
    return multiply_add(rows.scale_margin[j], width, multiply_add(rows.bias_margin[j], query.slack, rest));
  }
  /// kL2: the squared distance to what the codes say, at least (sign -1) or at most (1).
  inline __attribute__((always_inline)) float square(std::size_t j, float value, float width,
                                                     float sign) const {
    const float distance = multiply_add(-2.0f, value, rows.square[j] + query.square);
    return multiply_add(sign, multiply_add(2.0f, margin(j, value, width), rows.square_margin[j]), distance);
  }

  /// Rows whose key is below the limit are not wanted.
  inline __attribute__((always_inline)) float key(std::size_t j, std::int32_t dot) const {
    const float v = value(j, dot, query.middle);
    if constexpr (kMetric == Metric::kL2) {
      const float most = rows.spread[j] + query.reach;
      return multiply_add(most, most, -square(j, v, query.width, -1.0f));
    }
    return v + margin(j, v, query.width);
  }
  inline __attribute__((always_inline)) float limit() const {
    return kMetric == Metric::kL2 ? 0.0f : query.threshold;
  }

  /// By the inner products with the codes of the query, and of its rests.
  inline __attribute__((always_inline)) float fine_value(std::size_t j, std::int32_t dot,
                                                         std::int32_t residual_dot) const {
    return value(j, dot,
                 multiply_add(query.residual_scale, static_cast<float>(residual_dot), query.fine_middle));
  }
  inline __attribute__((always_inline)) float upper(std::size_t j, float v) const {
    if constexpr (kMetric == Metric::kL2) {
      const float root = square_root(at_least_0(square(j, v, query.fine_width, -1.0f)));
      const float least = at_least_0(root - rows.rounding * root - rows.spread[j]);
      return -least * least;
    }
    return v + margin(j, v, query.fine_width);
  }
  inline __attribute__((always_inline)) float lower(std::size_t j, float v) const {
    if constexpr (kMetric == Metric::kL2) {
      const float root = square_root(at_least_0(square(j, v, query.fine_width, 1.0f)));
      const float most = root + rows.rounding * root + rows.spread[j];
      return -most * most;
    }
    return v - margin(j, v, query.fine_width);
  }
};

}  // namespace FASTINC_ISA_NAMESPACE
