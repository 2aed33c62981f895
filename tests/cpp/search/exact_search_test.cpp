// Exact search over a table, by bounds from its int8 rows, against a sort of all float32 scores.
#include "fastinc/exact_search.h"

#include <atomic>
#include <cfloat>
#include <cmath>
#include <new>
#include <optional>
#include <thread>

#include "cpu/kernels.h"
#include "fastinc/table.h"
#include "search/candidates.h"
#include "store/row_store.h"
#include "support/failing_new.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(exact_search)

namespace {

const Metric kMetrics[] = {Metric::kIp, Metric::kCosine, Metric::kL2};

struct Rows {
  std::size_t dim;
  std::vector<std::int64_t> ids;
  std::vector<float> x;

  Rows(std::size_t n, std::size_t width, Generator& random) : dim(width), x(n * width) {
    for (std::size_t i = 0; i < n; ++i) ids.push_back(static_cast<std::int64_t>(i) * 3 - 500);
    std::shuffle(ids.begin(), ids.end(), random);
  }
  std::size_t size() const { return ids.size(); }
  float* row(std::size_t i) { return x.data() + i * dim; }
};

Rows random_rows(Generator& random, std::size_t n, std::size_t dim) {
  Rows rows(n, dim, random);
  rows.x = uniform_floats(random, n * dim, -1.0f, 1.2f);
  return rows;
}

std::unique_ptr<Table> table_of(const Rows& rows) {
  auto table = std::make_unique<Table>(rows.dim, std::make_shared<Optimizer>(SgdParams{}), Initializer{});
  table->load(rows.ids, rows.x.data());
  return table;
}

struct Answer {
  std::vector<float> scores;
  std::vector<std::int64_t> ids;
};

Answer search(const Table& table, SearchRequest request, const std::vector<float>& queries) {
  request.queries = queries.data();
  request.n = queries.size() / table.dim();
  Answer answer{std::vector<float>(request.n * request.k), std::vector<std::int64_t>(request.n * request.k)};
  fastinc::exact_search(table, request, answer.scores.data(), answer.ids.data());
  return answer;
}

bool is_safe(float squared_norm) {
  return squared_norm > 1e-30f && squared_norm < 1e30f;
}

float score_of(Metric metric, const float* q, const float* x, std::size_t dim) {
  const Kernels& kernel = kernels();
  float score = kernel.dot(q, x, dim);
  bool good = std::isfinite(score);
  if (metric == Metric::kL2) {
    std::vector<float> apart(dim);
    for (std::size_t i = 0; i < dim; ++i) apart[i] = q[i] - x[i];
    score = kernel.dot(apart.data(), apart.data(), dim);
    good = std::isfinite(score);
  } else if (metric == Metric::kCosine) {
    const float qq = kernel.dot(q, q, dim), xx = kernel.dot(x, x, dim);
    good = good && is_safe(qq) && is_safe(xx);
    score = good ? score / (std::sqrt(qq) * std::sqrt(xx)) : score;
  }
  return good ? score : precise_score(metric, q, x, dim);
}

using Wanted = std::function<bool(std::size_t query, std::int64_t id)>;

Answer sort_all(Rows& rows, const SearchRequest& request, const std::vector<float>& queries,
                const Wanted& wanted) {
  const float sign = request.metric == Metric::kL2 ? -1.0f : 1.0f;
  Answer answer;
  for (std::size_t q = 0; q < queries.size() / rows.dim; ++q) {
    std::vector<Candidate> all;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (!wanted(q, rows.ids[i])) continue;
      all.push_back(
          {sign * score_of(request.metric, &queries[q * rows.dim], rows.row(i), rows.dim), rows.ids[i]});
    }
    std::sort(all.begin(), all.end(), better);
    for (std::size_t i = 0; i < request.k; ++i) {
      answer.scores.push_back(sign * (i < all.size() ? all[i].rank : -FLT_MAX) + 0.0f);
      answer.ids.push_back(i < all.size() ? all[i].id : -1);
    }
  }
  return answer;
}

bool any(std::size_t, std::int64_t) {
  return true;
}

