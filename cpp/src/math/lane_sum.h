// Sums over a row: 32 lanes, then a halving tree, which is the order a warp of 32 threads can reproduce.
#pragma once

#include "math/config.h"

namespace FASTINC_ISA_NAMESPACE {

inline constexpr std::size_t kLanes = 32;

FASTINC_HD float halving_sum(float* lanes) {
  for (std::size_t half = kLanes / 2; half != 0; half /= 2) {
    FASTINC_VECTORIZE
    for (std::size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
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
  return halving_sum(lanes);
}

/// <a, b> in that order.
FASTINC_HD float dot(const float* a, const float* b, std::size_t n) {
  return lane_sum(n, [=](std::size_t i) { return a[i] * b[i]; });
}

}  // namespace FASTINC_ISA_NAMESPACE
