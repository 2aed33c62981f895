// SGD: w -= lr (G + wd w). With momentum mu (torch.optim.SGD, no dampening): b = mu b + G + wd w; w -= lr b.
#pragma once

#include "fastinc/optimizer.h"
#include "math/optimizer_functor.h"

namespace FASTINC_ISA_NAMESPACE {

struct Sgd : ElementwiseFunctor<SgdParams> {
  float lr, weight_decay;
  explicit Sgd(const SgdParams& p) : lr(float(p.lr)), weight_decay(float(p.weight_decay)) {}

  FASTINC_HD void element(Row, float g, float& w, float&, float&) const { w -= lr * (g + weight_decay * w); }
};

struct MomentumSgd : ElementwiseFunctor<MomentumSgdParams> {
  float lr, momentum, weight_decay;
  explicit MomentumSgd(const MomentumSgdParams& p)
      : lr(float(p.lr)), momentum(float(p.momentum)), weight_decay(float(p.weight_decay)) {}

  FASTINC_HD void element(Row, float g, float& w, float& buffer, float&) const {
    buffer = momentum * buffer + (g + weight_decay * w);
    w -= lr * buffer;
  }
};

}  // namespace FASTINC_ISA_NAMESPACE
