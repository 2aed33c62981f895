#include "math/scalar.h"

#include <cmath>

#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(scalar)

namespace {

/// The largest relative error of f against `exact` over the points.
template <class Function, class Exact>
double largest_error(const std::vector<float>& points, Function f, Exact exact) {
  double largest = 0.0;
  for (const float x : points) {
    const double expected = exact(static_cast<double>(x));
    if (expected == 0.0) {
      if (f(x) != 0.0f) return 1.0;
      continue;
    }
    largest = std::max(largest, std::abs(static_cast<double>(f(x)) - expected) / std::abs(expected));
  }
  return largest;
}

constexpr double kPromised = 2e-7;

}  // namespace

BOOST_AUTO_TEST_CASE(exponential_is_close_to_libm) {
  Generator random(1);
  const auto f = [](float x) { return base::exponential(x); };
  const auto exact = [](double x) { return std::exp(x); };
  BOOST_CHECK_LT(largest_error(uniform_floats(random, 300000, -87.0f, 88.0f), f, exact), kPromised);
  BOOST_CHECK_LT(largest_error(uniform_floats(random, 300000, -1.0f, 1.0f), f, exact), kPromised);
  BOOST_CHECK_LT(largest_error(uniform_floats(random, 10000, -1e-6f, 1e-6f), f, exact), kPromised);
}

BOOST_AUTO_TEST_CASE(exponential_at_the_ends) {
  BOOST_CHECK_EQUAL(base::exponential(0.0f), 1.0f);
  BOOST_CHECK_EQUAL(base::exponential(-0.0f), 1.0f);
  BOOST_CHECK_EQUAL(base::exponential(-kInfinity), base::exponential(-87.0f));
  BOOST_CHECK_EQUAL(base::exponential(kInfinity), base::exponential(88.0f));
  BOOST_CHECK_GT(base::exponential(-87.0f), 0.0f);
  BOOST_CHECK(std::isfinite(base::exponential(88.0f)));
  BOOST_CHECK(std::isnan(base::exponential(kNan)));
}

BOOST_AUTO_TEST_CASE(natural_logarithm_is_close_to_libm) {
  Generator random(2);
  const auto f = [](float x) { return base::natural_logarithm(x); };
  const auto exact = [](double x) { return std::log(x); };
  std::vector<float> everywhere;  // every exponent of a normal number
  for (std::uint32_t exponent = 1; exponent < 255; ++exponent) {
    everywhere.push_back(base::bits_float(exponent << 23));
    for (int k = 0; k < 1000; ++k) {
      everywhere.push_back(base::bits_float(exponent << 23 | static_cast<std::uint32_t>(random() >> 41)));
    }
  }
  BOOST_CHECK_LT(largest_error(everywhere, f, exact), kPromised);
  BOOST_CHECK_LT(largest_error(uniform_floats(random, 300000, 0.5f, 2.0f), f, exact), kPromised);
  BOOST_CHECK_LT(largest_error(uniform_floats(random, 100000, 0.999f, 1.001f), f, exact), kPromised);
  BOOST_CHECK_EQUAL(base::natural_logarithm(1.0f), 0.0f);
}

BOOST_AUTO_TEST_CASE(integer_power_multiplies) {
  BOOST_CHECK_EQUAL(base::integer_power(0.0, 0), 1.0);
  BOOST_CHECK_EQUAL(base::integer_power(0.0, 5), 0.0);
  BOOST_CHECK_EQUAL(base::integer_power(3.0, 1), 3.0);
  BOOST_CHECK_EQUAL(base::integer_power(3.0, 20), 3486784401.0);
  BOOST_CHECK_EQUAL(base::integer_power(-2.0, 31), -2147483648.0);
  BOOST_CHECK_EQUAL(base::integer_power(0.9, 0xffffffffu), 0.0);
  for (const std::uint32_t n : {2u, 7u, 100u, 1000u, 16777216u}) {
    BOOST_CHECK_CLOSE_FRACTION(base::integer_power(0.99999999, n), std::pow(0.99999999, n), 1e-8);
    BOOST_CHECK_CLOSE_FRACTION(base::integer_power(0.999, n), std::pow(0.999, n), 1e-8);
  }
}

BOOST_AUTO_TEST_CASE(square_root_is_correctly_rounded) {
  Generator random(3);
  bool same = true;
  for (const float x : uniform_floats(random, 10000, 0.0f, 1e10f)) {
    same = same && base::square_root(x) == static_cast<float>(std::sqrt(static_cast<double>(x)));
  }
  BOOST_CHECK(same);
  BOOST_CHECK_EQUAL(base::square_root(2.0), std::sqrt(2.0));
}

BOOST_AUTO_TEST_CASE(bits_and_magnitudes) {
  BOOST_CHECK_EQUAL(base::float_bits(1.0f), 0x3f800000u);
  BOOST_CHECK_EQUAL(base::bits_float(0x40490fdbu), 3.14159274f);
  BOOST_CHECK_EQUAL(base::absolute(-2.5f), 2.5f);
  BOOST_CHECK_EQUAL(base::absolute(2.5f), 2.5f);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
