// Queries as the scan wants them.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cuda/launch.h"
#include "cuda/topk_metric.h"
#include "cuda/topk_state.h"

namespace fastinc::cuda {

inline constexpr double kQueryCodeLimit = 127;  // query codes are within

template <class Combine>
__device__ __forceinline__ double combine_lanes(double value, Combine combine) {
  for (unsigned half = kWarp / 2; half != 0; half /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, half));
  }
  return value;
}
__device__ __forceinline__ double sum_lanes(double value) {
  return combine_lanes(value, [](double a, double b) { return a + b; });
}

/// A warp encodes a query: see CodeQuery for what bounds what.
__device__ __forceinline__ void encode_query(const float* x, unsigned dim, std::size_t query,
                                             const CodedQueriesView& out) {
  constexpr double kAbove = 1.0 + 0x1p-20;  // so that bounds are bounds as float32 as well
  double largest = 0.0, sum = 0.0, magnitudes = 0.0, rest_sum = 0.0, rests = 0.0, square = 0.0;
  for (unsigned i = lane(); i < dim; i += kWarp)
    square += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  square = sum_lanes(square);
  const double norm = out.normalised && square > 0.0 ? base::square_root(square) : 1.0;
  for (unsigned i = lane(); i < dim; i += kWarp) {
    const double v = static_cast<double>(x[i]) / norm, size = v < 0.0 ? -v : v;
    largest = size > largest ? size : largest;
    sum += v;
    magnitudes += size;
  }
  largest = combine_lanes(largest, [](double a, double b) { return a > b ? a : b; });
  sum = sum_lanes(sum);
  magnitudes = sum_lanes(magnitudes);
  const auto scale = static_cast<float>(largest / kQueryCodeLimit);
  const auto unit = static_cast<double>(scale);
  const unsigned steps = steps_of(dim);
  for (unsigned i = lane(); i < steps * kStepCodes; i += kWarp) {
    const double v = i < dim ? static_cast<double>(x[i]) / norm : 0.0;
    double code = unit > 0.0 ? rint(v / unit) : 0.0;
    code = code > kQueryCodeLimit ? kQueryCodeLimit : (code < -kQueryCodeLimit ? -kQueryCodeLimit : code);
    out.codes[out.place(query, i, steps)] = static_cast<std::uint8_t>(static_cast<std::int8_t>(code));
    const double rest = v - unit * code;
    rest_sum += rest;
    rests += rest < 0.0 ? -rest : rest;
  }
  rest_sum = sum_lanes(rest_sum);
  rests = sum_lanes(rests);
  const auto rounding = static_cast<double>(out.rounding);
  const bool tame =
      (magnitudes >= static_cast<double>(kLeastTame) && magnitudes < static_cast<double>(kMostTame)) ||
      magnitudes == 0.0;
  const double rounded = rounding * magnitudes * kAbove;
  const double width = (127.5 * rests + (255.0 + 1.0 / static_cast<double>(kBiasShare)) * rounded +
                        static_cast<double>(out.code_error) * magnitudes) *
                       kAbove;
  if (lane() == 0) {
    out.terms[query] = {scale, static_cast<float>(127.5 * rest_sum), static_cast<float>(sum),
                        tame ? static_cast<float>(width) : __builtin_inff()};
    constexpr double kBelow = 1.0 - 0x1p-18;
    if (out.squares != nullptr) out.squares[query] = static_cast<float>(square * kBelow);
  }
}

}  // namespace fastinc::cuda
