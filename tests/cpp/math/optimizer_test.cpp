// The registry: optimizers and their parameters by name.
#include "fastinc/optimizer.h"

#include <limits>
#include <set>

#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(optimizer)

namespace {

std::vector<OptimizerParams> all_optimizers() {
  return {
#define FASTINC_TEST_ITEM(Name) Name##Params{},
      FASTINC_FOR_EACH_OPTIMIZER(FASTINC_TEST_ITEM)
#undef FASTINC_TEST_ITEM
  };
}

struct Field {
  std::string name;
  bool is_flag;
  Range range;
};

std::vector<Field> fields(const OptimizerParams& params) {
  std::vector<Field> found;
  std::visit(
      [&](const auto& p) {
        std::decay_t<decltype(p)>::visit_fields(
            p, [&](std::string_view name, const auto& value, auto... range) {
              Field field{std::string(name), std::is_same_v<std::decay_t<decltype(value)>, bool>,
                          Range::kNonNegative};
              ((field.range = range), ...);
              found.push_back(field);
            });
      },
      params);
  return found;
}

}  // namespace

BOOST_AUTO_TEST_CASE(names_are_distinct_and_make_what_they_name) {
  std::set<std::string_view> names;
  for (const OptimizerParams& params : all_optimizers()) {
    const std::string_view name = optimizer_name(params);
    BOOST_CHECK(names.insert(name).second);
    BOOST_CHECK_EQUAL(make_optimizer(name).index(), params.index());
  }
  BOOST_CHECK_EQUAL(names.size(), kOptimizerCount);
}

BOOST_AUTO_TEST_CASE(an_unknown_name_is_refused) {
  for (const char* name : {"adamw", "", "Sgd", "sgd "}) {
    check_throws<std::invalid_argument>([&] { make_optimizer(name); },
                                        {"optimizer = '", name, "not registered"});
  }
}

BOOST_AUTO_TEST_CASE(state_shapes) {
  const auto shape = [](const char* name) { return state_shape(make_optimizer(name)); };
  BOOST_CHECK_EQUAL(shape("sgd").floats(64), 0u);
  BOOST_CHECK_EQUAL(shape("momentum_sgd").floats(64), 64u);
  BOOST_CHECK_EQUAL(shape("adagrad").floats(64), 64u);
  BOOST_CHECK_EQUAL(shape("rowwise_adagrad").floats(64), 1u);
  BOOST_CHECK_EQUAL(shape("adam").floats(64), 129u);
}

BOOST_AUTO_TEST_CASE(initial_state_follows_its_parameter) {
  OptimizerParams params = make_optimizer("rowwise_adagrad");
  BOOST_CHECK_EQUAL(initial_state(params), 0.0f);
  set_parameter(params, "initial_accumulator_value", 0.25);
  BOOST_CHECK_EQUAL(initial_state(params), 0.25f);
  BOOST_CHECK_EQUAL(initial_state(make_optimizer("adam")), 0.0f);
}

BOOST_AUTO_TEST_CASE(every_parameter_can_be_set_and_read) {
  for (OptimizerParams params : all_optimizers()) {
    for (const Field& field : fields(params)) {
      const double value = field.is_flag ? 1.0 : 0.125;
      set_parameter(params, field.name, value);
      BOOST_CHECK_EQUAL(get_parameter(params, field.name), value);
    }
    for (const Field& field : fields(params)) {
      BOOST_CHECK_EQUAL(get_parameter(params, field.name), field.is_flag ? 1.0 : 0.125);
    }
  }
}

BOOST_AUTO_TEST_CASE(values_out_of_range_are_refused_and_change_nothing) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  for (OptimizerParams params : all_optimizers()) {
    for (const Field& field : fields(params)) {
      const double before = get_parameter(params, field.name);
      std::vector<double> bad = {-1.0, -1e-30, kInf, -kInf, std::numeric_limits<double>::quiet_NaN(), 1e39};
      if (field.is_flag) bad.push_back(0.5);
      if (field.range == Range::kPositive) bad.insert(bad.end(), {0.0, 1e-60});
      if (field.range == Range::kFactor) bad.insert(bad.end(), {0.0, 1e-60, 1.0000001});
      if (field.range == Range::kUnitInterval) bad.insert(bad.end(), {1.0, 2.0});
      for (const double value : bad) {
        check_throws<std::invalid_argument>([&] { set_parameter(params, field.name, value); },
                                            {field.name + " = ", " must be "});
        BOOST_CHECK_EQUAL(get_parameter(params, field.name), before);
      }
    }
  }
  check_throws<std::invalid_argument>(
      [] {
        OptimizerParams params = make_optimizer("sgd");
        set_parameter(params, "lr", -0.5);
      },
      {"lr = -0.5 must be finite and >= 0"});
}

BOOST_AUTO_TEST_CASE(unknown_parameters_are_refused) {
  OptimizerParams params = make_optimizer("sgd");
  check_throws<std::invalid_argument>([&] { set_parameter(params, "beta1", 0.9); }, {"'beta1'", "sgd"});
  check_throws<std::invalid_argument>([&] { get_parameter(params, ""); }, {"''", "sgd"});
}

BOOST_AUTO_TEST_CASE(a_shared_optimizer_can_be_tuned) {
  Optimizer optimizer(make_optimizer("adam"));
  optimizer.set("lr", 0.5);
  BOOST_CHECK_EQUAL(get_parameter(optimizer.params(), "lr"), 0.5);
  BOOST_CHECK_THROW(optimizer.set("lr", -1.0), std::invalid_argument);
  BOOST_CHECK_EQUAL(get_parameter(optimizer.params(), "lr"), 0.5);
  BOOST_CHECK_EQUAL(optimizer.shape().element_states, 2);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
