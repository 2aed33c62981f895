// Top-k over int8 rows by the CUDA kernels, under the emulator: the CPU's bytes.
#include "cuda/topk_int8.h"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/device_array.h"
#include "fastinc/cuda_ops.h"
#include "fastinc/ops.h"
#include "support/quantized_rows.h"
#include "support/support.h"

namespace fastinc::test {
namespace {

using cuda::DeviceArray;
using cuda::TopkPlan;

struct Answer {
  std::vector<float> scores;
  std::vector<std::int64_t> rows;
};

Answer on_cpu(const QuantizedRows& rows, const std::vector<float>& queries, std::size_t k) {
  const std::size_t n = queries.size() / rows.dim;
  Answer answer{std::vector<float>(n * k), std::vector<std::int64_t>(n * k)};
  topk_int8(queries.data(), n, rows.q.data(), rows.n, rows.dim, k, answer.scores.data(), answer.rows.data());
  return answer;
}

/// plan: null for the library's; misaligned: by so many bytes of rows, and floats of queries.
struct Device {
  const TopkPlan* plan = nullptr;
  std::size_t misaligned = 0;
  std::uint64_t nonfinite = 0;

  Answer search(const QuantizedRows& rows, const std::vector<float>& queries, std::size_t k) {
    const std::size_t n = queries.size() / rows.dim;
    std::vector<std::uint8_t> padded_rows(misaligned);
    padded_rows.insert(padded_rows.end(), rows.q.begin(), rows.q.end());
    std::vector<float> padded_queries(misaligned);
    padded_queries.insert(padded_queries.end(), queries.begin(), queries.end());
    const DeviceArray<std::uint8_t> q(padded_rows);
    const DeviceArray<float> device_queries(padded_queries);
    DeviceArray<float> scores(n * k);
    DeviceArray<std::int64_t> numbers(n * k);
    DeviceArray<std::uint64_t> bad(1);
    if (plan == nullptr) {
      DeviceArray<std::byte> scratch(cuda::topk_scratch_bytes(n, rows.n, rows.dim, k));
      cuda::topk_int8(device_queries.data() + misaligned, n, q.data() + misaligned, rows.n, rows.dim, k,
                      scores.data(), numbers.data(), bad.data(), scratch.data(), nullptr);
    } else {
      DeviceArray<std::byte> scratch(cuda::topk_scratch_bytes_by(*plan, n, rows.n, rows.dim, k));
      const cuda::QuantizedRows searched{q.data() + misaligned, static_cast<std::uint32_t>(rows.n),
                                         static_cast<std::uint32_t>(rows.dim + kQuantizedTail)};
      cuda::topk_by(
          *plan,
          {device_queries.data() + misaligned, n, rows.dim, k, scores.data(), numbers.data(), bad.data()},
          searched, scratch.data(), nullptr);
    }
    nonfinite = bad.host().front();
    return {scores.host(), numbers.host()};
  }
};

void check(const QuantizedRows& rows, const std::vector<float>& queries, std::size_t k,
           const std::string& where, Device device = {}) {
  const Answer got = device.search(rows, queries, k), expected = on_cpu(rows, queries, k);
  check_same_bytes(got.rows, expected.rows, where + "rows ");
  check_same_bytes(got.scores, expected.scores, where + "scores ");
  BOOST_TEST(device.nonfinite == ~std::uint64_t{0});
}

/// Several passes even over few rows, with little room: bounds decide, and keys are spilled.
constexpr TopkPlan kSmall{.queries = 40, .capacity = 300, .first_tiles = 1, .growth = 3.0};
constexpr TopkPlan kTiny{.queries = 3, .capacity = 20, .first_tiles = 1, .growth = 1.5};

void check_plans(const QuantizedRows& rows, const std::vector<float>& queries, std::size_t k,
                 const std::string& where) {
  check(rows, queries, k, where);
  check(rows, queries, k, where + "small, ", {&kSmall});
  check(rows, queries, k, where + "tiny, ", {&kTiny});
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda_topk_int8)

BOOST_AUTO_TEST_CASE(rows_of_every_length_have_the_bytes_of_the_cpu) {
  Generator random(1);
  for (const std::size_t dim : {1, 3, 8, 31, 32, 33, 64, 100, 128, 264, 300, 1000}) {
    for (const std::size_t n : {0, 1, 5, 100, 1000}) {
      const QuantizedRows rows = random_rows(random, n, dim);
      for (const std::size_t queries : {1, 2, 7, 11}) {
        if (kSanitized && n == 1000 && queries % 2 != dim % 2) continue;
        const std::size_t k = std::vector<std::size_t>{1, 3, 10, 100}[below(random, 4)];
        check(rows, uniform_floats(random, queries * dim), k,
              std::to_string(n) + " rows of " + std::to_string(dim) + ", " + std::to_string(queries) +
                  " queries, k " + std::to_string(k) + ": ",
              n == 1000 ? Device{&kSmall} : Device{});
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(many_queries_rows_and_any_k) {
  Generator random(2);
  check(random_rows(random, 5000, 32), uniform_floats(random, 70 * 32), 10, "70 queries, small, ", {&kSmall});
  check(random_rows(random, 900, 24), uniform_floats(random, 64 * 24), 3, "64 queries, ");
  check(random_rows(random, 900, 24), uniform_floats(random, 33 * 24), 100, "33 queries, tiny, ", {&kTiny});
  check(random_rows(random, 5000, 8), uniform_floats(random, 2 * 8), 100, "5000 rows, ", {&kSmall});
  check(random_rows(random, 2500, 8), uniform_floats(random, 2 * 8), 2047, "k 2047, ");
  check(random_rows(random, 2500, 8), uniform_floats(random, 2 * 8), 2048, "k 2048, ", {&kSmall});
  check(random_rows(random, 2500, 8), uniform_floats(random, 2 * 8), 2049, "k 2049, ");
  check(random_rows(random, 2500, 7), uniform_floats(random, 3 * 7), 6000, "more than there are, ");
  check(random_rows(random, 300, 7), uniform_floats(random, 3 * 7), 700, "more than a few, ");
  check(random_rows(random, 300, 7), {}, 7, "no queries, ");
}

BOOST_AUTO_TEST_CASE(arrays_that_are_not_aligned) {
  Generator random(3);
  for (const std::size_t dim : {3, 8, 64, 100, 264, 300}) {
    const QuantizedRows rows = random_rows(random, 700, dim);
    const std::vector<float> queries = uniform_floats(random, 3 * dim);
    for (const std::size_t misaligned : {1, 2, 4, 7, 8, 15}) {
      check(rows, queries, 5, std::to_string(misaligned) + " bytes off, ", {&kSmall, misaligned});
    }
  }
}

BOOST_AUTO_TEST_CASE(rows_that_make_it_hard) {
  Generator random(5);
  const std::size_t dim = 20, n = repeats(3000);
  const std::vector<float> queries = uniform_floats(random, 4 * dim), one = uniform_floats(random, dim);
  std::vector<float> same;
  for (std::size_t r = 0; r < n; ++r) same.insert(same.end(), one.begin(), one.end());
  check_plans(quantized(same, dim), queries, 7, "all equal, ");
  check_plans(quantized(std::vector<float>(n * dim), dim), queries, 7, "zeros, ");
  check_plans(quantized(std::vector<float>(n * dim, -3.5f), dim), queries, 7, "constant rows, ");
  for (const float offset : {30.0f, -1e4f, 1e7f}) {
    std::vector<float> far = uniform_floats(random, n * dim);
    for (float& x : far) x += offset;
    check_plans(quantized(far, dim), queries, 11, "far from zero, ");
  }
  std::vector<float> few;
  for (std::size_t r = 0; r < n; ++r) {
    for (std::size_t i = 0; i < dim; ++i) few.push_back(one[(i + r % 3) % dim]);
  }
  check_plans(quantized(few, dim), queries, 100, "ties, ");
  std::vector<float> sorted(n * dim);
  for (const bool ascending : {true, false}) {
    for (std::size_t r = 0; r < n; ++r) {
      for (std::size_t i = 0; i < dim; ++i) {
        sorted[r * dim + i] = queries[i] * static_cast<float>(ascending ? r : n - r);
      }
    }
    check_plans(quantized(sorted, dim), queries, 30, ascending ? "ascending, " : "descending, ");
  }
  for (std::size_t r = 0; r < n; ++r) {
    const float size = std::pow(10.0f, static_cast<float>(r % 61) - 30.0f);
    for (std::size_t i = 0; i < dim; ++i) sorted[r * dim + i] = size * uniform(random, -1.0f, 1.0f);
  }
  check_plans(quantized(sorted, dim), queries, 90, "of every magnitude, ");
}

BOOST_AUTO_TEST_CASE(rows_that_have_no_place) {
  Generator random(6);
  const std::size_t dim = 20, n = 2000;
  const std::vector<float> queries = uniform_floats(random, 4 * dim);
  QuantizedRows rows = random_rows(random, n, dim);
  rows.set(77, 1e30f, -1e32f);
  check_plans(rows, queries, 7, "a huge row, ");
  for (std::size_t r = 0; r < n; r += 2) rows.set(r, -rows.get(r, 0), rows.get(r, 1));
  check_plans(rows, queries, 7, "negative scales, ");
  for (std::size_t r = 0; r < n; r += 3) rows.set(r, r % 2 == 0 ? kNan : kInfinity, 0.0f);
  for (std::size_t r = 1; r < n; r += 5) rows.set(r, 0.01f, r % 2 == 0 ? kNan : -kInfinity);
  check_plans(rows, queries, 7, "rows that aren't numbers, ");
  check(rows, queries, 3000, "all that are, ");
  for (std::size_t r = 0; r < n; ++r) rows.set(r, kNan, 0.0f);
  check_plans(rows, queries, 7, "no row that is, ");
  check(rows, queries, 2500, "no row that is, sorted, ");
}

BOOST_AUTO_TEST_CASE(scores_that_overflow_and_queries_of_any_size) {
  Generator random(7);
  const std::size_t dim = 33;
  const QuantizedRows rows = random_rows(random, 1200, dim);
  QuantizedRows large = rows;
  for (std::size_t r = 0; r < large.n; ++r) {
    large.set(r, large.get(r, 0) * 1e37f, large.get(r, 1) * (r % 3 == 0 ? 1e37f : 1e38f));
  }
  for (const float size : {0.0f, 1e-45f, 1e-38f, 1e-20f, 1e-8f, 1e17f, 1e20f, 1e37f, kLargest}) {
    std::vector<float> queries = uniform_floats(random, 2 * dim);
    for (float& x : queries) x *= size;
    std::fill(queries.begin() + dim, queries.end(), 0.001f);
    queries[dim + 5] = size;
    const std::string where = "size " + std::to_string(size) + ", ";
    check(rows, queries, 9, where, {&kSmall});
    check(large, queries, 9, where + "large rows, ", {&kSmall});
    check(large, queries, 1500, where + "large rows, all, ");
  }
}

BOOST_AUTO_TEST_CASE(rows_whose_bounds_would_overflow) {
  // <query, codes> scale is finite and sum(query) bias isn't, nor would their sum be.
  Generator random(12);
  const std::size_t dim = 33;
  QuantizedRows rows = random_rows(random, 1500, dim);
  for (std::size_t r = 0; r < rows.n; ++r) rows.set(r, uniform(random, 0.5e35f, 0.52e35f), -1.1e37f);
  check(rows, std::vector<float>(dim, 1.0f), 9, "", {&kSmall});
}

BOOST_AUTO_TEST_CASE(bounds_hold_for_any_bytes) {
  Generator random(8);
  for (int round = 0; round < 40; ++round) {
    const std::size_t dim = 1 + below(random, 80), n = 1 + below(random, 1200);
    QuantizedRows rows{n, dim, std::vector<std::uint8_t>(n * (dim + kQuantizedTail))};
    for (std::uint8_t& byte : rows.q) byte = static_cast<std::uint8_t>(random());
    if (round % 2 == 0) {
      for (std::size_t r = 0; r < n; ++r) {
        rows.set(r, uniform(random, -1.0f, 1.0f), uniform(random, -99.0f, 9.0f));
      }
    }
    check(rows, uniform_floats(random, 2 * dim), 1 + below(random, 12),
          "round " + std::to_string(round) + ", ", {round % 4 < 2 ? &kSmall : &kTiny});
  }
}

BOOST_AUTO_TEST_CASE(values_of_any_size) {
  Generator random(9);
  const std::size_t dim = 24, n = 600;
  for (const float row_size : {1e-44f, 1e-30f, 1e-17f, 1e-10f, 1e17f, 1e36f}) {
    for (const float query_size : {1e-44f, 1e-17f, 1.0f, 1e17f, 1e25f}) {
      std::vector<float> x = uniform_floats(random, n * dim), query = uniform_floats(random, dim);
      for (float& value : x) value *= row_size;
      for (float& value : query) value *= query_size;
      check(quantized(x, dim), query, 9,
            "rows of " + std::to_string(row_size) + ", query of " + std::to_string(query_size) + ", ",
            {&kTiny});
    }
  }
}

BOOST_AUTO_TEST_CASE(queries_that_are_not_finite_get_padding) {
  Generator random(10);
  const std::size_t dim = 12;
  const QuantizedRows rows = random_rows(random, 800, dim);
  for (const std::size_t k : {5, 700}) {
    for (const TopkPlan* plan : {static_cast<const TopkPlan*>(nullptr), &kSmall, &kTiny}) {
      std::vector<float> queries = uniform_floats(random, 12 * dim);
      Answer expected = on_cpu(rows, queries, k);
      queries[7 * dim + 3] = kNan;
      queries[4 * dim + 11] = -kInfinity;
      for (const std::size_t bad : {4, 7}) {
        std::fill_n(expected.scores.begin() + static_cast<std::ptrdiff_t>(bad * k), k, -kLargest);
        std::fill_n(expected.rows.begin() + static_cast<std::ptrdiff_t>(bad * k), k, -1);
      }
      Device device{plan};
      const Answer got = device.search(rows, queries, k);
      check_same_bytes(got.rows, expected.rows, "rows ");
      check_same_bytes(got.scores, expected.scores, "scores ");
      BOOST_TEST(device.nonfinite == 4 * dim + 11);
    }
  }
  QuantizedRows many = random_rows(random, 2100, dim);
  Device device;
  const Answer got = device.search(many, std::vector<float>(dim, kNan), 2100);
  BOOST_TEST(std::all_of(got.rows.begin(), got.rows.end(), [](std::int64_t row) { return row == -1; }));
  BOOST_TEST(device.nonfinite == 0u);
}

BOOST_AUTO_TEST_CASE(rows_that_are_skipped_have_no_place) {
  Generator random(11);
  const std::size_t dim = 40, n = 1500, k = 20;
  QuantizedRows rows = random_rows(random, n, dim);
  const std::vector<float> queries = uniform_floats(random, 9 * dim);
  std::vector<std::uint32_t> skip((n + 31) / 32);
  QuantizedRows left = rows;
  for (std::size_t r = 0; r < n; ++r) {
    if (below(random, 3) != 0) continue;
    skip[r / 32] |= 1u << (r % 32);
    left.set(r, kNan, 0.0f);
  }
  const Answer expected = on_cpu(left, queries, k);
  const DeviceArray<std::uint8_t> q(rows.q);
  const DeviceArray<float> device_queries(queries);
  const DeviceArray<std::uint32_t> device_skip(skip);
  DeviceArray<float> scores(9 * k);
  DeviceArray<std::int64_t> numbers(9 * k);
  DeviceArray<std::uint64_t> bad(1);
  DeviceArray<std::byte> scratch(cuda::topk_scratch_bytes_by(kSmall, 9, n, dim, k));
  cuda::RowsWithSkips searched{};
  searched.q = q.data();
  searched.rows = n;
  searched.stride = dim + kQuantizedTail;
  searched.skip = device_skip.data();
  cuda::topk_by(kSmall, {device_queries.data(), 9, dim, k, scores.data(), numbers.data(), bad.data()},
                searched, scratch.data(), nullptr);
  check_same_bytes(numbers.host(), expected.rows, "rows ");
  check_same_bytes(scores.host(), expected.scores, "scores ");
}

BOOST_AUTO_TEST_CASE(tiles_come_once_each) {
  for (const std::uint32_t count : {1u, 2u, 3u, 4u, 10u, 39u, 1000u, 39063u}) {
    const cuda::TileOrder order = cuda::order_tiles(count);
    std::vector<std::uint32_t> seen(count);
    for (std::uint32_t i = 0; i < count; ++i) ++seen[order.at(i)];
    BOOST_TEST(std::all_of(seen.begin(), seen.end(), [](std::uint32_t times) { return times == 1; }));
  }
}

BOOST_AUTO_TEST_CASE(plans_have_few_passes_and_bounded_memory) {
  constexpr std::size_t kRows = 10'000'000;
  for (const std::size_t k : {1, 100, 2048}) {
    for (const std::size_t n : {1, 256, 100'000}) {
      const TopkPlan plan = cuda::plan_topk(n, kRows, k);
      BOOST_TEST(plan.first_tiles * cuda::kTileRows <= plan.capacity);
      BOOST_TEST(plan.capacity >= 2 * k);
      int passes = 1;
      const std::uint32_t tiles = cuda::tiles_of(kRows);
      for (std::uint32_t end = cuda::pass_end(plan, 0, tiles); end < tiles; ++passes) {
        end = cuda::pass_end(plan, end, tiles);
      }
      BOOST_TEST(passes <= (n == 1 ? (k == 2048 ? 4 : 3) : 8));
      BOOST_TEST(cuda::topk_scratch_bytes(n, kRows, 128, k) < std::size_t{160} << 20);
    }
  }
}

BOOST_AUTO_TEST_CASE(what_is_refused_is_in_the_words_of_the_cpu) {
  const auto words = [](auto call) -> std::string {
    try {
      call();
    } catch (const std::exception& error) {
      return error.what();
    }
    return "nothing was thrown";
  };
  const auto check_sizes = [&](std::size_t n, std::size_t rows, std::size_t dim, std::size_t k) {
    const std::string expected =
        words([&] { topk_int8(nullptr, n, nullptr, rows, dim, k, nullptr, nullptr); });
    BOOST_TEST(words([&] {
                 cuda::topk_int8(nullptr, n, nullptr, rows, dim, k, nullptr, nullptr, nullptr, nullptr,
                                 nullptr);
               }) == expected);
    BOOST_TEST(words([&] { (void)cuda::topk_scratch_bytes(n, rows, dim, k); }) == expected);
    BOOST_TEST(expected != "nothing was thrown");
  };
  check_sizes(0, 10, 4, 0);
  check_sizes(0, 10, 0, 1);
  check_sizes(0, 10, 65537, 1);
  check_sizes(0, 0xffffffffu, 4, 1);
  check_sizes(std::size_t{1} << 40, 10, 4, std::size_t{1} << 40);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
