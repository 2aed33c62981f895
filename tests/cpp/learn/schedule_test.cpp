#include "fastinc/schedule.h"

#include <cmath>
#include <limits>

#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(schedule)

using Kind = Schedule::Kind;

BOOST_AUTO_TEST_CASE(factors_are_those_of_the_formula) {
  const auto close = [](const Schedule& schedule, std::uint64_t n, double expected) {
    BOOST_CHECK_CLOSE_FRACTION(schedule.factor(n), expected, 1e-12);
  };
  for (const std::uint64_t n : {0u, 1u, 7u, 99u, 100u, 101u, 5000u, 4000000u}) {
    const auto at = static_cast<double>(n);
    const double warm = std::min(1.0, (at + 1.0) / 50.0);
    close({}, n, 1.0);
    close({.warm_up = 50.0}, n, warm);
    const double root = std::sqrt(100.0 / std::max(at, 100.0));
    close({.kind = Kind::kInverseSquareRoot, .events = 100.0}, n, root);
    close({.kind = Kind::kInverseSquareRoot, .events = 100.0, .warm_up = 50.0}, n, root * warm);
    const double half = std::max(0.001, std::pow(2.0, -at / 333.0));
    close({.kind = Kind::kExponential, .events = 333.0, .floor = 0.001}, n, half);
    close({.kind = Kind::kExponential, .events = 333.0, .floor = 0.001, .warm_up = 50.0}, n, half * warm);
  }
  const Schedule fading{.kind = Kind::kExponential, .events = 10.0};
  for (std::uint64_t n = 0; n < 9000; n += 13) {
    BOOST_CHECK_CLOSE_FRACTION(fading.factor(n), std::exp2(-static_cast<double>(n) / 10.0), 1e-11);
    BOOST_CHECK_LE(fading.factor(n + 1), fading.factor(n));
  }
  BOOST_CHECK_EQUAL(fading.factor(20), 0.25);
  BOOST_CHECK_EQUAL(fading.factor(~std::uint64_t{0}), 0.0);
}

BOOST_AUTO_TEST_CASE(only_what_never_changes_is_constant) {
  BOOST_CHECK(Schedule{}.is_constant());
  BOOST_CHECK(!Schedule{.warm_up = 2.0}.is_constant());
  BOOST_CHECK(!Schedule{.kind = Kind::kExponential}.is_constant());
}

BOOST_AUTO_TEST_CASE(parameters_out_of_range_are_refused) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  const auto refused = [](const Schedule& schedule, std::string_view part) {
    check_throws<std::invalid_argument>([&] { validate(schedule); }, {part, " must be "});
  };
  for (const double bad : {-1.0, 0.0, 0.5, kInf, std::nan("")}) {
    refused({.kind = Kind::kInverseSquareRoot, .events = bad}, "events = ");
    if (bad != 0.5) refused({.kind = Kind::kExponential, .events = bad}, "half_life = ");
  }
  for (const double bad : {-0.1, 1.5, kInf, std::nan("")}) {
    refused({.kind = Kind::kExponential, .events = 1.0, .floor = bad}, "floor = ");
  }
  for (const double bad : {-1.0, kInf, std::nan("")}) refused({.warm_up = bad}, "events = ");
  validate({.kind = Kind::kExponential, .events = 0.5, .floor = 1.0, .warm_up = 3.0});
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
