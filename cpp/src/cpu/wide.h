// Vectors as wide as the instruction set's, for loops that compilers don't keep in registers on their own.
#pragma once

#include <cstddef>

#include "math/config.h"

namespace FASTINC_ISA_NAMESPACE {

#if defined(__AVX512F__)
inline constexpr std::size_t kWideFloats = 16;
#elif defined(__AVX2__)
inline constexpr std::size_t kWideFloats = 8;
#else
inline constexpr std::size_t kWideFloats = 4;
#endif

typedef float Wide __attribute__((vector_size(kWideFloats * sizeof(float))));
typedef float Four __attribute__((vector_size(4 * sizeof(float))));

FASTINC_HD Wide load_wide(const float* x) {
  Wide v;
  __builtin_memcpy(&v, x, sizeof v);
  return v;
}

/// A sum of Count floats, Count a multiple of 16, or 1.
template <std::size_t Count>
struct Block {
  static constexpr std::size_t kParts = Count / kWideFloats;
  Wide sum[kParts] = {};

  /// sum += c * x
  FASTINC_HD void add(float c, const float* x) {
    const Wide factor = c - Wide{};
    for (std::size_t p = 0; p < kParts; ++p) sum[p] += factor * load_wide(x + p * kWideFloats);
  }
  FASTINC_HD void load(const float* x) { __builtin_memcpy(sum, x, sizeof sum); }
  FASTINC_HD void store(float* out) const { __builtin_memcpy(out, sum, sizeof sum); }
};

template <>
struct Block<1> {
  float sum = 0.0f;
  FASTINC_HD void add(float c, const float* x) { sum += c * *x; }
  FASTINC_HD void load(const float* x) { sum = *x; }
  FASTINC_HD void store(float* out) const { *out = sum; }
};

/// task(offset, block) for blocks that make up n floats.
template <class Task>
FASTINC_HD void for_each_block(std::size_t n, Task task) {
  std::size_t at = 0;
  for (; at + 64 <= n; at += 64) task(at, Block<64>());
  for (; at + 16 <= n; at += 16) task(at, Block<16>());
  for (; at < n; ++at) task(at, Block<1>());
}

}  // namespace FASTINC_ISA_NAMESPACE
