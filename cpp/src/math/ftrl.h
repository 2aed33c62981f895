// FTRL-Proximal (McMahan et al. 2013, algorithm 1), each weight on its own:
//   sigma = (sqrt(n + g^2) - sqrt(n)) / lr;  z += g - sigma w;  n += g^2
//   w = 0 where |z| <= l1, else -(z - sgn(z) l1) / ((beta + sqrt(n)) / lr + l2)
#pragma once

#include "fastinc/optimizer.h"
#include "math/optimizer_functor.h"

namespace FASTINC_ISA_NAMESPACE {

struct Ftrl : ElementwiseFunctor<FtrlParams> {
  float lr, beta, l1, l2;
  explicit Ftrl(const FtrlParams& p)
      : lr(float(p.lr)), beta(float(p.beta)), l1(float(p.l1)), l2(float(p.l2)) {}

  FASTINC_HD void element(Row, float g, float& w, float& z, float& n) const {
    const float sum = n + g * g;
    const float root = square_root(sum);
    z = z + (g - (root - square_root(n)) / lr * w);
    n = sum;
    const float shrunk = z < 0.0f ? z + l1 : z - l1;
    const float stepped = -shrunk / ((beta + root) / lr + l2);
    w = absolute(z) <= l1 ? 0.0f : stepped;
  }
};

}  // namespace FASTINC_ISA_NAMESPACE
