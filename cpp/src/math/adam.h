// Adam (Kingma & Ba 2015), lazy: only rows in the batch move, and t counts the steps of that row.
//   m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   w -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
// Weight decay: L2 adds wd w to g (torch.optim.Adam); decoupled multiplies w by 1 - lr wd first (AdamW).
#pragma once

#include "fastinc/optimizer.h"
#include "math/optimizer_functor.h"

namespace FASTINC_ISA_NAMESPACE {

struct Adam {
  using Params = AdamParams;
  struct Row {
    float step_size, inverse_root_correction;
  };
  static constexpr bool kNeedsStatistic = false;
  double lr, beta1_double, beta2_double;
  float beta1, one_minus_beta1, beta2, one_minus_beta2, eps, l2, keep;

  explicit Adam(const AdamParams& p)
      : lr(p.lr),
        beta1_double(p.beta1),
        beta2_double(p.beta2),
        beta1(float(p.beta1)),
        one_minus_beta1(float(1.0 - p.beta1)),
        beta2(float(p.beta2)),
        one_minus_beta2(float(1.0 - p.beta2)),
        eps(float(p.eps)),
        l2(p.decoupled_weight_decay ? 0.0f : float(p.weight_decay)),
        keep(p.decoupled_weight_decay ? float(1.0 - p.lr * p.weight_decay) : 1.0f) {}

  FASTINC_HD float element_statistic(float, float) const { return 0.0f; }

  /// Steps are a float32, as in torch: exact up to 2^24 and constant from there on.
  static constexpr float kMaxSteps = 16777216.0f;

  FASTINC_HD Row begin_row(float* steps, float) const {
    *steps = *steps + 1.0f;
    const float sane =
        *steps >= 1.0f && *steps <= kMaxSteps ? *steps : kMaxSteps;  // a damaged count isn't cast
    const std::uint32_t t = static_cast<std::uint32_t>(sane);
    const double correction1 = 1.0 - integer_power(beta1_double, t);
    const double correction2 = 1.0 - integer_power(beta2_double, t);
    return {float(lr / correction1), float(1.0 / square_root(correction2))};
  }
  FASTINC_HD void element(Row row, float g, float& w, float& m, float& v) const {
    g = g + l2 * w;
    m = beta1 * m + one_minus_beta1 * g;
    v = beta2 * v + one_minus_beta2 * (g * g);
    w = keep * w - row.step_size * m / (square_root(v) * row.inverse_root_correction + eps);
  }
};

}  // namespace FASTINC_ISA_NAMESPACE
