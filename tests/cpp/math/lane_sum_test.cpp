#include "math/lane_sum.h"

#include "support/reference_update.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(lane_sum)

BOOST_AUTO_TEST_CASE(sums_in_the_documented_order) {
  Generator random(1);
  std::vector<float> got, expected;
  for (std::size_t n = 0; n <= 300; ++n) {
    const std::vector<float> terms = uniform_floats(random, n, -1000.0f, 1000.0f);
    got.push_back(base::lane_sum(n, [&](std::size_t i) { return terms[i]; }));
    expected.push_back(laned_sum(terms));
  }
  check_same_bytes(got, expected, "sum ");
}

BOOST_AUTO_TEST_CASE(dot_is_the_sum_of_rounded_products) {
  Generator random(2);
  for (const std::size_t n :
       {std::size_t{0}, std::size_t{1}, std::size_t{31}, std::size_t{64}, std::size_t{129}}) {
    const std::vector<float> a = uniform_floats(random, n), b = uniform_floats(random, n);
    std::vector<float> products(n);
    for (std::size_t i = 0; i < n; ++i) products[i] = a[i] * b[i];
    BOOST_CHECK_EQUAL(base::dot(a.data(), b.data(), n), laned_sum(products));
  }
}

BOOST_AUTO_TEST_CASE(halving_tree) {
  float lanes[32];
  for (int j = 0; j < 32; ++j) lanes[j] = static_cast<float>(1 << (j % 20));
  std::vector<float> terms(lanes, lanes + 32);
  BOOST_CHECK_EQUAL(base::halve(lanes, base::Add()), laned_sum(terms));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
