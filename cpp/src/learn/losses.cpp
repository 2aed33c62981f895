#include "learn/losses.h"

#include <algorithm>
#include <cmath>

#include "cpu/kernels.h"
#include "math/scalar.h"

namespace fastinc {

float sigmoid(float x) {
  return 1.0f / (1.0f + base::exponential(-x));
}

namespace {

void differentiate_softmax(float* c, std::size_t n) {
  if (n == 1) {
    c[0] = 0.0f;
    return;
  }
  const float sum = kernels().exponentiate(c, n, *std::max_element(c, c + n));
  for (std::size_t j = 0; j < n; ++j) c[j] /= sum;
  c[0] -= 1.0f;
}

void differentiate_bpr(float* c, std::size_t n) {
  const float target = c[0];
  float total = 0.0f;
  for (std::size_t j = 1; j < n; ++j) {
    c[j] = sigmoid(c[j] - target) / static_cast<float>(n - 1);
    total += c[j];
  }
  c[0] = -total;
}

}  // namespace

bool LossTerms::differentiate(std::span<float> scores) const {
  float* const c = scores.data();
  const std::size_t n = scores.size();
  switch (loss) {
    case Loss::kSoftmax:
      differentiate_softmax(c, n);
      break;
    case Loss::kBpr:
      differentiate_bpr(c, n);
      break;
    case Loss::kLogistic:
      c[0] = sigmoid(c[0] + offset) - (labelled ? label : 1.0f);
      for (std::size_t j = 1; j < n; ++j) c[j] = sigmoid(c[j] + offset);
      break;
    case Loss::kMse:
      c[0] = c[0] + offset - label;
      break;
  }
  return (kernels().max_abs_bits(c, n) & 0x7f800000u) != 0x7f800000u;
}

}  // namespace fastinc
