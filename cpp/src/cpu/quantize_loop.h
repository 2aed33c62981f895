// Row loops of the fused 8-bit rowwise format.
#pragma once

#include "cpu/rows.h"
#include "math/lane_sum.h"
#include "math/quantize.h"

namespace FASTINC_ISA_NAMESPACE {

/// x: (dim,), dim >= 1 -> q: (dim + 8,)
inline __attribute__((always_inline)) void quantize_row(const float* __restrict x, std::size_t dim,
                                                        std::uint8_t* __restrict q) {
  // Lanes let the compiler vectorise; min and max don't depend on the order, save for the sign of a zero bias
  // where a row has both 0.0 and -0.0 as its minimum (torch's own choice there varies with dim).
  constexpr std::size_t kWidth = kLanes;
  alignas(64) float low[kWidth], high[kWidth];
  for (std::size_t j = 0; j < kWidth; ++j) low[j] = high[j] = x[0];
  std::size_t i = 0;
  for (; i + kWidth <= dim; i += kWidth) {
    FASTINC_VECTORIZE
    for (std::size_t j = 0; j < kWidth; ++j) {
      const float v = x[i + j];
      low[j] = v < low[j] ? v : low[j];
      high[j] = v > high[j] ? v : high[j];
    }
  }
  for (std::size_t j = 0; i + j < dim; ++j) {
    const float v = x[i + j];
    low[j] = v < low[j] ? v : low[j];
    high[j] = v > high[j] ? v : high[j];
  }
  const RowQuantizer quantizer(halve(low, Minimum()), halve(high, Maximum()));
  FASTINC_VECTORIZE
  for (std::size_t k = 0; k < dim; ++k) q[k] = quantizer.code(x[k]);
  __builtin_memcpy(q + dim, &quantizer.scale, sizeof(float));
  __builtin_memcpy(q + dim + sizeof(float), &quantizer.bias, sizeof(float));
}

/// The largest bit pattern of |x| in a row: at least 0x7f800000 where a value is inf or NaN.
inline __attribute__((always_inline)) std::uint32_t largest_magnitude(const float* __restrict x,
                                                                      std::size_t n) {
  std::uint32_t largest = 0;
  FASTINC_VECTORIZE
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t magnitude = float_bits(x[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

template <std::size_t Dim>
static std::uint32_t quantize_rows_of(const float* x, std::size_t n, std::size_t dim, std::uint8_t* q) {
  if (Dim != 0) dim = Dim;
  std::uint32_t largest = 0;
  for (std::size_t r = 0; r < n; ++r) {
    const std::uint32_t row = largest_magnitude(x + r * dim, dim);
    largest = row > largest ? row : largest;
    quantize_row(x + r * dim, dim, q + r * (dim + 8));
  }
  return largest;
}

static std::uint32_t quantize_rows(const float* x, std::size_t n, std::size_t dim, std::uint8_t* q) {
  switch (dim) {
    case 16:
      return quantize_rows_of<16>(x, n, dim, q);
    case 32:
      return quantize_rows_of<32>(x, n, dim, q);
    case 64:
      return quantize_rows_of<64>(x, n, dim, q);
    case 128:
      return quantize_rows_of<128>(x, n, dim, q);
    default:
      return quantize_rows_of<0>(x, n, dim, q);
  }
}

static void dequantize_rows(const std::uint8_t* q, std::size_t n, std::size_t dim, float* x) {
  for (std::size_t r = 0; r < n; ++r) {
    const std::uint8_t* __restrict codes = q + r * (dim + 8);
    float* __restrict out = x + r * dim;
    float scale, bias;
    __builtin_memcpy(&scale, codes + dim, sizeof(float));
    __builtin_memcpy(&bias, codes + dim + sizeof(float), sizeof(float));
    FASTINC_VECTORIZE
    for (std::size_t i = 0; i < dim; ++i) out[i] = dequantize(codes[i], scale, bias);
  }
}

}  // namespace FASTINC_ISA_NAMESPACE
