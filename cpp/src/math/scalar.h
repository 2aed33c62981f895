// Scalar functions with the same bytes on every target: only IEEE operations, no libm.
#pragma once

#include "math/config.h"

namespace FASTINC_ISA_NAMESPACE {

FASTINC_HD float square_root(float x) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(x);
#else
  return __builtin_sqrtf(x);
#endif
}

FASTINC_HD double square_root(double x) {
#if defined(__CUDA_ARCH__)
  return __dsqrt_rn(x);
#else
  return __builtin_sqrt(x);
#endif
}

FASTINC_HD float absolute(float x) {
  return x < 0.0f ? -x : x;
}

FASTINC_HD std::uint32_t float_bits(float x) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

FASTINC_HD float bits_float(std::uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

/// a b + c, rounded once. Without the instruction: the product is exact in double, and a sum rounded to odd
/// there rounds to float32 as the exact sum would (Boldo & Melquiond 2008).
FASTINC_HD float fused_multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fmaf(a, b, c);
#else
  const double product = double(a) * double(b);
  double sum = product + double(c);
  const double rest = sum - product;
  const double error = (product - (sum - rest)) + (double(c) - rest);
  std::uint64_t bits;
  __builtin_memcpy(&bits, &sum, sizeof bits);
  const bool inexact = error > 0.0 || error < 0.0;
  if (inexact && (bits & 1u) == 0)
    bits += (error > 0.0) == (sum > 0.0) ? std::uint64_t{1} : ~std::uint64_t{0};
  __builtin_memcpy(&sum, &bits, sizeof sum);
  return static_cast<float>(sum);
#endif
}

/// base^n by squaring: the multiplications, and so the rounding, are the same everywhere.
FASTINC_HD double integer_power(double base, std::uint32_t n) {
  double result = 1.0;
  while (n != 0) {
    if (n & 1u) result *= base;
    base *= base;
    n >>= 1;
  }
  return result;
}

/// e^x in float32 (relative error < 2e-7): 2^k * p(r), |r| <= ln 2 / 2. Saturates at e^-87 .. e^88.
FASTINC_HD float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding and subtracting it rounds to nearest
  const float shifted = x * 1.44269504088896341f + magic;
  const float k = shifted - magic;
  float r = x - k * 0.693359375f;  // ln 2 in two parts
  r = r - k * -2.12194440e-4f;
  float p = 1.9875691500e-4f;  // minimax polynomial of (e^r - 1 - r) / r^2 (Cephes expf)
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const std::uint32_t exponent = (float_bits(shifted) - float_bits(magic)) + 127u;
  return p * bits_float(exponent << 23);
}

/// ln x for normal x > 0 in float32 (relative error < 2e-7): exponent * ln 2 + ln(mantissa) (Cephes logf).
FASTINC_HD float natural_logarithm(float x) {
  const std::uint32_t bits = float_bits(x);
  std::uint32_t exponent_bits = (bits >> 23) & 0xffu;
  float m = bits_float((bits & 0x007fffffu) | 0x3f000000u);  // [0.5, 1)
  float e = float(int(exponent_bits) - 126);
  const bool low = m < 0.707106781186547524f;
  e = low ? e - 1.0f : e;
  m = low ? m + m - 1.0f : m - 1.0f;
  const float z = m * m;
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  float y = m * z * p;
  y = y + e * -2.12194440e-4f;
  y = y - 0.5f * z;
  return (m + y) + e * 0.693359375f;
}

}  // namespace FASTINC_ISA_NAMESPACE
