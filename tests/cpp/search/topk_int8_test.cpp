// Top-k over int8 rows against a sort of all scores.
#include <cfloat>
#include <cmath>
#include <functional>
#include <new>
#include <thread>

#include "cpu/kernels.h"
#include "fastinc/ops.h"
#include "support/failing_new.h"
#include "support/quantized_rows.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(topk_int8)

namespace {

struct Answer {
  std::vector<float> scores;
  std::vector<std::int64_t> rows;
};

Answer search(const QuantizedRows& rows, const std::vector<float>& queries, std::size_t k) {
  const std::size_t n = queries.size() / rows.dim;
  Answer answer{std::vector<float>(n * k), std::vector<std::int64_t>(n * k)};
  fastinc::topk_int8(queries.data(), n, rows.q.data(), rows.n, rows.dim, k, answer.scores.data(),
                     answer.rows.data());
  return answer;
}

Answer sort_all(const QuantizedRows& rows, const std::vector<float>& queries, std::size_t k) {
  std::vector<float> x(rows.n * rows.dim);
  if (rows.n > 0) dequantize_rowwise(rows.q.data(), rows.n, rows.dim, x.data());
  Answer answer;
  for (std::size_t q = 0; q < queries.size(); q += rows.dim) {
    std::vector<std::pair<float, std::int64_t>> all;
    for (std::size_t r = 0; r < rows.n; ++r) {
      const float* row = x.data() + r * rows.dim;
      if (!std::all_of(row, row + rows.dim, [](float v) { return std::isfinite(v); })) continue;
      float score = kernels().dot(&queries[q], row, rows.dim);
      if (!std::isfinite(score)) {
        double sum = 0.0;
        for (std::size_t i = 0; i < rows.dim; ++i) sum += static_cast<double>(queries[q + i]) * row[i];
        score =
            static_cast<float>(std::clamp(sum, -static_cast<double>(FLT_MAX), static_cast<double>(FLT_MAX)));
      }
      all.emplace_back(-score, static_cast<std::int64_t>(r));
    }
    std::sort(all.begin(), all.end());
    for (std::size_t i = 0; i < k; ++i) {
      answer.scores.push_back(i < all.size() ? -all[i].first : -FLT_MAX);
      answer.rows.push_back(i < all.size() ? all[i].second : -1);
    }
  }
  return answer;
}

void check(const QuantizedRows& rows, const std::vector<float>& queries, std::size_t k,
           const std::string& where) {
  const Answer got = search(rows, queries, k), expected = sort_all(rows, queries, k);
  check_same_bytes(got.rows, expected.rows, where + "rows ");
  check_same_bytes(got.scores, expected.scores, where + "scores ");
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_best_of_any_shape_for_every_instruction_set_and_thread_count) {
  for_each_isa_and_threads([](const std::string& where) {
    Generator random(3);
    for (const std::size_t dim : {1, 3, 4, 16, 63, 64, 65, 128, 200}) {
      for (const std::size_t n : {0, 1, 10, 17, 300, 3000}) {
        const QuantizedRows rows = random_rows(random, n, dim);
        for (const std::size_t queries : {1, 3, 11}) {
          const std::size_t k = 1 + below(random, 40);
          check(rows, uniform_floats(random, queries * dim), k,
                where + ", dim " + std::to_string(dim) + ", n " + std::to_string(n) + ", queries " +
                    std::to_string(queries) + ", k " + std::to_string(k) + ": ");
        }
      }
    }
  });
}

BOOST_AUTO_TEST_CASE(long_rows_many_queries_and_more_asked_for_than_there_are) {
  Generator random(4);
  check(random_rows(random, 700, 4095), uniform_floats(random, 2 * 4095), 30, "long rows: ");
  check(random_rows(random, 5000, 24), uniform_floats(random, 150 * 24), 20, "many queries: ");
  check(random_rows(random, 400, 24), uniform_floats(random, 5 * 24), 1000, "more than there are: ");
  check(random_rows(random, 9000, 8), uniform_floats(random, 3 * 8), 8000, "nearly all: ");
  check(random_rows(random, 40000, 16), uniform_floats(random, 16), 5, "many parts: ");
}

BOOST_AUTO_TEST_CASE(rows_that_make_it_hard) {
  for_each_isa_and_threads([](const std::string& where) {
    Generator random(5);
    const std::size_t dim = 20, n = 6000;
    const std::vector<float> queries = uniform_floats(random, 4 * dim);
    const std::vector<float> one = uniform_floats(random, dim);
    std::vector<float> same;
    for (std::size_t r = 0; r < n; ++r) same.insert(same.end(), one.begin(), one.end());
    check(quantized(same, dim), queries, 7, where + ", all equal: ");
    check(quantized(std::vector<float>(n * dim), dim), queries, 7, where + ", zeros: ");
    check(quantized(std::vector<float>(n * dim, -3.5f), dim), queries, 7, where + ", constant rows: ");
    std::vector<float> ascending = uniform_floats(random, n * dim);
    for (std::size_t r = 0; r < n; ++r) {
      for (std::size_t i = 0; i < dim; ++i) ascending[r * dim + i] = queries[i] * static_cast<float>(r);
    }
    check(quantized(ascending, dim), queries, 7, where + ", each better than the one before: ");
    QuantizedRows rows = random_rows(random, n, dim);
    for (std::size_t i = 0; i < dim; ++i) rows.at(77)[i] = static_cast<std::uint8_t>(below(random, 256));
    rows.set(77, 1e30f, -1e32f);
    check(rows, queries, 7, where + ", a huge row: ");
    for (std::size_t r = 0; r < n; r += 2) rows.set(r, -rows.get(r, 0), rows.get(r, 1));
    check(rows, queries, 7, where + ", negative scales: ");
    for (std::size_t r = 0; r < n; r += 3) rows.set(r, r % 2 == 0 ? kNan : kInfinity, 0.0f);
    for (std::size_t r = 1; r < n; r += 5) rows.set(r, 0.01f, r % 2 == 0 ? kNan : -kInfinity);
    check(rows, queries, 7, where + ", rows that aren't numbers: ");
    for (std::size_t r = 0; r < n; ++r) rows.set(r, kNan, 0.0f);
    check(rows, queries, 7, where + ", no row that is: ");
  });
}

BOOST_AUTO_TEST_CASE(queries_of_any_size) {
  Generator random(6);
  const std::size_t dim = 33;
  const QuantizedRows rows = random_rows(random, 2500, dim);
  for (const float size : {0.0f, 1e-45f, 1e-38f, 1e-20f, 1e20f, 1e37f, kLargest}) {
    std::vector<float> query = uniform_floats(random, dim);
    for (float& x : query) x *= size;
    check(rows, query, 9, "size " + std::to_string(size) + ": ");
    std::fill(query.begin(), query.end(), 0.001f);
    query[5] = size;
    check(rows, query, 9, "one of size " + std::to_string(size) + ": ");
  }
}

BOOST_AUTO_TEST_CASE(bounds_hold_for_any_bytes) {
  Generator random(7);
  for (int round = 0; round < 200; ++round) {
    const std::size_t dim = 1 + below(random, 80), n = 1 + below(random, 900);
    QuantizedRows rows{n, dim, std::vector<std::uint8_t>(n * (dim + kQuantizedTail))};
    for (std::uint8_t& byte : rows.q) byte = static_cast<std::uint8_t>(random());
    if (round % 2 == 0) {
      for (std::size_t r = 0; r < n; ++r)
        rows.set(r, uniform(random, -1.0f, 1.0f), uniform(random, -99.0f, 9.0f));
    }
    check(rows, uniform_floats(random, 2 * dim), 1 + below(random, 12),
          "round " + std::to_string(round) + ": ");
  }
}

BOOST_AUTO_TEST_CASE(values_of_any_size) {
  Generator random(10);
  const std::size_t dim = 40, n = 2000;
  for (const float row_size : {1e-44f, 1e-38f, 1e-30f, 1e-17f, 1e-10f, 1.0f, 1e17f, 1e25f, 1e36f}) {
    for (const float query_size : {1e-44f, 1e-30f, 1e-17f, 1e-8f, 1e17f, 1e25f}) {
      std::vector<float> x = uniform_floats(random, n * dim), query = uniform_floats(random, dim);
      for (float& value : x) value *= row_size;
      for (float& value : query) value *= query_size;
      check(quantized(x, dim), query, 9,
            "rows of " + std::to_string(row_size) + ", query of " + std::to_string(query_size) + ": ");
    }
  }
}

BOOST_AUTO_TEST_CASE(what_is_refused) {
  Generator random(8);
  const QuantizedRows rows = random_rows(random, 10, 4);
  check_throws<std::invalid_argument>([&] { search(rows, {1.0f, 2.0f, 3.0f, 4.0f}, 0); }, {"k = 0"});
  check_throws<std::invalid_argument>([&] { search(rows, {1.0f, 2.0f, kNan, 4.0f}, 1); },
                                      {"queries[0, 2]", "nan"});
  const QuantizedRows longest{0, 65537, {}};
  check_throws<std::invalid_argument>([&] { search(longest, std::vector<float>(65537), 1); },
                                      {"65537", "65536"});
}

BOOST_AUTO_TEST_CASE(out_of_memory) {
  Generator random(9);
  const QuantizedRows rows = random_rows(random, 3000, 16);
  const std::vector<float> queries = uniform_floats(random, 5 * 16);
  const Answer expected = search(rows, queries, 6);
  std::size_t failed = 0;
  for (bool failing = true; failing; failed += failing) {
    Answer got{std::vector<float>(30), std::vector<std::int64_t>(30)};
    std::thread([&] {
      const FailingNew guard(failed);
      try {
        fastinc::topk_int8(queries.data(), 5, rows.q.data(), rows.n, 16, 6, got.scores.data(),
                           got.rows.data());
        failing = false;
      } catch (const std::bad_alloc&) {
      }
    }).join();
    if (!failing) check_same_bytes(got.rows, expected.rows, "rows ");
    BOOST_REQUIRE_LT(failed, 500u);
  }
  BOOST_CHECK_GT(failed, 3u);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
