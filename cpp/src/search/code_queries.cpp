#include "search/code_queries.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fastinc {
namespace {

constexpr double kAbove = 1.0 + 0x1p-20;  // so that bounds are bounds as float32 as well
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// x: (dim,), used up; codes: (dim,)
void encode(std::vector<double>& x, float limit, Metric metric, bool is_table, std::int8_t* codes,
            CodeQuery& query) {
  double largest = 0.0, square = 0.0;
  for (const double v : x) {
    largest = std::max(largest, std::abs(v));
    square += v * v;
  }
  if (metric == Metric::kCosine && square > 0.0) {
    const double norm = std::sqrt(square);
    for (double& v : x) v /= norm;
    largest /= norm;
  }
  const auto scale = static_cast<float>(largest / static_cast<double>(limit));
  double sum = 0.0, rest_sum = 0.0, rests = 0.0, magnitudes = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double code = scale > 0.0f ? std::nearbyint(x[i] / static_cast<double>(scale)) : 0.0;
    codes[i] =
        static_cast<std::int8_t>(std::clamp(code, -static_cast<double>(limit), static_cast<double>(limit)));
    const double rest = x[i] - static_cast<double>(scale) * codes[i];
    sum += x[i];
    rest_sum += rest;
    rests += std::abs(rest);
    magnitudes += std::abs(x[i]);
  }
  const double rounding = static_cast<double>(score_rounding(x.size()));
  double width = 127.5 * rests + 255.0 * rounding * magnitudes, rest = 0.0;
  if (is_table && metric != Metric::kL2) {
    width += static_cast<double>(kCodeError) * magnitudes;
    rest = static_cast<double>(kRangeError) * magnitudes;
  }
  if (metric == Metric::kL2) rest = 0x1p-20 * square;
  const bool tame =
      (magnitudes >= static_cast<double>(kLeastTame) && magnitudes < static_cast<double>(kMostTame)) ||
      magnitudes == 0.0;
  query = {.codes = codes,
           .scale = scale,
           .middle = static_cast<float>(127.5 * rest_sum),
           .sum = static_cast<float>(sum),
           .width = tame ? static_cast<float>(width * kAbove) : kInfinity,
           .slack = static_cast<float>(rounding * magnitudes * kAbove),
           .rest = static_cast<float>(rest * kAbove),
           .square = static_cast<float>(square),
           .threshold = -kInfinity,
           .reach = kInfinity,
           .hits = {},
           .found = 0};
}

}  // namespace

CodedQueries::CodedQueries(const Kernels& kernel, const float* queries, std::size_t n, std::size_t dim,
                           Metric metric, bool is_table)
    : stride_(code_groups(dim) * 4), codes_(n * stride_), queries_(n) {
  const auto limit = static_cast<float>(kernel.scan_code_limit());
  std::vector<double> x(dim);
  for (std::size_t q = 0; q < n; ++q) {
    std::copy_n(queries + q * dim, dim, x.begin());
    encode(x, limit, metric, is_table, codes_.data() + q * stride_, queries_[q]);
  }
}

void set_threshold(CodeQuery& query, float threshold, float rounding) {
  query.threshold = threshold;
  query.reach = threshold < 0.0f ? std::sqrt(-threshold) * (1.0f + 4.0f * rounding) : 0.0f;
}

}  // namespace fastinc
