#include "store/admission.h"

#include <unordered_map>

#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(admission)

namespace {

/// Share of ids never seen before whose first sighting counts as the n-th, in a stream of nothing else.
double falsely_admitted(std::uint32_t n, std::size_t width, std::size_t ids) {
  CountMin counts(width, 11);
  std::size_t admitted = 0;
  for (std::size_t i = 0; i < ids; ++i) admitted += counts.add(static_cast<std::int64_t>(i * 977)) >= n;
  return static_cast<double>(admitted) / static_cast<double>(ids);
}

}  // namespace

BOOST_AUTO_TEST_CASE(never_below_the_true_count) {
  // As many sightings as leave every line unfaded.
  constexpr std::size_t kWidth = 4096;
  for (const std::uint64_t salt : {0, 1, 2, 3}) {
    CountMin counts(kWidth, salt);
    Generator random(salt);
    std::unordered_map<std::int64_t, std::uint32_t> truth;
    while (counts.additions() < CountMin::kFadingSightings - 1) {
      const auto id = static_cast<std::int64_t>(random() % 5);
      const std::uint32_t seen = ++truth[id];
      BOOST_CHECK_GE(counts.add(id), seen);
    }
    for (const auto& [id, count] : truth) BOOST_CHECK_GE(counts.estimate(id), count);
  }
}

BOOST_AUTO_TEST_CASE(never_below_the_count_that_fading_leaves) {
  // The model halves each id's true count when its line's turn comes. Which line that is only an empty sketch
  // with one id tells: the line whose halving changes its estimate.
  constexpr std::size_t kWidth = 1024, kLines = kWidth / 64, kIds = 300;
  std::vector<std::size_t> line(kIds);
  for (std::size_t id = 0; id < kIds; ++id) {
    CountMin alone(kWidth, 5);
    const auto other = [&] { alone.add(-1); };
    for (std::size_t step = 0; step < kLines; ++step) {
      alone.restore(std::vector<std::uint8_t>(kWidth, 200), step * CountMin::kFadingSightings);
      for (std::uint64_t i = 0; i < CountMin::kFadingSightings; ++i) other();
      if (alone.estimate(static_cast<std::int64_t>(id)) <= 108) line[id] = step;
    }
  }
  CountMin counts(kWidth, 5);
  std::vector<std::uint32_t> truth(kIds, 0);
  Generator random(6);
  for (std::uint64_t i = 1; i <= 200000; ++i) {
    const std::size_t id = below(random, 2) ? below(random, kIds) : below(random, 10);
    truth[id] = std::min(truth[id] + 1, 255u);
    BOOST_REQUIRE_GE(counts.add(static_cast<std::int64_t>(id)), truth[id]);
    if (i % CountMin::kFadingSightings != 0) continue;
    const std::size_t faded = (i / CountMin::kFadingSightings - 1) % kLines;
    for (std::size_t k = 0; k < kIds; ++k) {
      if (line[k] == faded) truth[k] /= 2;
    }
  }
}

BOOST_AUTO_TEST_CASE(few_ids_are_admitted_that_were_never_seen) {
  constexpr std::size_t kWidth = std::size_t{1} << 20, kIds = 1000000;
  const double two = falsely_admitted(2, kWidth, kIds), three = falsely_admitted(3, kWidth, kIds);
  BOOST_TEST_MESSAGE("first sightings taken for the second: " << two << ", for the third: " << three);
  BOOST_CHECK_LT(two, 0.07);
  BOOST_CHECK_LT(three, 0.001);
  // And it stays so: a small sketch that the stream passes through a hundred times.
  BOOST_CHECK_LT(falsely_admitted(2, std::size_t{1} << 14, kIds), 0.08);
  BOOST_CHECK_LT(falsely_admitted(3, std::size_t{1} << 14, kIds), 0.002);
}

