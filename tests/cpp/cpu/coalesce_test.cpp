#include "cpu/coalesce.h"

#include <numeric>

#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(coalesce)

namespace {

/// The parts of a batch side by side.
struct Grouped {
  std::vector<std::uint64_t> keys;
  std::vector<std::uint32_t> starts;
  std::size_t parts = 0;
  unsigned position_bits = 0;

  std::uint64_t row(std::size_t s) const { return keys[starts[s]] >> position_bits; }
  std::uint64_t position(std::size_t i) const { return keys[i] & ((std::uint64_t{1} << position_bits) - 1); }
};

template <class Row>
Grouped group(Coalescer& coalescer, const std::vector<Row>& rows, std::uint64_t row_count,
              std::size_t max_parts) {
  Grouped out;
  coalescer.reserve(rows.size(), max_parts);
  out.parts = coalescer.split(std::span<const Row>(rows), row_count, max_parts);
  for (std::size_t part = 0; part < out.parts; ++part) {
    BOOST_REQUIRE_EQUAL(coalescer.begin(part), out.keys.size());
    const Segments segments = coalescer.sort(part);
    const auto base = static_cast<std::uint32_t>(out.keys.size());
    for (std::size_t s = 0; s < segments.count; ++s) out.starts.push_back(base + segments.starts[s]);
    out.keys.insert(out.keys.end(), segments.keys, segments.keys + segments.starts[segments.count]);
    out.position_bits = segments.position_bits;
  }
  return out;
}

/// Positions of the batch, stably sorted by row, and where each distinct row starts.
template <class Row>
std::string compare_with_stable_sort(const Grouped& got, const std::vector<Row>& rows) {
  std::vector<std::uint32_t> order(rows.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return rows[a] < rows[b]; });
  std::size_t s = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i > 0 && rows[order[i]] == rows[order[i - 1]]) continue;
    if (s >= got.starts.size() || got.starts[s] != i)
      return "segment " + std::to_string(s) + " starts elsewhere";
    if (got.row(s) != static_cast<std::uint64_t>(rows[order[i]])) return "segment's row is another";
    ++s;
  }
  if (s != got.starts.size()) return "too many segments";
  if (got.keys.size() != rows.size()) return "the last segment ends elsewhere";
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (got.position(i) != order[i]) return "order differs at " + std::to_string(i);
  }
  return {};
}

template <class Row>
void check_batches(const std::vector<std::uint64_t>& row_counts) {
  Generator random(11);
  Coalescer coalescer;  // one for all: what a call leaves behind must not matter to the next
  for (const int threads : {1, 2, 4}) {
    const UseThreads use(threads);
    for (const std::size_t n :
         {std::size_t{40001}, std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{63},
          std::size_t{2047}, std::size_t{2048}, std::size_t{2049}, std::size_t{4097}}) {
      for (const std::uint64_t row_count : row_counts) {
        std::vector<Row> rows(n);
        for (Row& row : rows) row = static_cast<Row>(random() % row_count);
        if (n > 2) rows[n / 2] = static_cast<Row>(row_count - 1);
        for (const std::size_t parts : {1, 2, 3, 16}) {
          const Grouped got = group(coalescer, rows, row_count, parts);
          const std::string difference = compare_with_stable_sort(got, rows);
          BOOST_CHECK_LE(got.parts, parts);
          BOOST_CHECK_MESSAGE(difference.empty(), n << " of " << row_count << " rows, " << threads
                                                    << " threads, " << parts << " parts: " << difference);
        }
      }
    }
  }
}

constexpr std::uint64_t two_to(unsigned power) {
  return std::uint64_t{1} << power;
}

}  // namespace

BOOST_AUTO_TEST_CASE(int32_rows) {
  check_batches<std::int32_t>({1, 2, 100, two_to(12), 70000, two_to(31) - 1});
}
BOOST_AUTO_TEST_CASE(uint32_rows) {
  check_batches<std::uint32_t>({1, 3, 5000, two_to(24) + 1, two_to(32)});
}
BOOST_AUTO_TEST_CASE(int64_rows) {
  check_batches<std::int64_t>({1, 100, 4097, two_to(31), two_to(33), two_to(40)});
}

BOOST_AUTO_TEST_CASE(sorted_reversed_and_constant_batches) {
  Coalescer coalescer;
  for (const std::size_t n : {std::size_t{100}, std::size_t{10000}}) {
    std::vector<std::int64_t> up(n), down(n), same(n, 7);
    std::iota(up.begin(), up.end(), 0);
    std::reverse_copy(up.begin(), up.end(), down.begin());
    for (const auto& rows : {up, down, same}) {
      for (const std::size_t parts : {1, 4}) {
        BOOST_CHECK_EQUAL(compare_with_stable_sort(group(coalescer, rows, n, parts), rows), "");
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(keys_that_dont_fit_are_refused) {
  BOOST_CHECK_EQUAL(position_bits_for(0, 1), 1u);
  BOOST_CHECK_EQUAL(position_bits_for(2, 1), 1u);
  BOOST_CHECK_EQUAL(position_bits_for(3, 1), 2u);
  BOOST_CHECK_EQUAL(position_bits_for(two_to(32) - 1, two_to(32)), 32u);
  BOOST_CHECK_EQUAL(position_bits_for(2, two_to(63)), 1u);
  check_throws<std::invalid_argument>([] { position_bits_for(two_to(32), 10); },
                                      {"ids", "4294967296", "split"});
  check_throws<std::invalid_argument>([] { position_bits_for(3, two_to(63)); },
                                      {"ids", "9223372036854775808 rows"});
}

BOOST_AUTO_TEST_CASE(parts_are_even_where_rows_are) {
  Generator random(12);
  Coalescer coalescer;
  std::vector<std::int32_t> rows(40000);
  for (auto& row : rows) row = static_cast<std::int32_t>(random() % 1000000);
  const std::size_t parts = 4;
  coalescer.reserve(rows.size(), parts);
  BOOST_REQUIRE_EQUAL(coalescer.split(std::span<const std::int32_t>(rows), 1000000, parts), parts);
  for (std::size_t part = 0; part < parts; ++part) {
    const Segments segments = coalescer.sort(part);
    BOOST_CHECK_GT(segments.starts[segments.count], 9000u);
    BOOST_CHECK_LT(segments.starts[segments.count], 11000u);
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
