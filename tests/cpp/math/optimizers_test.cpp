// The functors, one row, many steps, against the formulas in double precision.
#include "math/optimizers.h"

#include <cmath>

#include "support/reference_optimizers.h"
#include "support/reference_update.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(optimizers)

namespace {

std::vector<double> doubles(const std::vector<float>& x) {
  return {x.begin(), x.end()};
}

double largest_difference(const std::vector<float>& got, const std::vector<double>& expected) {
  double largest = 0.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    largest = std::max(largest,
                       std::abs(static_cast<double>(got[i]) - expected[i]) / (1.0 + std::abs(expected[i])));
  }
  return largest;
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_optimizer_follows_its_formula) {
  constexpr std::size_t kDim = 37;
  for (const OptimizerParams& params : optimizer_settings()) {
    Generator random(5);
    Rows row(params, 1, kDim);
    row.weights = uniform_floats(random, kDim);
    ReferenceRow reference{doubles(row.weights), doubles(row.state0), doubles(row.state1),
                           static_cast<double>(initial_state(params))};
    double worst = 0.0;
    for (int k = 0; k < 50; ++k) {
      const std::vector<float> g = uniform_floats(random, kDim, -2.0f, 2.0f);
      std::visit(
          [&](const auto& p) {
            functor_step(p, row, 0, g);
            step(p, reference, doubles(g));
          },
          params);
      worst = std::max({worst, largest_difference(row.weights, reference.w),
                        largest_difference(row.state0, reference.state0),
                        largest_difference(row.state1, reference.state1),
                        largest_difference(row.row_state, {reference.row_state})});
    }
    BOOST_CHECK_MESSAGE(worst < 2e-5, describe(params) << "off by " << worst);
  }
}

BOOST_AUTO_TEST_CASE(zero_gradient_moves_only_what_the_formula_moves) {
  for (const OptimizerParams& params : optimizer_settings()) {
    Generator random(6);
    Rows row(params, 1, 8);
    row.weights = uniform_floats(random, 8);
    const std::vector<float> before = row.weights;
    ReferenceRow reference{doubles(row.weights), doubles(row.state0), doubles(row.state1),
                           static_cast<double>(initial_state(params))};
    std::visit([&](const auto& p) { step(p, reference, Gradient(8, 0.0)); }, params);
    if (reference.w != doubles(before)) continue;  // its formula moves such a row: weight decay, say
    std::visit([&](const auto& p) { functor_step(p, row, 0, std::vector<float>(8, 0.0f)); }, params);
    check_same_bytes(row.weights, before, describe(params));
  }
}

BOOST_AUTO_TEST_CASE(adam_stays_finite_after_ten_million_steps) {
  const base::Adam adam{AdamParams{}};
  float steps = 1e7f;
  const base::Adam::Row row = adam.begin_row(&steps, 0.0f);
  BOOST_CHECK_EQUAL(row.step_size, 0.001f);
  BOOST_CHECK_EQUAL(row.inverse_root_correction, 1.0f);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
