// Searches of a LiveBase over a table that was written since, against exact search among the same rows.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <numeric>
#include <set>
#include <thread>

#include "cpu/code_scan.h"
#include "fastinc/live_base.h"
#include "fastinc/table.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(live_search)

namespace {

using Ids = std::vector<std::int64_t>;

constexpr std::size_t kLists = 16, kApart = 20;
constexpr std::int64_t kUnfolded = -1, kUnchanged = -2;

/// A table, an index that knows it as it was, and where each of its rows is to be found.
struct Written {
  Table table;
  RowsAtVersion built;
  std::unique_ptr<LiveBase> base;
  std::map<std::int64_t, std::int64_t> places;  // a list, kUnfolded or kUnchanged
  Generator& random;

  Written(std::size_t rows, std::size_t dim, Generator& generator)
      : table(dim, std::make_shared<Optimizer>(SgdParams{}), Initializer{}), random(generator) {
    Ids ids(rows);
    for (std::size_t i = 0; i < rows; ++i) ids[i] = static_cast<std::int64_t>(i) * 3 - 500;
    set(ids);
    built = rows_at_version(table);
    base = std::make_unique<LiveBase>(table, built.ids, rows - kApart, built.version, built.epoch, kLists);
    for (const std::int64_t id : built.ids) places[id] = kUnchanged;
  }

  void set(const Ids& ids) {
    const auto rows = uniform_floats(random, ids.size() * table.dim(), -1.0f, 1.2f);
    table.load(ids, rows.data());
    for (const std::int64_t id : ids) places[id] = kUnfolded;
  }
  Ids some(std::size_t count) {
    Ids ids;
    for (const auto& [id, place] : places) ids.push_back(id);
    std::shuffle(ids.begin(), ids.end(), random);
    ids.resize(count);
    return ids;
  }
  void remove(const Ids& ids) {
    table.remove(ids);
    for (const std::int64_t id : ids) places.erase(id);
  }
  void fold() {
    const LiveBase::Unfolded fresh = base->unfolded();
    Ids lists(fresh.slots.size());
    for (std::int64_t& list : lists) list = static_cast<std::int64_t>(random() % (kLists + 1));
    base->fold(fresh.slots, lists, fresh.version);
    std::map<std::vector<float>, std::int64_t> list_of;
    for (std::size_t i = 0; i < lists.size(); ++i) {
      const float* row = fresh.weights.data() + i * table.dim();
      list_of[{row, row + table.dim()}] = lists[i];
    }
    for (auto& [id, place] : places) {
      std::vector<float> row(table.dim());
      if (place == kUnfolded) {
        table.lookup(Ids{id}, row.data());
        place = list_of.at(row);
      }
    }
  }
};

struct Answer {
  std::vector<float> scores;
  Ids ids;
  explicit Answer(const SearchRequest& request) : scores(request.n * request.k), ids(request.n * request.k) {}
};

/// What some queries name of the index: positions, ended by -1 now and then, and lists.
struct Named {
  Ids positions, lists;
  std::size_t asked, probed;

  Named(std::size_t queries, std::size_t most, std::size_t count, Generator& random)
      : asked(most), probed(5) {
    for (std::size_t q = 0; q < queries; ++q) {
      std::set<std::int64_t> distinct, looked_at;
      while (distinct.size() < asked) distinct.insert(static_cast<std::int64_t>(random() % count));
      while (looked_at.size() < probed) looked_at.insert(static_cast<std::int64_t>(random() % kLists));
      positions.insert(positions.end(), distinct.begin(), distinct.end());
      if (q % 3 == 2) positions.back() = -1;
      lists.insert(lists.end(), looked_at.begin(), looked_at.end());
    }
  }
  IndexAnswer answer() const {
    return {.positions = positions.data(), .asked = asked, .lists = lists.data(), .probed = probed};
  }
  Ids candidates(const Written& written, std::size_t q) const {
    const auto begin = positions.begin() + static_cast<std::ptrdiff_t>(q * asked);
    const auto first = lists.begin() + static_cast<std::ptrdiff_t>(q * probed);
    const std::set<std::int64_t> looked_at(first, first + static_cast<std::ptrdiff_t>(probed));
    std::set<std::int64_t> names;
    for (auto it = begin; it != begin + static_cast<std::ptrdiff_t>(asked); ++it) {
      if (*it >= 0) names.insert(written.built.ids[static_cast<std::size_t>(*it)]);
    }
    const auto apart = written.built.ids.end() - static_cast<std::ptrdiff_t>(kApart);
    names.insert(apart, written.built.ids.end());
    Ids out;
    for (const auto& [id, place] : written.places) {
      const bool fresh = place == kUnfolded || place == kLists || looked_at.count(place) == 1;
      if (fresh || (place == kUnchanged && names.count(id) == 1)) out.push_back(id);
    }
    return out;
  }
};

void check(const Written& written, std::size_t asked, std::size_t queries, std::size_t k, Metric metric,
           const Ids& excluded) {
  const std::size_t dim = written.table.dim(), count = written.built.ids.size() - kApart;
  const auto x = uniform_floats(written.random, queries * dim, -1.0f, 1.0f);
  SearchRequest request{.queries = x.data(), .n = queries, .k = k, .metric = metric};
  request.exclude.ids = excluded;
  const Named named(queries, asked, count, written.random);
  Answer got(request), wanted(request);
  written.base->search(request, named.answer(), got.scores.data(), got.ids.data());
  Ids allowed, offsets{0};
  for (std::size_t q = 0; q < queries; ++q) {
    const Ids candidates = named.candidates(written, q);
    allowed.insert(allowed.end(), candidates.begin(), candidates.end());
    offsets.push_back(static_cast<std::int64_t>(allowed.size()));
  }
  request.allow = IdLists{allowed, offsets};
  exact_search(written.table, request, wanted.scores.data(), wanted.ids.data());
  BOOST_TEST_REQUIRE((got.ids == wanted.ids));
  BOOST_TEST_REQUIRE((got.scores == wanted.scores));
}

void check_all(std::size_t rows, std::size_t dim, Generator& random) {
  Written written(rows, dim, random);
  const auto check_now = [&] {
    for (const Metric metric : {Metric::kIp, Metric::kCosine, Metric::kL2}) {
      for (const std::size_t k : {1, 10, 100}) check(written, 60, 5, k, metric, written.some(20));
      check(written, 1, 3, rows, metric, {});
    }
    check(written, 60, 70, 10, Metric::kIp, {});
  };
  check_now();
  written.set(written.some(rows / 3));
  written.fold();
  check_now();
  written.set(written.some(rows / 10));
  written.remove(written.some(rows / 20));
  Ids ids(rows / 20 + 10);  // the removed rows' slots, and others
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = 100'000 + static_cast<std::int64_t>(i);
  written.set(ids);
  check_now();
  written.fold();
  written.set(written.some(1));
  check_now();
}

}  // namespace

