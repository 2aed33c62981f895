#include "search/code_queries.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fastinc {
namespace {

constexpr double kAbove = 1.0 + 0x1p-20;  // so that bounds are bounds as float32 as well
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Values as scale * codes + what is left, which is put in their place. x: (dim,); codes: (dim,)
struct Coded {
  float scale;
  double sum = 0.0, magnitudes = 0.0;  // of what is left

  Coded(std::vector<double>& x, float limit, std::int8_t* codes) {
    double largest = 0.0;
    for (const double v : x) largest = std::max(largest, std::abs(v));
    scale = static_cast<float>(largest / static_cast<double>(limit));
    const double unit = static_cast<double>(scale), most = static_cast<double>(limit);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double code = unit > 0.0 ? std::clamp(std::nearbyint(x[i] / unit), -most, most) : 0.0;
      codes[i] = static_cast<std::int8_t>(code);
      x[i] -= unit * code;
      sum += x[i];
      magnitudes += std::abs(x[i]);
    }
  }
};

/// x: (dim,), used up; codes, residual_codes: (dim,)
void encode(std::vector<double>& x, float limit, Metric metric, bool is_table, std::int8_t* codes,
            std::int8_t* residual_codes, CodeQuery& query) {
  double square = 0.0, sum = 0.0, magnitudes = 0.0;
  for (const double v : x) square += v * v;
  const double norm = metric == Metric::kCosine && square > 0.0 ? std::sqrt(square) : 1.0;
  for (double& v : x) {
    v /= norm;
    sum += v;
    magnitudes += std::abs(v);
  }
  const Coded coarse(x, limit, codes), fine(x, limit, residual_codes);
  const double rounding = static_cast<double>(score_rounding(x.size()));
  double code_width = 255.0 * rounding * magnitudes, rest = 0.0;
  if (is_table && metric != Metric::kL2) {
    code_width += static_cast<double>(kCodeError) * magnitudes;
    rest = static_cast<double>(kRangeError) * magnitudes;
  }
  if (metric == Metric::kL2) rest = 0x1p-20 * square;
  const bool tame =
      (magnitudes >= static_cast<double>(kLeastTame) && magnitudes < static_cast<double>(kMostTame)) ||
      magnitudes == 0.0;
  const auto width = [&](const Coded& of) {
    return tame ? static_cast<float>((127.5 * of.magnitudes + code_width) * kAbove) : kInfinity;
  };
  query = {.codes = codes,
           .scale = coarse.scale,
           .middle = static_cast<float>(127.5 * coarse.sum),
           .sum = static_cast<float>(sum),
           .width = width(coarse),
           .slack = static_cast<float>(rounding * magnitudes * kAbove),
           .rest = static_cast<float>(rest * kAbove),
           .residual_codes = residual_codes,
           .residual_scale = fine.scale,
           .fine_middle = static_cast<float>(127.5 * fine.sum),
           .fine_width = width(fine),
           .square = static_cast<float>(square),
           .threshold = -kInfinity,
           .reach = kInfinity,
           .hits = {},
           .found = 0};
}

}  // namespace

CodedQueries::CodedQueries(const Kernels& kernel, const float* queries, std::size_t n, std::size_t dim,
                           Metric metric, bool is_table)
    : stride_(code_groups(dim) * 4), codes_(2 * n * stride_), queries_(n) {
  const auto limit = static_cast<float>(kernel.scan_code_limit());
  std::vector<double> x(dim);
  for (std::size_t q = 0; q < n; ++q) {
    std::copy_n(queries + q * dim, dim, x.begin());
    std::int8_t* const codes = codes_.data() + 2 * q * stride_;
    encode(x, limit, metric, is_table, codes, codes + stride_, queries_[q]);
  }
}

void set_threshold(CodeQuery& query, float threshold, float rounding) {
  query.threshold = threshold;
  query.reach = threshold < 0.0f ? std::sqrt(-threshold) * (1.0f + 4.0f * rounding) : 0.0f;
}

}  // namespace fastinc
