#include "fastinc/initializer.h"

#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(initializer)

BOOST_AUTO_TEST_CASE(good_ones_pass) {
  validate({InitializerKind::kConstant, -1e38f, 0.0f, 0});
  validate({InitializerKind::kUniform, -1.0f, -1.0f, 0});
  validate({InitializerKind::kNormal, 5.0f, 0.0f, 0});
}

BOOST_AUTO_TEST_CASE(refusals_name_the_argument_and_the_value) {
  const auto refused = [](const Initializer& init, std::initializer_list<std::string_view> parts) {
    check_throws<std::invalid_argument>([&] { validate(init); }, parts);
  };
  refused({InitializerKind::kConstant, kNan, 0.0f, 0}, {"value = ", "nan", "finite"});
  refused({InitializerKind::kUniform, -kInfinity, 0.0f, 0}, {"low = -inf"});
  refused({InitializerKind::kUniform, 0.0f, kInfinity, 0}, {"high = inf"});
  refused({InitializerKind::kUniform, 2.0f, 1.0f, 0}, {"low = 2", "high = 1"});
  refused({InitializerKind::kUniform, -kLargest, kLargest, 0}, {"low", "high"});
  refused({InitializerKind::kNormal, kNan, 1.0f, 0}, {"mean = "});
  refused({InitializerKind::kNormal, 0.0f, -0.5f, 0}, {"std = -0.5", ">= 0"});
}

BOOST_AUTO_TEST_CASE(a_row_depends_on_seed_and_id_alone) {
  std::vector<float> first, again(50), shorter(20), other_id(50), other_seed(50);
  const Initializer init{InitializerKind::kNormal, 0.0f, 1.0f, 3};
  for_each_isa_and_threads([&](const std::string& where) {
    start_row(init, -12345, again.data(), 50);
    if (first.empty()) first = again;
    check_same_bytes(again, first, where + ": ");
  });
  start_row(init, -12345, shorter.data(), 20);
  check_same_bytes(shorter, {first.begin(), first.begin() + 20}, "shorter ");
  start_row(init, 12345, other_id.data(), 50);
  start_row({InitializerKind::kNormal, 0.0f, 1.0f, 4}, -12345, other_seed.data(), 50);
  BOOST_CHECK(other_id != first);
  BOOST_CHECK(other_seed != first);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