BOOST_AUTO_TEST_CASE(rows_named_folded_and_written_since_rank_as_in_exact_search) {
  for_each_isa_and_threads([](const std::string&) {
    Generator random(5);
    check_all(400, 33, random);
  });
  Generator random(7);
  for (const std::size_t dim : {2, 128}) check_all(900, dim, random);
}

BOOST_AUTO_TEST_CASE(rows_too_long_for_bounds) {
  Generator random(6);
  Written written(60, kMostScanDim + 1, random);
  written.set(written.some(20));
  written.fold();
  written.set(written.some(5));
  for (const Metric metric : {Metric::kIp, Metric::kL2}) check(written, 20, 3, 8, metric, {});
}

// An id that is in another slot when it comes back may be met in both during one search.
BOOST_AUTO_TEST_CASE(answers_are_whole_while_ids_move_from_slot_to_slot) {
  constexpr std::size_t kRows = 600, kDim = 16, k = 100;
  Table table(kDim, std::make_shared<Optimizer>(SgdParams{}), Initializer{});
  Ids ids(kRows);
  std::vector<float> x(kRows * kDim);
  for (std::size_t i = 0; i < kRows; ++i) {
    ids[i] = static_cast<std::int64_t>(i);
    std::fill_n(x.data() + i * kDim, kDim, static_cast<float>(1 + i % 50));
  }
  table.load(ids, x.data());
  const RowsAtVersion built = rows_at_version(table);
  LiveBase base(table, built.ids, kRows, built.version, built.epoch, 0);
  std::atomic<bool> stop{false};
  std::thread writer([&] {  // three ids at a time change places; all others are there throughout
    Generator random(8);
    while (!stop) {
      const auto first = static_cast<std::ptrdiff_t>(random() % (kRows - 3));
      const Ids some(ids.begin() + first, ids.begin() + first + 3);
      table.remove(some);
      std::vector<float> rows;
      for (const std::size_t i : {2, 0, 1}) {
        const float* row = x.data() + static_cast<std::size_t>(some[i]) * kDim;
        rows.insert(rows.end(), row, row + kDim);
      }
      table.load(Ids{some[2], some[0], some[1]}, rows.data());
    }
  });
  const std::vector<float> query(kDim, 1.0f);
  std::vector<float> scores(k);
  Ids found(k), positions(kRows);
  std::iota(positions.begin(), positions.end(), std::int64_t{0});
  const SearchRequest request{.queries = query.data(), .n = 1, .k = k};
  const IndexAnswer index{.positions = positions.data(), .asked = kRows};
  std::size_t short_answers = 0, repeats = 0;
  const auto check_answer = [&] {
    short_answers += found.back() == -1;
    std::sort(found.begin(), found.end());
    repeats += std::adjacent_find(found.begin(), found.end()) != found.end() && found.front() != -1;
  };
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(800);
  while (std::chrono::steady_clock::now() < end) {
    base.search(request, index, scores.data(), found.data());
    check_answer();
    exact_search(table, request, scores.data(), found.data());
    check_answer();
  }
  stop = true;
  writer.join();
  BOOST_TEST(short_answers == 0u);
  BOOST_TEST(repeats == 0u);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
