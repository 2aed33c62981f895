// A sparse update the slow way: the documented order of sums, then the functors one weight at a time. The
// engine's bytes must equal these on every instruction set and with any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <variant>
#include <vector>

#include "fastinc/ops.h"
#include "fastinc/optimizer.h"
#include "math/optimizers.h"

namespace fastinc::test {

/// Weights and state of some rows. Arrays the optimizer doesn't have are empty.
struct Rows {
  std::size_t count, dim;
  std::vector<float> weights, state0, state1, row_state;

  Rows(const OptimizerParams& params, std::size_t row_count, std::size_t row_dim)
      : count(row_count), dim(row_dim) {
    const StateShape shape = state_shape(params);
    const float fresh = initial_state(params);
    weights.assign(count * dim, 0.0f);
    if (shape.element_states > 0) state0.assign(count * dim, fresh);
    if (shape.element_states > 1) state1.assign(count * dim, fresh);
    if (shape.row_states > 0) row_state.assign(count, fresh);
  }
  DenseRows view() { return {weights.data(), {state0.data(), state1.data()}, row_state.data(), count, dim}; }
};

/// 64 at a time, those sums 64 at a time, and so on. terms: not empty
inline std::vector<float> grouped_sum(std::vector<std::vector<float>> terms) {
  while (terms.size() > 1) {
    std::vector<std::vector<float>> sums;
    for (std::size_t k = 0; k < terms.size(); ++k) {
      if (k % 64 == 0) {
        sums.push_back(terms[k]);
      } else {
        for (std::size_t i = 0; i < terms[k].size(); ++i) sums.back()[i] += terms[k][i];
      }
    }
    terms = std::move(sums);
  }
  return terms.front();
}

/// 32 lanes, lane j has terms j, j + 32, ...; then the upper half is added to the lower until one is left.
inline float laned_sum(const std::vector<float>& terms) {
  float lanes[32] = {};
  for (std::size_t i = 0; i < terms.size(); ++i) lanes[i % 32] += terms[i];
  for (std::size_t half = 16; half > 0; half /= 2) {
    for (std::size_t j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  }
  return lanes[0];
}

template <class Functor>
void step_one_row(const Functor& functor, Rows& rows, std::size_t row, const std::vector<float>& g) {
  const std::size_t dim = rows.dim;
  float* w = &rows.weights[row * dim];
  std::vector<float> statistic(dim);
  for (std::size_t i = 0; i < dim; ++i) statistic[i] = functor.element_statistic(g[i], w[i]);
  const float mean = Functor::kNeedsStatistic ? laned_sum(statistic) / static_cast<float>(dim) : 0.0f;
  const auto constants = functor.begin_row(rows.row_state.empty() ? nullptr : &rows.row_state[row], mean);
  for (std::size_t i = 0; i < dim; ++i) {
    float none0 = 0.0f, none1 = 0.0f;
    functor.element(constants, g[i], w[i], rows.state0.empty() ? none0 : rows.state0[row * dim + i],
                    rows.state1.empty() ? none1 : rows.state1[row * dim + i]);
  }
}

#define FASTINC_TEST_STEP(Name)                                                                        \
  inline void functor_step(const Name##Params& p, Rows& rows, std::size_t row, std::vector<float> g) { \
    step_one_row(base::Name(p), rows, row, g);                                                         \
  }
FASTINC_FOR_EACH_OPTIMIZER(FASTINC_TEST_STEP)
#undef FASTINC_TEST_STEP

template <class Id>
void reference_update(const OptimizerParams& params, Rows& rows, std::span<const Id> ids,
                      const float* grads) {
  std::map<Id, std::vector<std::vector<float>>> terms;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    terms[ids[i]].emplace_back(grads + i * rows.dim, grads + (i + 1) * rows.dim);
  }
  for (auto& [id, list] : terms) {
    const std::vector<float> sum = grouped_sum(std::move(list));
    std::visit([&, row = static_cast<std::size_t>(id)](const auto& p) { functor_step(p, rows, row, sum); },
               params);
  }
}

/// Every registered optimizer with the settings worth testing: defaults, each kind of weight decay, other
/// values.
inline std::vector<OptimizerParams> optimizer_settings() {
  std::vector<OptimizerParams> settings;
  const auto has = [](const OptimizerParams& params, std::string_view name) {
    return std::visit(
        [&](const auto& p) {
          bool found = false;
          std::decay_t<decltype(p)>::visit_fields(
              p, [&](std::string_view field, auto&&...) { found |= field == name; });
          return found;
        },
        params);
  };
#define FASTINC_TEST_ADD(Name) settings.emplace_back(Name##Params{});
  FASTINC_FOR_EACH_OPTIMIZER(FASTINC_TEST_ADD)
#undef FASTINC_TEST_ADD
  for (std::size_t k = 0, plain = settings.size(); k < plain; ++k) {
    if (has(settings[k], "forgetting_factor")) {
      OptimizerParams forgetting = settings[k];
      set_parameter(forgetting, "forgetting_factor", 0.7);
      settings.push_back(forgetting);
    }
    if (!has(settings[k], "weight_decay")) continue;
    OptimizerParams decayed = settings[k];
    set_parameter(decayed, "weight_decay", 0.03);
    if (has(decayed, "initial_accumulator_value")) set_parameter(decayed, "initial_accumulator_value", 0.1);
    settings.push_back(decayed);
    if (!has(decayed, "decoupled_weight_decay")) continue;
    set_parameter(decayed, "decoupled_weight_decay", 1.0);
    settings.push_back(decayed);
  }
  return settings;
}

inline std::string describe(const OptimizerParams& params) {
  std::string text(optimizer_name(params));
  std::visit(
      [&](const auto& p) {
        std::decay_t<decltype(p)>::visit_fields(p, [&](std::string_view field, const auto& value, auto&&...) {
          text += " " + std::string(field) + "=" + std::to_string(value);
        });
      },
      params);
  return text + ": ";
}

}  // namespace fastinc::test