void check(Rows& rows, const std::vector<float>& queries, const SearchRequest& request,
           const std::string& where, const Wanted& wanted = any) {
  const auto table = table_of(rows);
  const Answer got = search(*table, request, queries), expected = sort_all(rows, request, queries, wanted);
  const std::string what = where + ", metric " + std::to_string(static_cast<int>(request.metric)) + ": ";
  check_same_bytes(got.ids, expected.ids, what + "ids ");
  check_same_bytes(got.scores, expected.scores, what + "scores ");
}

void check_metrics(Rows& rows, const std::vector<float>& queries, std::size_t k, const std::string& where) {
  for (const Metric metric : kMetrics) {
    SearchRequest request;
    request.k = k;
    request.metric = metric;
    check(rows, queries, request, where);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_best_of_any_shape_for_every_instruction_set_and_thread_count) {
  for_each_isa_and_threads([](const std::string& where) {
    Generator random(1);
    for (const std::size_t dim : {1, 3, 16, 63, 64, 65, 130}) {
      Rows rows = random_rows(random, 600 + below(random, 3000), dim);
      for (const std::size_t queries : {1, 5, 13}) {
        check_metrics(rows, uniform_floats(random, queries * dim), 1 + below(random, 40),
                      where + ", dim " + std::to_string(dim) + ", queries " + std::to_string(queries));
      }
    }
  });
}

BOOST_AUTO_TEST_CASE(long_rows_many_queries_and_many_wanted) {
  Generator random(2);
  Rows wide = random_rows(random, 600, 4095);
  check_metrics(wide, uniform_floats(random, 2 * 4095), 30, "long rows");
  Rows rows = random_rows(random, 9000, 24);
  check_metrics(rows, uniform_floats(random, 150 * 24), 20, "many queries");
  check_metrics(rows, uniform_floats(random, 3 * 24), 2250, "a quarter");
  check_metrics(rows, uniform_floats(random, 3 * 24), 9100, "more than there are");
}

BOOST_AUTO_TEST_CASE(rows_that_make_it_hard) {
  for_each_isa_and_threads([](const std::string& where) {
    Generator random(3);
    const std::size_t dim = 20;
    const auto try_rows = [&](const std::string& what, auto change) {
      Rows rows = random_rows(random, 2500, dim);
      for (std::size_t i = 0; i < rows.size(); ++i) change(i, rows.row(i));
      std::vector<float> queries = uniform_floats(random, 4 * dim);
      std::copy_n(rows.row(7), dim, queries.begin());  // a query that is a row
      std::fill_n(queries.begin() + 3 * dim, dim, 0.0f);
      check_metrics(rows, queries, 30, where + ", " + what);
    };
    const auto scale_all = [](float* x, float by) {
      for (std::size_t i = 0; i < 20; ++i) x[i] *= by;
    };
    try_rows("all equal", [](std::size_t, float* x) { std::fill_n(x, 20, 0.5f); });
    try_rows("all zero", [](std::size_t, float* x) { std::fill_n(x, 20, 0.0f); });
    try_rows("half zero", [&](std::size_t i, float* x) { scale_all(x, i % 2 ? 1.0f : 0.0f); });
    try_rows("shorter than float32 can say", [](std::size_t i, float* x) {
      if (i == 700) std::fill_n(x, 20, 0.0f), x[0] = 1e-43f;
    });
    try_rows("one huge", [&](std::size_t i, float* x) { scale_all(x, i == 99 ? 1e30f : 1.0f); });
    try_rows("many huge", [&](std::size_t i, float* x) { scale_all(x, i % 3 ? 1e30f : 1.0f); });
    try_rows("all tiny", [&](std::size_t, float* x) { scale_all(x, 1e-9f); });
    try_rows("all tinier", [&](std::size_t, float* x) { scale_all(x, 1e-25f); });
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
  });
}

BOOST_AUTO_TEST_CASE(queries_of_any_size) {
  Generator random(4);
  Rows rows = random_rows(random, 1500, 9);
  for (const float by : {0.0f, 1e-38f, 1e-20f, 1e-10f, 1e10f, 1e20f, 1e37f}) {
    std::vector<float> queries = uniform_floats(random, 3 * 9);
    for (float& x : queries) x *= by;
    check_metrics(rows, queries, 12, "queries times " + std::to_string(by));
  }
}

BOOST_AUTO_TEST_CASE(lists_of_ids_that_are_excluded_or_allowed) {
  Generator random(5);
  Rows rows = random_rows(random, 4000, 17);
  const std::vector<float> queries = uniform_floats(random, 3 * 17);
  const auto some = [&](std::size_t n) {
    std::vector<std::int64_t> list;
    for (std::size_t i = 0; i < n; ++i) list.push_back(rows.ids[below(random, rows.size())]);
    list.push_back(1 << 30);  // nobody's
    return list;
  };
  const auto has = [](std::span<const std::int64_t> list, std::int64_t id) {
    return std::find(list.begin(), list.end(), id) != list.end();
  };
  for (const std::size_t excluded : {0, 3, 3900}) {
    for (const std::size_t allowed : {0, 10, 300, 20000}) {
      const std::vector<std::int64_t> out = some(excluded), in = some(allowed);
      // one list for every query; or a third for each
      const std::vector<std::int64_t> third = {0, static_cast<std::int64_t>(in.size() / 3),
                                               static_cast<std::int64_t>(in.size() / 2),
                                               static_cast<std::int64_t>(in.size())};
      for (const bool own : {false, true}) {
        for (const Metric metric : kMetrics) {
          SearchRequest request;
          request.k = 25;
          request.metric = metric;
          if (excluded > 0) request.exclude.ids = out;
          if (allowed > 0) request.allow = IdLists{.ids = in, .offsets = {}};
          if (own && allowed > 0) request.allow->offsets = third;
          check(rows, queries, request,
                "excluded " + std::to_string(excluded) + ", allowed " + std::to_string(allowed) +
                    (own ? ", own lists" : ""),
                [&](std::size_t q, std::int64_t id) {
                  if (excluded > 0 && has(out, id)) return false;
                  if (allowed == 0) return true;
                  if (!own) return has(in, id);
                  return has(std::span(in).subspan(static_cast<std::size_t>(third[q]),
                                                   static_cast<std::size_t>(third[q + 1] - third[q])),
                             id);
                });
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(rows_come_go_and_change) {
  Generator random(6);
  Rows rows = random_rows(random, 3000, 12);
  const auto table = table_of(rows);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::int64_t> gone, written;
    std::vector<float> vectors;
    for (int i = 0; i < 100; ++i) {
      const std::size_t at = below(random, rows.size());
      gone.push_back(rows.ids[at]);
      rows.ids[at] = rows.ids.back();
      std::copy_n(rows.row(rows.size() - 1), 12, rows.row(at));
      rows.ids.pop_back();
      rows.x.resize(rows.ids.size() * 12);
    }
    for (int i = 0; i < 90; ++i) {
      written.push_back(1'000'000 + round * 100 + i);
      const std::vector<float> row = uniform_floats(random, 12, -2.0f, 2.0f);
      vectors.insert(vectors.end(), row.begin(), row.end());
    }
    BOOST_TEST(table->remove(gone) == gone.size());
    table->load(written, vectors.data());
    rows.ids.insert(rows.ids.end(), written.begin(), written.end());
    rows.x.insert(rows.x.end(), vectors.begin(), vectors.end());
    const std::vector<float> queries = uniform_floats(random, 2 * 12);
    for (const Metric metric : kMetrics) {
      SearchRequest request;
      request.k = 40;
      request.metric = metric;
      const Answer got = search(*table, request, queries), expected = sort_all(rows, request, queries, any);
      check_same_bytes(got.ids, expected.ids, "ids ");
      check_same_bytes(got.scores, expected.scores, "scores ");
    }
  }
}

BOOST_AUTO_TEST_CASE(rows_whose_weights_are_ahead_of_their_codes) {
  // as while a learner is at work on a batch: the best by their codes are the worst by now
  Generator random(7);
  Rows rows = random_rows(random, 2000, 8);
  const auto table = table_of(rows);
  const std::vector<float> query(8, 1.0f);
  SearchRequest request;
  request.k = 50;
  const Answer before = search(*table, request, query);
  RowStore& store = table->store();
  for (std::size_t i = 0; i < 50; ++i) {
    const auto at = static_cast<std::size_t>(std::find(rows.ids.begin(), rows.ids.end(), before.ids[i]) -
                                             rows.ids.begin());
    std::fill_n(rows.row(at), 8, -9.0f);
    std::fill_n(store.weights(store.find(before.ids[i])), 8, -9.0f);
  }
  const Answer got = search(*table, request, query), expected = sort_all(rows, request, query, any);
  check_same_bytes(got.ids, expected.ids, "ids ");
  check_same_bytes(got.scores, expected.scores, "scores ");
}

// Rows move between two states, far apart: whoever mixes the two finds codes that score nearly nothing.
BOOST_AUTO_TEST_CASE(the_best_rows_are_found_while_they_are_written) {
  constexpr std::size_t kDim = 96, kRows = 4096, kBest = 40;
  for_each_isa_and_threads([&](const std::string& where) {
    Generator random(8);
    Rows rows = random_rows(random, kRows, kDim);
    const auto table = table_of(rows);
    const std::vector<std::int64_t> best(rows.ids.begin(), rows.ids.begin() + kBest);
    std::vector<float> states[2];
    for (int s = 0; s < 2; ++s) {
      for (std::size_t i = 0; i < kBest * kDim; ++i) {  // either half's signs make half the score
        states[s].push_back((i % kDim < kDim / 2) == (s == 0) ? 900.0f : -100.0f);
      }
    }
    table->load(best, states[0].data());
    std::atomic<bool> stop{false};
    std::thread writer([&] {
      for (int s = 1; !stop; s = 1 - s) table->load(best, states[s].data());
    });
    int searches = 0;
    for (const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(150);
         searches < 6 || std::chrono::steady_clock::now() < end; ++searches) {
      SearchRequest request;
      request.k = kBest;
      request.metric = kMetrics[searches % 3];
      // a distance from far away, for which high rows are nearer
      const std::vector<float> queries(5 * kDim, request.metric == Metric::kL2 ? 1e4f : 1.0f);
      const Answer got = search(*table, request, queries);
      for (std::size_t q = 0; q < 5; ++q) {
        std::vector<std::int64_t> ids(got.ids.begin() + static_cast<std::ptrdiff_t>(q * kBest),
                                      got.ids.begin() + static_cast<std::ptrdiff_t>((q + 1) * kBest));
        std::sort(ids.begin(), ids.end());
        std::vector<std::int64_t> expected = best;
        std::sort(expected.begin(), expected.end());
        BOOST_REQUIRE_MESSAGE(ids == expected, where << ": search " << searches << " missed a row");
        for (std::size_t i = 0; i < kBest && request.metric == Metric::kIp; ++i) {
          BOOST_REQUIRE(got.scores[q * kBest + i] == 400.0f * kDim);
        }
      }
    }
    stop = true;
    writer.join();
  });
}

BOOST_AUTO_TEST_CASE(out_of_memory_anywhere_is_an_error) {
  Generator random(9);
  Rows rows = random_rows(random, 3000, 16);
  const auto table = table_of(rows);
  const std::vector<float> queries = uniform_floats(random, 5 * 16);
  SearchRequest request;
  request.k = 10;
  request.queries = queries.data();
  request.n = 5;
  Answer answer{std::vector<float>(50), std::vector<std::int64_t>(50)};
  bool failed = true;
  for (int n = 0; failed; ++n) {
    BOOST_REQUIRE(n < 1000);
    failed = false;
    try {
      const FailingNew failing(n);
      fastinc::exact_search(*table, request, answer.scores.data(), answer.ids.data());
    } catch (const std::bad_alloc&) {
      failed = true;
    }
  }
  check_same_bytes(answer.ids, sort_all(rows, request, queries, any).ids, "after all: ");
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
