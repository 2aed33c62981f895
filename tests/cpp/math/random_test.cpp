#include "math/random.h"

#include <cmath>

#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(random)

namespace {

/// The standard normal quantile in double: Newton's method from the answer under test.
double exact_quantile(double u, double start) {
  double z = start;
  for (int k = 0; k < 4; ++k) {
    const double density = std::exp(-0.5 * z * z) / std::sqrt(2.0 * 3.14159265358979323846);
    z -= (0.5 * std::erfc(-z / std::sqrt(2.0)) - u) / density;
  }
  return z;
}

float uniform_of(std::uint32_t k) {
  return base::uniform_open(std::uint64_t{k} << 41);
}

}  // namespace

BOOST_AUTO_TEST_CASE(bits_are_those_of_splitmix64) {
  BOOST_CHECK_EQUAL(base::random_bits(0, 0), 0xe220a8397b1dcdafull);
  BOOST_CHECK_EQUAL(base::random_bits(0, 1), 0x6e789e6aa1b965f4ull);
  BOOST_CHECK_EQUAL(base::random_bits(0, 2), 0x06c45d188009454full);
}

BOOST_AUTO_TEST_CASE(uniforms_never_reach_an_end) {
  BOOST_CHECK_EQUAL(base::uniform_open(0), 0x1p-24f);
  BOOST_CHECK_EQUAL(base::uniform_open(~std::uint64_t{0}), 1.0f - 0x1p-24f);
  BOOST_CHECK_LT(base::uniform_open(~std::uint64_t{0}), 1.0f);
}

BOOST_AUTO_TEST_CASE(normal_quantiles) {
  constexpr std::uint32_t kAll = std::uint32_t{1} << 23;
  double largest = 0.0;
  float before = -kInfinity;
  bool increasing = true, symmetric = true;
  for (std::uint32_t k = 0; k < kAll;
       k = k < 1000 || k >= kAll - 1000 ? k + 1 : std::min(k + 997, kAll - 1000)) {
    const float u = uniform_of(k), z = base::standard_normal(u);
    const double exact = exact_quantile(static_cast<double>(u), static_cast<double>(z));
    largest = std::max(largest, std::abs(static_cast<double>(z) - exact) / std::max(1e-3, std::abs(exact)));
    increasing = increasing && z >= before;
    symmetric = symmetric && base::standard_normal(uniform_of(kAll - 1 - k)) == -z;
    before = z;
  }
  BOOST_CHECK_LT(largest, 2e-6);
  BOOST_CHECK(increasing);
  BOOST_CHECK(symmetric);
  BOOST_CHECK_GT(base::standard_normal(uniform_of(kAll - 1)), 5.2f);
}

BOOST_AUTO_TEST_CASE(normal_moments) {
  const Initializer init{InitializerKind::kNormal, 2.0f, 3.0f, 99};
  constexpr int kRows = 2000, kColumns = 100;
  double sum = 0.0, squares = 0.0;
  for (int row = 0; row < kRows; ++row) {
    const std::uint64_t key = base::row_key(init.seed, row);
    for (int column = 0; column < kColumns; ++column) {
      const auto x = static_cast<double>(base::start_value(init, key, static_cast<std::uint64_t>(column)));
      sum += x;
      squares += x * x;
    }
  }
  const double n = kRows * kColumns, mean = sum / n;
  BOOST_CHECK_SMALL(mean - 2.0, 5.0 * 3.0 / std::sqrt(n));
  BOOST_CHECK_CLOSE_FRACTION(squares / n - mean * mean, 9.0, 5.0 * std::sqrt(2.0 / n));
}

BOOST_AUTO_TEST_CASE(start_values) {
  const std::uint64_t key = base::row_key(7, -1);
  BOOST_CHECK_EQUAL(base::start_value({InitializerKind::kConstant, 0.5f, 0.0f, 7}, key, 3), 0.5f);
  bool inside = true;
  for (std::uint64_t column = 0; column < 10000; ++column) {
    const float x = base::start_value({InitializerKind::kUniform, -2.0f, 3.0f, 7}, key, column);
    inside = inside && x >= -2.0f && x <= 3.0f;
  }
  BOOST_CHECK(inside);
}

BOOST_AUTO_TEST_CASE(keys_differ_by_seed_and_id) {
  std::vector<std::uint64_t> keys;
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    for (std::int64_t id = -100; id < 100; ++id) keys.push_back(base::row_key(seed, id));
    keys.push_back(base::row_key(seed, std::numeric_limits<std::int64_t>::min()));
    keys.push_back(base::row_key(seed, std::numeric_limits<std::int64_t>::max()));
  }
  std::sort(keys.begin(), keys.end());
  BOOST_CHECK(std::adjacent_find(keys.begin(), keys.end()) == keys.end());
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
