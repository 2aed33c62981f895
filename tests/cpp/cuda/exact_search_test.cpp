// Exact search over a table in device memory, under the emulator: the CPU's bytes.
#include "fastinc/exact_search.h"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "cuda/device_array.h"
#include "cuda/exact_search.h"
#include "cuda/table_pair.h"
#include "fastinc/cuda_search.h"
#include "support/support.h"

namespace fastinc::test {
namespace {

using cuda::DeviceArray;

const Metric kMetrics[] = {Metric::kIp, Metric::kCosine, Metric::kL2};

/// Lists of ids, and what a request says of them.
struct OwnLists {
  Ids ids, offsets;

  IdLists view() const { return {.ids = ids, .offsets = offsets}; }
};

struct Request {
  std::size_t k = 10;
  Metric metric = Metric::kIp;
  OwnLists exclude;
  std::optional<OwnLists> allow;
};

/// Several passes even over few rows, with little room: bounds decide, and keys are spilled.
constexpr cuda::TopkPlan kSmall{.queries = 40, .capacity = 300, .first_tiles = 1, .growth = 3.0};
constexpr cuda::TopkPlan kTiny{.queries = 3, .capacity = 20, .first_tiles = 1, .growth = 1.5};

/// By the library's plan and the others in turn.
std::uint64_t search_on_device(const cuda::Table& table, const cuda::CudaSearchRequest& request,
                               float* scores, std::int64_t* ids) {
  static unsigned turn = 0;
  ++turn;
  if (turn % 4 == 0) return cuda::exact_search(table, request, scores, ids, nullptr);
  return cuda::exact_search_by(turn % 4 == 1 && request.n < 10 ? kTiny : kSmall, table, request, scores, ids,
                               nullptr);
}

void check(TablePair& pair, const std::vector<float>& queries, const Request& asked,
           const std::string& where) {
  const std::size_t n = queries.size() / pair.cpu.dim(), k = asked.k;
  const DeviceArray<float> device_queries(queries);
  std::vector<float> expected_scores(n * k);
  Ids expected(n * k);
  DeviceArray<float> scores(n * k);
  DeviceArray<std::int64_t> ids(n * k);
  SearchRequest on_cpu{.queries = queries.data(),
                       .n = n,
                       .k = k,
                       .metric = asked.metric,
                       .exclude = asked.exclude.view(),
                       .allow = {}};
  cuda::CudaSearchRequest on_device{.queries = device_queries.data(),
                                    .n = n,
                                    .k = k,
                                    .metric = asked.metric,
                                    .exclude = asked.exclude.view(),
                                    .allow = {}};
  if (asked.allow) on_cpu.allow = on_device.allow = asked.allow->view();
  std::uint64_t version = 0, expected_version = 0;
  const std::string cpu_error = error_of(
      [&] { expected_version = exact_search(pair.cpu, on_cpu, expected_scores.data(), expected.data()); });
  const std::string error =
      error_of([&] { version = search_on_device(pair.gpu, on_device, scores.data(), ids.data()); });
  const std::string what = where + ", metric " + std::to_string(static_cast<int>(asked.metric)) + ", k " +
                           std::to_string(k) + ", " + std::to_string(n) + " queries: ";
  BOOST_TEST(error == cpu_error, what << error << " | " << cpu_error);
  BOOST_TEST(version == expected_version);
  if (!error.empty()) return;
  check_same_bytes(ids.host(), expected, what + "ids ");
  check_same_bytes(scores.host(), expected_scores, what + "scores ");
}

void check_metrics(TablePair& pair, const std::vector<float>& queries, std::size_t k,
                   const std::string& where) {
  for (const Metric metric : kMetrics) {
    Request request;
    request.k = k;
    request.metric = metric;
    check(pair, queries, request, where);
  }
}

/// Distinct ids of every kind, in no order.
Ids shuffled_ids(Generator& random, std::size_t n) {
  Ids ids = {std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int64_t>::min(), -1, 0};
  for (std::size_t i = 0; ids.size() < n; ++i) {
    const auto id = static_cast<std::int64_t>(i) * 3 + 7;
    ids.push_back(i % 2 == 0 ? id : -id * (std::int64_t{1} << 33));
  }
  ids.resize(n);
  std::shuffle(ids.begin(), ids.end(), random);
  return ids;
}

/// As rows come and go: slots in no order of ids, some of them empty.
struct Loaded {
  std::size_t dim;
  Ids ids;
  std::vector<float> x;
  TablePair pair;

