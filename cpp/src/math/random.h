// Counter-based random numbers: a value is a function of (seed, id, index) alone.
#pragma once

#include "fastinc/initializer.h"
#include "math/config.h"
#include "math/scalar.h"

namespace FASTINC_ISA_NAMESPACE {

/// The output function of splitmix64 (Steele et al. 2014).
FASTINC_HD std::uint64_t mix_bits(std::uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ull;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebull;
  x ^= x >> 31;
  return x;
}

FASTINC_HD std::uint64_t row_key(std::uint64_t seed, std::int64_t id) {
  return mix_bits(mix_bits(seed + 0x9e3779b97f4a7c15ull) ^ (std::uint64_t(id) * 0xd1342543de82ef95ull + 1));
}

FASTINC_HD std::uint64_t random_bits(std::uint64_t key, std::uint64_t index) {
  return mix_bits(key + (index + 1) * 0x9e3779b97f4a7c15ull);
}

/// Uniform in (0, 1), never an end: 2^-23 * (23 random bits + 1/2), exact in float32.
FASTINC_HD float uniform_open(std::uint64_t bits) {
  return (float(std::uint32_t(bits >> 41)) + 0.5f) * 1.1920928955078125e-7f;
}

/// Standard normal by inversion: sqrt(2) erfinv(2u - 1), M. Giles' single-precision approximation (2012).
FASTINC_HD float standard_normal(float u) {
  const float x = 2.0f * u - 1.0f;
  float w = -natural_logarithm((1.0f - x) * (1.0f + x));
  const bool central = w < 5.0f;
  w = central ? w - 2.5f : square_root(w) - 3.0f;
  float p = central ? 2.81022636e-08f : -0.000200214257f;
  p = p * w + (central ? 3.43273939e-07f : 0.000100950558f);
  p = p * w + (central ? -3.5233877e-06f : 0.00134934322f);
  p = p * w + (central ? -4.39150654e-06f : -0.00367342844f);
  p = p * w + (central ? 0.00021858087f : 0.00573950773f);
  p = p * w + (central ? -0.00125372503f : -0.0076224613f);
  p = p * w + (central ? -0.00417768164f : 0.00943887047f);
  p = p * w + (central ? 0.246640727f : 1.00167406f);
  p = p * w + (central ? 1.50140941f : 2.83297682f);
  return 1.41421356237f * (p * x);
}

FASTINC_HD float start_value(const Initializer& init, std::uint64_t key, std::uint64_t column) {
  const float a = float(init.a), b = float(init.b);
  if (init.kind == InitializerKind::kConstant) return a;
  const float u = uniform_open(random_bits(key, column));
  if (init.kind == InitializerKind::kUniform) return a + (b - a) * u;
  return a + b * standard_normal(u);
}

}  // namespace FASTINC_ISA_NAMESPACE
