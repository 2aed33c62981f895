// Sums over a row: 32 lanes, then a halving tree, which is the order a warp of 32 threads can reproduce.
#pragma once

#include "math/config.h"

namespace FASTINC_ISA_NAMESPACE {

inline constexpr std::size_t kLanes = 32;

struct Add {
  template <class T>
  FASTINC_HD void operator()(T& a, const T& b) const {
    a = a + b;
  }
};
struct Minimum {
  template <class T>
  FASTINC_HD void operator()(T& a, const T& b) const {
    a = b < a ? b : a;
  }
};
struct Maximum {
  template <class T>
  FASTINC_HD void operator()(T& a, const T& b) const {
    a = b > a ? b : a;
  }
};

/// lanes[i] and lanes[i + half] become one, for half = 16, 8, 4, 2, 1.
template <class Combine>
FASTINC_HD float halve(const float* lanes, Combine combine) {
#if defined(__GNUC__) && !defined(__CUDACC__)
  // As a loop over floats GCC goes through memory for every half: 4 times the cost of a row of 64. Vectors
  // wider than the machine's it takes apart float by float.
  typedef float Lanes4 __attribute__((vector_size(16)));
  Lanes4 parts[kLanes / 4];
  __builtin_memcpy(parts, lanes, sizeof parts);
  for (std::size_t i = 0; i < 4; ++i) combine(parts[i], parts[i + 4]);
  for (std::size_t i = 0; i < 2; ++i) combine(parts[i], parts[i + 2]);
  Lanes4 c = parts[0];
  combine(c, parts[1]);
  float even = c[0], odd = c[1];
  combine(even, float(c[2]));
  combine(odd, float(c[3]));
  combine(even, odd);
  return even;
#else
  float rest[kLanes];
  for (std::size_t i = 0; i < kLanes; ++i) rest[i] = lanes[i];
  for (std::size_t half = kLanes / 2; half != 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) combine(rest[i], rest[i + half]);
  }
  return rest[0];
#endif
}

/// Sum of term(0) .. term(n - 1); lane j takes terms j, j + 32, ... in order.
template <class Term>
FASTINC_HD float lane_sum(std::size_t n, Term term) {
  alignas(64) float lanes[kLanes];
  for (std::size_t j = 0; j < kLanes; ++j) lanes[j] = 0.0f;
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    FASTINC_VECTORIZE
    for (std::size_t j = 0; j < kLanes; ++j) lanes[j] += term(i + j);
  }
  for (std::size_t j = 0; i + j < n; ++j) lanes[j] += term(i + j);
  return halve(lanes, Add());
}

/// <a, b> in that order.
FASTINC_HD float dot(const float* a, const float* b, std::size_t n) {
  return lane_sum(n, [=](std::size_t i) { return a[i] * b[i]; });
}

}  // namespace FASTINC_ISA_NAMESPACE
