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
  // As a loop over an array GCC goes through memory for every half: 4 times the cost of a row of 64.
  typedef float Lanes16 __attribute__((vector_size(64)));
  typedef float Lanes8 __attribute__((vector_size(32)));
  typedef float Lanes4 __attribute__((vector_size(16)));
  Lanes16 a, a_high;
  __builtin_memcpy(&a, lanes, sizeof a);
  __builtin_memcpy(&a_high, lanes + 16, sizeof a);
  combine(a, a_high);
  Lanes8 b = __builtin_shufflevector(a, a, 0, 1, 2, 3, 4, 5, 6, 7);
  combine(b, __builtin_shufflevector(a, a, 8, 9, 10, 11, 12, 13, 14, 15));
  Lanes4 c = __builtin_shufflevector(b, b, 0, 1, 2, 3);
  combine(c, __builtin_shufflevector(b, b, 4, 5, 6, 7));
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
