#include "learn/negatives.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(negatives)

BOOST_AUTO_TEST_CASE(draws_are_distinct_uniform_and_leave_out_what_the_user_had) {
  constexpr std::size_t kItems = 60, kCount = 20, kDraws = 4000;
  const NegativeSampler sampler(kCount, 7);
  const std::vector<std::uint32_t> recent = {3, 5, 3, 59};
  Marks marks;
  marks.resize(kItems);
  std::vector<std::size_t> times(kItems, 0);
  std::vector<std::uint32_t> out(sampler.most(kItems)), items(kItems);
  std::iota(items.begin(), items.end(), 0u);
  for (std::size_t d = 0; d < kDraws; ++d) {
    BOOST_REQUIRE_EQUAL(sampler.draw(items, d, 11, recent, RecentItems(0), marks, out.data()).n, kCount);
    const std::set<std::uint32_t> distinct(out.begin(), out.end());
    BOOST_REQUIRE_EQUAL(distinct.size(), kCount);
    for (const std::uint32_t j : out) ++times.at(j);
  }
  const double expected = static_cast<double>(kDraws * kCount) / (kItems - 4);
  for (std::size_t j = 0; j < kItems; ++j) {
    if (j == 11 || j == 3 || j == 5 || j == 59) {
      BOOST_CHECK_EQUAL(times[j], 0u);
    } else {  // 6 standard deviations
      BOOST_CHECK_SMALL(static_cast<double>(times[j]) - expected, 6.0 * std::sqrt(expected));
    }
  }
}

BOOST_AUTO_TEST_CASE(where_there_are_not_enough_all_are_drawn) {
  const NegativeSampler sampler(50, 7);
  BOOST_CHECK_EQUAL(sampler.most(8), 8u);
  Marks marks;
  marks.resize(8);
  std::vector<std::uint32_t> out(8);
  const std::vector<std::uint32_t> items = {6, 5, 4, 3, 2, 1, 0, 7};
  const std::vector<std::uint32_t> recent = {0, 2};
  out.resize(sampler.draw(items, 0, 7, recent, RecentItems(0), marks, out.data()).n);
  BOOST_CHECK(out == (std::vector<std::uint32_t>{6, 5, 4, 3, 1}));
  const std::vector<std::uint32_t> all = {0, 1, 2, 3, 4, 5, 6, 7};
  BOOST_CHECK_EQUAL(sampler.draw(items, 0, 7, all, RecentItems(0), marks, out.data()).n, 0u);
}

BOOST_AUTO_TEST_CASE(the_last_events_tell_what_is_popular) {
  RecentItems last(100);
  std::vector<std::uint32_t> all;
  Generator random(7);
  for (int e = 0; e < 250; ++e) {
    last.reserve(30, 1);
    all.push_back(static_cast<std::uint32_t>(below(random, 30)));
    last.push(all.back());
    const std::size_t n = std::min<std::size_t>(all.size(), 100);
    const std::vector<std::uint32_t> expected(all.end() - static_cast<std::ptrdiff_t>(n), all.end());
    BOOST_REQUIRE_EQUAL(last.size(), n);
    BOOST_CHECK(last.in_order() == expected);
    for (std::uint32_t j = 0; j < 30; ++j) {
      const auto count = static_cast<double>(std::count(expected.begin(), expected.end(), j));
      BOOST_CHECK_EQUAL(last.share(j), count / static_cast<double>(n));
    }
  }
}

// An item's correction is minus the log of how often it is drawn.
BOOST_AUTO_TEST_CASE(popular_ones_are_drawn_and_corrected_by_their_share) {
  constexpr std::size_t kItems = 400, kCount = 20, kDraws = 20000;
  const NegativeSampler sampler(kCount, 7, 0.5);
  RecentItems last(1000);
  last.reserve(kItems, 1000);
  for (std::uint32_t e = 0; e < 1000; ++e) last.push(e % 10 < 4 ? e % 4 : e % 100);  // four have 40 %
  Marks marks;
  marks.resize(kItems);
  std::vector<std::uint32_t> out(kCount), items(kItems);
  std::iota(items.begin(), items.end(), 0u);
  std::vector<double> times(kItems, 0.0);
  double tries = 0.0;
  for (std::size_t d = 0; d < kDraws; ++d) {
    const NegativeSampler::Draw draw = sampler.draw(items, d, 399, {}, last, marks, out.data());
    BOOST_REQUIRE_EQUAL(draw.n, kCount);
    BOOST_REQUIRE_EQUAL(draw.uniform, 0u);
    tries += static_cast<double>(draw.mixed) / kDraws;
    BOOST_REQUIRE_EQUAL(std::set<std::uint32_t>(out.begin(), out.end()).size(), kCount);
    for (const std::uint32_t j : out) times[j] += 1.0 / kDraws;
  }
  std::vector<float> scores(kCount, 1.0f);
  for (std::uint32_t first = 0; first + kCount <= kItems - 1; first += kCount) {
    std::iota(out.begin(), out.end(), first);
    std::fill(scores.begin(), scores.end(), 1.0f);
    sampler.correct(kItems, last, {kCount, static_cast<std::size_t>(std::lround(tries)), 0}, out.data(),
                    scores.data());
    for (std::size_t j = 0; j < kCount; ++j) {
      const double drawn = std::exp(1.0 - static_cast<double>(scores[j]));
      BOOST_CHECK_SMALL(drawn - times[out[j]], 0.05 * drawn + 5.0 * std::sqrt(drawn / kDraws));
    }
  }
  const NegativeSampler uniform(kCount, 7);
  const double same = std::log(399.0 / 20.0);
  std::fill(scores.begin(), scores.end(), 1.0f);
  uniform.correct(kItems, last, {kCount, 0, kCount}, out.data(), scores.data());
  for (const float score : scores) BOOST_CHECK_CLOSE_FRACTION(static_cast<double>(score), 1.0 + same, 1e-6);
}

BOOST_AUTO_TEST_CASE(hard_ones_are_those_above_the_bar_in_their_order) {
  Generator random(3);
  for (const std::size_t n : {1u, 2u, 7u, 8u, 100u, 401u}) {
    const std::vector<float> scores = uniform_floats(random, n);
    const double mean = std::accumulate(scores.begin(), scores.end(), 0.0) / static_cast<double>(n);
    double variance = 0.0;
    for (const float x : scores) {
      variance += (static_cast<double>(x) - mean) * (static_cast<double>(x) - mean) / static_cast<double>(n);
    }
    for (const double deviations : {-1.0, 0.0, 0.67, 50.0}) {
      std::vector<std::uint32_t> rows(n), expected_rows;
      std::vector<float> kept = scores, expected;
      std::iota(rows.begin(), rows.end(), 10u);
      const double bar = mean + deviations * std::sqrt(variance);
      const float best = *std::max_element(scores.begin(), scores.end());
      for (std::size_t j = 0; j < n; ++j) {
        if (static_cast<double>(scores[j]) < bar && scores[j] != best) continue;
        expected.push_back(scores[j]);
        expected_rows.push_back(rows[j]);
      }
      const std::size_t count = keep_hard(deviations, rows.data(), kept.data(), n);
      rows.resize(count);
      kept.resize(count);
      BOOST_CHECK(rows == expected_rows);
      BOOST_CHECK(kept == expected);
    }
  }
  std::vector<std::uint32_t> rows = {4, 5, 6};
  std::vector<float> equal(3, 0.1f);
  BOOST_CHECK_EQUAL(keep_hard(0.67, rows.data(), equal.data(), 3), 3u);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
