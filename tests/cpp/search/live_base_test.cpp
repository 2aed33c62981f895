// Rows that an index names and rows written since, against what the table holds.
#include "fastinc/live_base.h"

#include <atomic>
#include <chrono>
#include <map>
#include <new>
#include <set>
#include <thread>

#include "fastinc/table.h"
#include "support/failing_new.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(live_base)

namespace {

constexpr std::size_t kDim = 8, kRows = 600, kLists = 4;
using Ids = std::vector<std::int64_t>;

/// A table of rows whose values are all `value(id)`, and an index that names every one of them.
struct Live {
  Table table;
  RowsAtVersion built;
  std::unique_ptr<LiveBase> base;

  explicit Live(const TableBounds& bounds = {}, std::size_t apart = 0)
      : table(kDim, std::make_shared<Optimizer>(SgdParams{}), Initializer{}, bounds) {
    Ids ids(kRows);
    for (std::size_t i = 0; i < kRows; ++i) ids[i] = static_cast<std::int64_t>(i) * 5 - 300;
    set(ids, 1.0f);
    built = rows_at_version(table);
    base = std::make_unique<LiveBase>(table, built.ids, built.ids.size() - apart, built.version, built.epoch,
                                      kLists);
  }

  void set(const Ids& ids, float value) {
    const std::vector<float> rows(ids.size() * kDim, value);
    table.load(ids, rows.data());
  }

  struct Answer {
    LiveState state;
    std::vector<std::pair<std::int64_t, float>> rows;  // id, value
  };
  /// The k best among these positions, and what is fresh in these lists.
  Answer search(std::size_t k, const Ids& positions, const Ids& lists, const Ids& excluded = {}) const {
    const std::vector<float> query(kDim, 1.0f);
    SearchRequest request{.queries = query.data(), .n = 1, .k = k};
    request.exclude.ids = excluded;
    const IndexAnswer index{.positions = positions.data(),
                            .asked = positions.size(),
                            .lists = lists.data(),
                            .probed = lists.size()};
    std::vector<float> scores(k);
    Ids ids(k);
    Answer answer;
    answer.state = base->search(request, index, scores.data(), ids.data());
    for (std::size_t i = 0; i < k && ids[i] != -1; ++i) answer.rows.emplace_back(ids[i], scores[i] / kDim);
    return answer;
  }

  /// Everything since the last time goes into the list that the row's value names.
  std::size_t fold() {
    const LiveBase::Unfolded fresh = base->unfolded();
    Ids lists;
    for (std::size_t i = 0; i < fresh.slots.size(); ++i) {
      lists.push_back(static_cast<std::int64_t>(fresh.weights[i * kDim]) %
                      static_cast<std::int64_t>(kLists + 1));
    }
    base->fold(fresh.slots, lists, fresh.version);
    return fresh.slots.size();
  }
};

using Rows = std::vector<std::pair<std::int64_t, float>>;

}  // namespace

BOOST_AUTO_TEST_CASE(rows_that_the_index_names) {
  const Live live;
  const auto answer = live.search(10, {7, 3, 599, -1}, {});
  BOOST_TEST((answer.rows == Rows{{-285, 1.0f}, {-265, 1.0f}, {2695, 1.0f}}));
  BOOST_TEST(answer.state.version == 1u);
  BOOST_TEST(answer.state.changed == 0u);
  BOOST_TEST(answer.state.lacking == 0u);  // the last position says that the index has no more
  BOOST_TEST(live.search(10, {7, 3}, {}).state.lacking == 1u);
  BOOST_TEST(live.search(2, {7, 3}, {}).state.lacking == 0u);
  BOOST_TEST(live.search(2, {7, 3}, {}, {-265}).state.lacking == 1u);
}

