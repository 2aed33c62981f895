// Adagrad (Duchi et al. 2011), eps outside the root as in FBGEMM and torch:
//   elementwise: h = rho h + g^2;        w -= lr g / (sqrt(h) + eps)
//   rowwise:     h = rho h + mean(g^2);  w -= lr g / (sqrt(h) + eps), one h a row
// rho = 1 is Adagrad as published, in the same bytes; below, a forgetting factor (Haykin, Adaptive Filter
// Theory, on recursive least squares): h remembers about the last 1 / (1 - rho) steps of its row. Weight
// decay: L2 adds wd w to g before both lines; decoupled multiplies w by 1 - lr wd instead.
#pragma once

#include "fastinc/optimizer.h"
#include "math/optimizer_functor.h"

namespace FASTINC_ISA_NAMESPACE {

struct Adagrad : ElementwiseFunctor<AdagradParams> {
  float lr, eps, l2, keep, forgetting;
  explicit Adagrad(const AdagradParams& p)
      : lr(float(p.lr)),
        eps(float(p.eps)),
        l2(p.decoupled_weight_decay ? 0.0f : float(p.weight_decay)),
        keep(p.decoupled_weight_decay ? float(1.0 - p.lr * p.weight_decay) : 1.0f),
        forgetting(float(p.forgetting_factor)) {}

  FASTINC_HD void element(Row, float g, float& w, float& sum, float&) const {
    g = g + l2 * w;
    sum = forgetting * sum + g * g;
    w = keep * w - lr * g / (square_root(sum) + eps);
  }
};

struct RowWiseAdagrad {
  using Params = RowWiseAdagradParams;
  struct Row {
    float keep, multiplier;
  };
  static constexpr bool kNeedsStatistic = true;
  float lr, eps, l2, decoupled, forgetting;
  explicit RowWiseAdagrad(const RowWiseAdagradParams& p)
      : lr(float(p.lr)),
        eps(float(p.eps)),
        l2(p.decoupled_weight_decay ? 0.0f : float(p.weight_decay)),
        decoupled(p.decoupled_weight_decay ? float(p.weight_decay) : 0.0f),
        forgetting(float(p.forgetting_factor)) {}

  FASTINC_HD float element_statistic(float g, float w) const {
    g = g + l2 * w;
    return g * g;
  }
  FASTINC_HD Row begin_row(float* sum, float mean_square) const {
    *sum = forgetting * *sum + mean_square;
    const float multiplier = lr / (square_root(*sum) + eps);
    return {(1.0f - multiplier * l2) - lr * decoupled, multiplier};
  }
  FASTINC_HD void element(Row row, float g, float& w, float&, float&) const {
    w = row.keep * w - row.multiplier * g;
  }
};

}  // namespace FASTINC_ISA_NAMESPACE