BOOST_AUTO_TEST_CASE(ids_that_come_back_soon_are_admitted) {
  // Each id a second time after width / 32 others, an eighth of the fading period.
  constexpr std::size_t kWidth = std::size_t{1} << 16, kGap = kWidth / 32, kIds = 200000;
  CountMin counts(kWidth, 3);
  std::size_t admitted = 0;
  for (std::size_t i = 0; i < kIds; ++i) {
    counts.add(static_cast<std::int64_t>(i));
    if (i >= kGap / 2) admitted += counts.add(static_cast<std::int64_t>(i - kGap / 2)) >= 2;
  }
  const double share = static_cast<double>(admitted) / static_cast<double>(kIds);
  BOOST_TEST_MESSAGE("second sightings recognised: " << share);
  BOOST_CHECK_GT(share, 0.85);
}

BOOST_AUTO_TEST_CASE(counts_fade) {
  constexpr std::size_t kWidth = 1 << 16;
  constexpr std::uint64_t kPeriod = kWidth / 64 * CountMin::kFadingSightings;
  CountMin counts(kWidth, 9);
  counts.add(42, 200);
  for (const std::uint32_t expected : {100u, 50u, 25u}) {
    for (std::uint64_t i = 0; i < kPeriod; ++i) counts.add(1);  // fills one line alone
    BOOST_CHECK_EQUAL(counts.estimate(42), expected);
  }
  for (std::uint64_t i = 0; i < 5 * kPeriod; ++i) counts.add(1);
  BOOST_CHECK_EQUAL(counts.estimate(42), 0u);
}

BOOST_AUTO_TEST_CASE(counts_saturate) {
  CountMin counts(1 << 16, 1);
  BOOST_CHECK_EQUAL(counts.add(7, 0), 0u);
  BOOST_CHECK_EQUAL(counts.add(7, 3), 3u);
  BOOST_CHECK_EQUAL(counts.add(7, 251), 254u);
  BOOST_CHECK_EQUAL(counts.add(7, 4000000000u), 255u);
  BOOST_CHECK_EQUAL(counts.add(7), 255u);
  BOOST_CHECK_EQUAL(counts.additions(), 3u + 251 + 255 + 1);  // a sighting more than 255 changes nothing
}

BOOST_AUTO_TEST_CASE(widths) {
  BOOST_CHECK_EQUAL(CountMin(0, 1).width(), 64u);
  BOOST_CHECK_EQUAL(CountMin(64, 1).width(), 64u);
  BOOST_CHECK_EQUAL(CountMin(65, 1).width(), 128u);
  BOOST_CHECK_EQUAL(CountMin(1000, 1).bytes(), 1024u);
  check_throws<std::length_error>([] { CountMin(std::size_t{1} << 50, 1); }, {"1125899906842624"});
  CountMin one(0, 1);
  for (std::int64_t id = -1000; id < 1000; ++id) BOOST_REQUIRE_GE(one.add(id), 1u);
}

BOOST_AUTO_TEST_CASE(the_same_with_the_same_salt) {
  CountMin a(4096, 1), b(4096, 1), other(4096, 2);
  Generator random(4);
  for (int i = 0; i < 50000; ++i) {
    const auto id = static_cast<std::int64_t>(random() % 3000);
    BOOST_REQUIRE_EQUAL(a.add(id), b.add(id));
    other.add(id);
  }
  BOOST_CHECK(a.counters() == b.counters());
  BOOST_CHECK(a.counters() != other.counters());
  a.clear();
  BOOST_CHECK_EQUAL(a.additions(), 0u);
  BOOST_CHECK(a.counters() == std::vector<std::uint8_t>(4096, 0));
}

BOOST_AUTO_TEST_CASE(goes_on_where_it_was_saved) {
  CountMin a(4096, 1), b(4096, 1);
  Generator random(5);
  for (int i = 0; i < 12345; ++i) a.add(static_cast<std::int64_t>(random() % 3000));
  b.restore(a.counters(), a.additions());
  for (int i = 0; i < 20000; ++i) {
    const auto id = static_cast<std::int64_t>(random() % 3000);
    BOOST_REQUIRE_EQUAL(a.add(id), b.add(id));
  }
  const std::vector<std::uint8_t> before = b.counters();
  check_throws<std::invalid_argument>([&] { b.restore(std::vector<std::uint8_t>(100), 0); }, {"100", "4096"});
  BOOST_CHECK(b.counters() == before);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