  Loaded(Generator& random, std::size_t n, std::size_t width)
      : dim(width),
        ids(shuffled_ids(random, n)),
        x(uniform_floats(random, n * width, -1.0f, 1.2f)),
        pair(SgdParams{}, width) {}
  float* row(std::size_t i) { return x.data() + i * dim; }
  /// removed: every so many of the rows
  void load(std::size_t removed = 0) {
    pair.load(ids, x);
    Ids gone;
    for (std::size_t i = 0; removed > 0 && i < ids.size(); i += removed) gone.push_back(ids[i]);
    if (removed > 0) pair.remove(gone);
  }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda_exact_search)

BOOST_AUTO_TEST_CASE(tables_of_every_shape_have_the_bytes_of_the_cpu) {
  Generator random(1);
  for (const std::size_t dim : {1, 5, 6, 8, 13, 15, 33, 64, 130}) {
    for (const std::size_t n : {0, 1, 5, 300, 3000}) {
      const bool unaligned = dim > 1 && dim < 20 && dim != 8;  // few rows tell
      if (n == 3000 && (unaligned || (kSanitized && dim != 8 && dim != 33))) continue;
      Loaded rows(random, n, dim);
      rows.load(n % 2 == 0 ? 7 : 0);
      const std::string where = std::to_string(n) + " rows of " + std::to_string(dim);
      for (const std::size_t queries : {0, 1, 3, 40}) {
        if (queries == 40 && n * dim > 10000) continue;  // the emulator is slow
        Request request;
        request.k = std::vector<std::size_t>{1, 10, 100, 400}[below(random, n == 3000 ? 2 : 4)];
        for (const Metric metric : kMetrics) {
          if ((n == 3000 || (kSanitized && n == 300)) && metric != kMetrics[(dim + queries) % 3]) continue;
          request.metric = metric;
          check(rows.pair, uniform_floats(random, queries * dim), request, where);
        }
      }
      if (dim != 8) continue;
      Request nearly_all;
      nearly_all.k = 2100;
      nearly_all.metric = kMetrics[n % 7 % 3];
      check(rows.pair, uniform_floats(random, dim), nearly_all, where);
    }
  }
}

BOOST_AUTO_TEST_CASE(rows_so_long_that_a_page_has_few) {
  Generator random(8);
  for (const std::size_t dim : {700, 1700}) {
    Loaded rows(random, 400, dim);
    rows.load(7);
    check_metrics(rows.pair, uniform_floats(random, 2 * dim), 5, "rows of " + std::to_string(dim));
  }
}

BOOST_AUTO_TEST_CASE(rows_that_make_it_hard) {
  Generator random(2);
  const std::size_t dim = 20;
  const auto try_rows = [&](const std::string& what, auto change) {
    Loaded rows(random, kSanitized ? 300 : 520, dim);
    for (std::size_t i = 0; i < rows.ids.size(); ++i) change(i, rows.row(i));
    rows.load(5);
    std::vector<float> queries = uniform_floats(random, 4 * dim);
    std::copy_n(rows.row(7), dim, queries.begin());  // a query that is a row
    std::fill_n(queries.begin() + 3 * dim, dim, 0.0f);
    check_metrics(rows.pair, queries, 30, what);
  };
  const auto scale_all = [](float* x, float by) {
    for (std::size_t i = 0; i < 20; ++i) x[i] *= by;
  };
  try_rows("all equal", [](std::size_t, float* x) { std::fill_n(x, 20, 0.5f); });
  try_rows("all zero", [](std::size_t, float* x) { std::fill_n(x, 20, 0.0f); });
  try_rows("half zero", [&](std::size_t i, float* x) { scale_all(x, i % 2 ? 1.0f : 0.0f); });
  try_rows("half negative zero", [&](std::size_t i, float* x) { scale_all(x, i % 2 ? -0.0f : 0.0f); });
  try_rows("shorter than float32 can say", [](std::size_t i, float* x) {
    if (i == 299) std::fill_n(x, 20, 0.0f), x[0] = 1e-43f;
  });
  try_rows("one huge", [&](std::size_t i, float* x) { scale_all(x, i == 99 ? 1e30f : 1.0f); });
  try_rows("many huge", [&](std::size_t i, float* x) { scale_all(x, i % 3 ? 1e30f : 1.0f); });
  try_rows("at the end of float32", [&](std::size_t, float* x) { scale_all(x, 2e38f); });
  try_rows("all tiny", [&](std::size_t, float* x) { scale_all(x, 1e-9f); });
  try_rows("all tinier", [&](std::size_t, float* x) { scale_all(x, 1e-25f); });
  try_rows("subnormal", [&](std::size_t, float* x) { scale_all(x, 1e-40f); });
  try_rows("of every size", [&](std::size_t i, float* x) {
    scale_all(x, std::pow(10.0f, static_cast<float>(i % 60) - 30.0f));
  });
  try_rows("an offset", [](std::size_t, float* x) {
    for (std::size_t i = 0; i < 20; ++i) x[i] = 1000.0f + 0.01f * x[i];
  });
  try_rows("one large value", [](std::size_t i, float* x) { x[i % 20] = 1e6f; });
  try_rows("close together", [](std::size_t, float* x) {
    for (std::size_t i = 0; i < 20; ++i) x[i] = 0.25f + 1e-6f * x[i];
  });
  try_rows("few values", [](std::size_t, float* x) {
    for (std::size_t i = 0; i < 20; ++i) x[i] = std::round(x[i]);
  });
}

BOOST_AUTO_TEST_CASE(queries_of_any_size) {
  Generator random(3);
  Loaded rows(random, 700, 9);
  rows.load(3);
  for (const float by : {0.0f, 1e-38f, 1e-20f, 1e-10f, 1e10f, 1e20f, 1e37f}) {
    std::vector<float> queries = uniform_floats(random, 3 * 9);
    for (float& x : queries) x *= by;
    check_metrics(rows.pair, queries, 12, "queries times " + std::to_string(by));
  }
}

BOOST_AUTO_TEST_CASE(equal_scores_go_by_id_wherever_they_are) {
  Generator random(4);
  const std::size_t dim = 8;
  for (const std::size_t kinds : {1, 5, 100}) {
    if (kSanitized && kinds == 1) continue;
    Loaded rows(random, 1000, dim);
    for (std::size_t i = 0; i < rows.ids.size(); ++i) {
      const std::size_t kind = below(random, kinds);
      for (std::size_t j = 0; j < dim; ++j) {
        rows.row(i)[j] = static_cast<float>((kind * 7 + j * 3) % 11) - 5.0f;
      }
    }
    rows.load(4);
    for (const std::size_t k : {1, 7, 300, 2048}) {
      check_metrics(rows.pair, uniform_floats(random, (k == 7 ? 9 : 1) * dim), k,
                    std::to_string(kinds) + " kinds");
    }
  }
}

BOOST_AUTO_TEST_CASE(lists_of_ids_that_are_excluded_or_allowed) {
  Generator random(5);
  Loaded rows(random, 3000, 17);
  rows.load(9);
  const std::vector<float> queries = uniform_floats(random, 3 * 17);
  const auto some = [&](std::size_t n, bool own) {
    OwnLists lists;
    for (std::size_t i = 0; i < n; ++i) lists.ids.push_back(rows.ids[below(random, rows.ids.size())]);
    lists.ids.push_back(1 << 30);  // nobody's
    const auto size = static_cast<std::int64_t>(lists.ids.size());
    if (own) lists.offsets = {0, size / 3, size / 3, size};  // the second one's is empty
    return lists;
  };
  for (const std::size_t excluded : {0, 3, 2900}) {
    for (const std::size_t allowed : {0, 10, 300, 9000}) {
      for (const bool own : {false, true}) {
        Request request;
        request.k = 25;
        request.metric = kMetrics[below(random, 3)];
        if (excluded > 0) request.exclude = some(excluded, own);
        if (allowed > 0) request.allow = some(allowed, own);
        check(rows.pair, queries, request,
              "excluded " + std::to_string(excluded) + ", allowed " + std::to_string(allowed) +
                  (own ? ", own lists" : ""));
      }
    }
  }
  for (const Metric metric : kMetrics) {
    Request request;
    request.metric = metric;
    request.allow = OwnLists{};
    check(rows.pair, queries, request, "nothing allowed");
    request.allow = some(9000, false);
    request.exclude = some(200, true);
    request.k = 2100;
    check(rows.pair, queries, request, "nearly all wanted");
  }
}

BOOST_AUTO_TEST_CASE(rows_come_go_and_change) {
  Generator random(6);
  const std::size_t dim = 12;
  Loaded rows(random, 1200, dim);
  rows.load();
  Loaded gone(random, 50, dim);
  gone.load(1);
  check_metrics(gone.pair, uniform_floats(random, 2 * dim), 7, "all rows went");
  for (int round = 0; round < 8; ++round) {
    const Ids touched = random_ids(random, 200, 900);
    rows.pair.update(touched, uniform_floats(random, touched.size() * dim));
    rows.pair.remove(random_ids(random, 60, 900));
    const Metric metric = kMetrics[round % 3];
    Request request;
    request.k = 40;
    request.metric = metric;
    check(rows.pair, uniform_floats(random, 2 * dim), request, "round " + std::to_string(round));
  }
}

BOOST_AUTO_TEST_CASE(what_is_refused_is_in_the_words_of_the_cpu) {
  Generator random(7);
  Loaded rows(random, 600, 4);
  rows.load();
  std::vector<float> queries = uniform_floats(random, 2 * 4);
  Request request;
  request.k = 0;
  check(rows.pair, queries, request, "no k");
  request.k = 3;
  for (const Ids& offsets : {Ids{0, 1}, Ids{1, 1, 2}, Ids{0, 2, 1}, Ids{0, 1, 1}}) {
    request.exclude = {{1, 2}, offsets};
    check(rows.pair, queries, request, "exclude");
    request.exclude = {};
    request.allow = OwnLists{{1, 2}, offsets};
    check(rows.pair, queries, request, "allow");
    request.allow.reset();
  }
  for (const float bad : {kInfinity, -kInfinity, kNan}) {
    queries[6] = bad;
    check_metrics(rows.pair, queries, 3, "bad queries");
    request.allow = OwnLists{{1, 2}, {}};
    check(rows.pair, queries, request, "bad queries, allowed");
    request.allow.reset();
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