BOOST_AUTO_TEST_CASE(rows_written_since_are_candidates_until_they_are_folded_and_then_of_their_list) {
  Live live;
  live.set({-285, 77}, 6.0f);  // one that the index has, and a new one
  auto answer = live.search(4, {3, 7}, {});
  BOOST_TEST((answer.rows == Rows{{-285, 6.0f}, {77, 6.0f}, {-265, 1.0f}}));
  BOOST_TEST(answer.state.unfolded == 2u);
  BOOST_TEST(answer.state.everywhere == 2u);
  BOOST_TEST(answer.state.changed == 2u);
  BOOST_TEST(answer.state.lacking == 1u);  // 3 isn't as it was
  BOOST_TEST(answer.state.kept == 0.5);
  BOOST_TEST(live.fold() == 2u);
  BOOST_TEST(live.fold() == 0u);
  BOOST_TEST((live.search(4, {3, 7}, {0, 2, 3}).rows == Rows{{-265, 1.0f}}));  // it is in list 1
  BOOST_TEST((live.search(4, {3, 7}, {1}).rows == Rows{{-285, 6.0f}, {77, 6.0f}, {-265, 1.0f}}));
  live.set({77}, 8.0f);  // folded, and written again
  BOOST_TEST((live.search(4, {7}, {1}).rows == Rows{{77, 8.0f}, {-285, 6.0f}, {-265, 1.0f}}));
  BOOST_TEST((live.search(4, {7}, {2}).rows == Rows{{77, 8.0f}, {-265, 1.0f}}));
  BOOST_TEST(live.fold() == 1u);
  BOOST_TEST((live.search(4, {7}, {1}).rows == Rows{{-285, 6.0f}, {-265, 1.0f}}));
  BOOST_TEST((live.search(4, {7}, {3}).rows == Rows{{77, 8.0f}, {-265, 1.0f}}));
  live.set({78}, 4.0f);  // the list of every query
  live.fold();
  BOOST_TEST((live.search(4, {7}, {2}).rows == Rows{{78, 4.0f}, {-265, 1.0f}}));
  BOOST_TEST(live.base->count_everywhere() == 1u);
  BOOST_TEST(live.base->count_fresh() == 3u);
}

BOOST_AUTO_TEST_CASE(rows_that_are_gone) {
  Live live;
  live.set({77, 78}, 6.0f);
  live.table.remove(Ids{-285, 78});
  BOOST_TEST((live.search(4, {3, 7}, {}).rows == Rows{{77, 6.0f}, {-265, 1.0f}}));
  BOOST_TEST(live.base->count_unfolded() == 1u);
  live.set({1000}, 5.0f);  // in the slot of one of them
  BOOST_TEST((live.search(4, {3, 7}, {}).rows == Rows{{77, 6.0f}, {1000, 5.0f}, {-265, 1.0f}}));
  live.fold();
  live.table.remove(Ids{77});
  live.set({-285}, 2.0f);  // and back
  BOOST_TEST((live.search(4, {3, 7}, {0, 1}).rows == Rows{{1000, 5.0f}, {-285, 2.0f}, {-265, 1.0f}}));
}

BOOST_AUTO_TEST_CASE(rows_that_came_and_went_count_for_nothing) {
  Live live;
  Ids ids(200);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = 10'000 + static_cast<std::int64_t>(i);
  live.set(ids, 6.0f);
  live.table.remove(ids);
  const LiveState state = live.search(4, {3, 7}, {}).state;
  BOOST_TEST(state.unfolded == 0u);
  BOOST_TEST(state.everywhere == 0u);
  BOOST_TEST(state.changed == 0u);
  BOOST_TEST(live.base->count_everywhere() == 0u);
}

BOOST_AUTO_TEST_CASE(rows_apart_from_the_index) {
  const Live live({}, 2);
  BOOST_TEST((live.search(4, {7}, {}).rows == Rows{{-265, 1.0f}, {2690, 1.0f}, {2695, 1.0f}}));
  BOOST_CHECK_THROW(live.search(4, {598}, {}), std::invalid_argument);
}

