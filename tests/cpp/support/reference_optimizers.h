// The optimizers in double precision, written from the papers' formulas and not from src/math. A new
// optimizer needs a step() here: every test over the registry calls it.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "fastinc/optimizer.h"

namespace fastinc::test {

struct ReferenceRow {
  std::vector<double> w, state0, state1;  // (dim,) each
  double row_state = 0.0;
};

using Gradient = std::vector<double>;

inline void step(const SgdParams& p, ReferenceRow& row, const Gradient& g) {
  for (std::size_t i = 0; i < g.size(); ++i) row.w[i] -= p.lr * (g[i] + p.weight_decay * row.w[i]);
}

inline void step(const MomentumSgdParams& p, ReferenceRow& row, const Gradient& g) {
  for (std::size_t i = 0; i < g.size(); ++i) {
    double& buffer = row.state0[i];
    buffer = p.momentum * buffer + g[i] + p.weight_decay * row.w[i];
    row.w[i] -= p.lr * buffer;
  }
}

inline void step(const AdagradParams& p, ReferenceRow& row, const Gradient& g) {
  for (std::size_t i = 0; i < g.size(); ++i) {
    double gradient = g[i];
    if (p.decoupled_weight_decay) {
      row.w[i] -= p.lr * p.weight_decay * row.w[i];
    } else {
      gradient += p.weight_decay * row.w[i];
    }
    row.state0[i] = p.forgetting_factor * row.state0[i] + gradient * gradient;
    row.w[i] -= p.lr * gradient / (std::sqrt(row.state0[i]) + p.eps);
  }
}

inline void step(const RowWiseAdagradParams& p, ReferenceRow& row, const Gradient& g) {
  Gradient gradient(g);
  double squares = 0.0;
  for (std::size_t i = 0; i < g.size(); ++i) {
    if (!p.decoupled_weight_decay) gradient[i] += p.weight_decay * row.w[i];
    squares += gradient[i] * gradient[i];
  }
  row.row_state = p.forgetting_factor * row.row_state + squares / static_cast<double>(g.size());
  for (std::size_t i = 0; i < g.size(); ++i) {
    if (p.decoupled_weight_decay) row.w[i] -= p.lr * p.weight_decay * row.w[i];
    row.w[i] -= p.lr * gradient[i] / (std::sqrt(row.row_state) + p.eps);
  }
}

inline void step(const AdamParams& p, ReferenceRow& row, const Gradient& g) {
  row.row_state += 1.0;
  const double t = row.row_state;
  for (std::size_t i = 0; i < g.size(); ++i) {
    double gradient = g[i];
    if (p.decoupled_weight_decay) {
      row.w[i] -= p.lr * p.weight_decay * row.w[i];
    } else {
      gradient += p.weight_decay * row.w[i];
    }
    row.state0[i] = p.beta1 * row.state0[i] + (1.0 - p.beta1) * gradient;
    row.state1[i] = p.beta2 * row.state1[i] + (1.0 - p.beta2) * gradient * gradient;
    const double mean = row.state0[i] / (1.0 - std::pow(p.beta1, t));
    const double variance = row.state1[i] / (1.0 - std::pow(p.beta2, t));
    row.w[i] -= p.lr * mean / (std::sqrt(variance) + p.eps);
  }
}

inline void step(const FtrlParams& p, ReferenceRow& row, const Gradient& g) {
  for (std::size_t i = 0; i < g.size(); ++i) {
    double &z = row.state0[i], &n = row.state1[i];
    const double sigma = (std::sqrt(n + g[i] * g[i]) - std::sqrt(n)) / p.lr;
    z += g[i] - sigma * row.w[i];
    n += g[i] * g[i];
    const double sign = z < 0.0 ? -1.0 : 1.0;
    row.w[i] = std::abs(z) <= p.l1 ? 0.0 : -(z - sign * p.l1) / ((p.beta + std::sqrt(n)) / p.lr + p.l2);
  }
}

}  // namespace fastinc::test