BOOST_AUTO_TEST_CASE(a_table_set_to_another_state) {
  Live live;
  BOOST_TEST(!live.base->outdated());
  live.table.import_state(live.table.export_state());
  BOOST_TEST(live.search(4, {7}, {}).state.outdated);
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_refused) {
  Live live;
  live.set({77}, 6.0f);
  const auto fresh = live.base->unfolded();
  const std::vector<std::uint32_t> slot = fresh.slots, twice = {slot[0], slot[0]}, none = {1 << 20};
  const auto fold = [&](const std::vector<std::uint32_t>& slots, const Ids& lists) {
    live.base->fold(slots, lists, fresh.version);
  };
  BOOST_CHECK_THROW(fold(slot, {}), std::invalid_argument);
  BOOST_CHECK_THROW(fold(slot, {-1}), std::invalid_argument);
  BOOST_CHECK_THROW(fold(slot, {kLists + 1}), std::invalid_argument);
  BOOST_CHECK_THROW(fold(twice, {1, 1}), std::invalid_argument);
  BOOST_CHECK_THROW(fold(none, {1}), std::invalid_argument);
  BOOST_CHECK_THROW(live.search(1, {kRows}, {}), std::invalid_argument);
  BOOST_CHECK_THROW(live.search(1, {-2}, {}), std::invalid_argument);
  BOOST_CHECK_THROW(live.search(1, {0}, {kLists}), std::invalid_argument);
  BOOST_CHECK_THROW(live.search(0, {0}, {}), std::invalid_argument);
  BOOST_TEST((live.search(1, {0}, {}).rows == Rows{{77, 6.0f}}));  // and nothing was folded
}

// A batch that fails after it has marked the rows it knows leaves them with a version that nobody wrote.
BOOST_AUTO_TEST_CASE(rows_of_a_batch_that_failed_are_still_found) {
  TableBounds bounds;
  bounds.max_rows = 100'000;
  bounds.eviction = Eviction::kLfu;  // which marks rows before it makes others, for which the index grows
  Ids batch = {-285, -265};
  for (std::int64_t id = 0; id < 9000; ++id) batch.push_back(90'000 + id);
  const std::vector<float> grads(batch.size() * kDim, 1.0f);
  std::size_t failures = 0;
  for (std::size_t allowed = 0;; ++allowed) {
    Live live(bounds);
    bool failed = false;
    try {
      const FailingNew failing(allowed);
      live.table.update(batch, grads.data(), NonFinite::kRaise);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    if (!failed) break;
    ++failures;
    const auto answer = live.search(3, {3, 7}, {0, 1, 2, 3});
    std::set<std::int64_t> ids;
    for (const auto& [id, value] : answer.rows) ids.insert(id);
    BOOST_REQUIRE_MESSAGE(ids.count(-285) == 1 && ids.count(-265) == 1,
                          "lost after " << allowed << " allocations");
  }
  BOOST_TEST(failures > 0u);
}

// Two writers' rows are always in the answer, at the value that was written last or at the next.
BOOST_AUTO_TEST_CASE(no_row_is_missed_or_named_twice_while_rows_are_written_and_folded) {
  Live live;
  constexpr std::size_t kHot = 30;
  Ids hot;
  for (std::size_t i = 0; i < kHot; ++i) hot.push_back(static_cast<std::int64_t>(i % 2 ? i * 5 : i * 5 + 1));
  live.set(hot, 1000.0f);
  std::atomic<bool> stop{false};
  std::atomic<int> written{1000};
  std::thread writer([&] {
    for (int value = 1001; !stop; ++value) {
      live.set(hot, static_cast<float>(value));
      written = value;
    }
  });
  std::thread folder([&] {
    while (!stop) live.fold();
  });
  Ids positions(kRows);
  for (std::size_t i = 0; i < kRows; ++i) positions[i] = static_cast<std::int64_t>(i);
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(800);
  std::string wrong;
  for (int searches = 0; wrong.empty() && std::chrono::steady_clock::now() < end; ++searches) {
    const int before = written;
    const auto answer = live.search(kHot, positions, {0, 1, 2, 3});
    const int after = written + 1;
    std::map<std::int64_t, float> found(answer.rows.begin(), answer.rows.end());
    if (found.size() != kHot) wrong = "an id twice, or too few";
    for (const std::int64_t id : hot) {
      if (found.count(id) == 0) {
        wrong = "missed " + std::to_string(id);
      } else if (found[id] < static_cast<float>(before) || found[id] > static_cast<float>(after)) {
        wrong = "value " + std::to_string(found[id]) + ", between " + std::to_string(before) + " and " +
                std::to_string(after);
      }
    }
  }
  stop = true;
  writer.join();
  folder.join();
  BOOST_TEST(wrong == "");
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
