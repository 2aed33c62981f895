// A copy that is made while the table is written to is the table at one version.
#include "store/table_copy.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <span>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "fastinc/table.h"
#include "store/row_store.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(table_copy)

namespace {

constexpr std::size_t kDim = 6;
using Ids = std::vector<std::int64_t>;
using Rows = std::map<std::int64_t, std::pair<std::uint64_t, std::vector<float>>>;

Rows rows_of(const TableState& state) {
  Rows rows;
  const std::size_t floats = state.ids.empty() ? 0 : state.state.size() / state.ids.size();
  for (std::size_t i = 0; i < state.ids.size(); ++i) {
    std::vector<float> values(state.weights.begin() + static_cast<std::ptrdiff_t>(i * kDim),
                              state.weights.begin() + static_cast<std::ptrdiff_t>((i + 1) * kDim));
    values.insert(values.end(), state.state.begin() + static_cast<std::ptrdiff_t>(i * floats),
                  state.state.begin() + static_cast<std::ptrdiff_t>((i + 1) * floats));
    const bool is_new = rows.emplace(state.ids[i], std::pair(state.row_versions[i], values)).second;
    BOOST_CHECK_MESSAGE(is_new, "id " << state.ids[i] << " is there twice");
  }
  return rows;
}

/// Something that happens to a table between two looks at it.
void change(Table& table, Generator& random, std::size_t ids) {
  for (int n = 0; n < 3; ++n) {
    Ids some;
    for (int i = 0; i < 40; ++i) some.push_back(static_cast<std::int64_t>(random() % ids));
    table.update(some, uniform_floats(random, some.size() * kDim).data(), NonFinite::kRaise);
    some.resize(15);
    for (std::int64_t& id : some) id = static_cast<std::int64_t>(random() % ids);  // most not written lately
    table.remove(some);
    Ids known = table.ids();  // loads use rows, and rows that are used are written to before they are set
    std::sort(known.begin(), known.end());
    known.resize(std::min<std::size_t>(known.size(), 7));
    for (const std::int64_t id : {random() % ids, random() % ids})
      known.push_back(static_cast<std::int64_t>(id));
    table.load(known, uniform_floats(random, known.size() * kDim).data());
    some.resize(5);  // which come back, in other slots perhaps
    if (random() % 2 == 0) table.load(some, uniform_floats(random, some.size() * kDim).data());
  }
}

void check_same(const TableState& x, const TableState& y) {
  BOOST_CHECK_EQUAL(x.version, y.version);
  BOOST_CHECK(rows_of(x) == rows_of(y));
  BOOST_CHECK(x.sightings == y.sightings);
  BOOST_CHECK_EQUAL(x.sightings_counted, y.sightings_counted);
  BOOST_CHECK(x.slots == y.slots);
  BOOST_CHECK(x.free_slots == y.free_slots);
  if (x.slots.empty()) return;
  BOOST_CHECK(x.ids == y.ids);
  BOOST_CHECK(x.frequencies == y.frequencies);
}

/// A copy is the table when the copy began, whatever happened before and after.
void check_followed(const TableBounds& bounds) {
  for (unsigned seed = 0; seed < repeats(60); ++seed) {
    Generator random(seed);
    Table table(kDim, std::make_shared<Optimizer>(AdagradParams{.lr = 0.1}), Initializer{}, bounds);
    change(table, random, 300);
    const TableMark mark = table.mark();
    if (seed % 3 == 0) change(table, random, 300);
    TableCopy copy(table.store()), delta(table.store(), mark);
    for (unsigned round = 0; round < seed % 5; ++round) {
      copy.prepare();
      delta.prepare();
      if (round == 2 && seed % 7 == 0) table.import_state(table.export_state());  // another epoch
      change(table, random, 300);
    }
    const TableState expected = table.export_state();
    for (TableCopy* const one : {&copy, &delta}) {
      const WriteTurn turn(table.store().mutex);
      one->begin();
    }
    change(table, random, 300);
    if (seed % 11 == 0) table.import_state(table.export_state());
    for (TableCopy* const one : {&copy, &delta}) one->copy();
    change(table, random, 300);
    const TableChange got = copy.take(), changed = delta.take();
    change(table, random, 300);
    check_same(got.rows, expected);
    BOOST_CHECK_LT(got.rows.version, table.version());
    BOOST_CHECK_EQUAL(changed.rows.version, expected.version);
    for (const auto& [id, row] : rows_of(changed.rows)) BOOST_CHECK(rows_of(expected).at(id) == row);
    if (changed.whole) {
      check_same(changed.rows, expected);
    } else {
      for (const std::int64_t id : changed.removed) BOOST_CHECK(!rows_of(expected).contains(id));
    }
    // What a table that was set to the copy goes on from is what the table was.
    Table twin(kDim, std::make_shared<Optimizer>(AdagradParams{.lr = 0.1}), Initializer{}, bounds);
    twin.import_state(got.rows);
    check_same(twin.export_state(), expected);
  }
}

}  // namespace

namespace {

std::vector<TableBounds> all_bounds() {
  TableBounds lru, lfu, rare, forever;
  lru.max_rows = lfu.max_rows = 120;
  lru.eviction = Eviction::kLru;
  lfu.eviction = Eviction::kLfu;
  rare.min_count = 2;
  rare.sketch_width = 256;
  forever.ttl = 1e6;
  return {TableBounds{}, lru, lfu, rare, forever};
}

std::unique_ptr<Table> make_table(const TableBounds& bounds) {
  return std::make_unique<Table>(kDim, std::make_shared<Optimizer>(AdagradParams{.lr = 0.1}), Initializer{},
                                 bounds);
}

void check_same(const Table& a, const Table& b) {
  check_same(a.export_state(), b.export_state());
}

}  // namespace

BOOST_AUTO_TEST_CASE(it_is_the_table_when_it_began) {
  for (const TableBounds& bounds : all_bounds()) check_followed(bounds);
}

// Rows of every batch have one value: a copy in which two batches are half there would show it.
BOOST_AUTO_TEST_CASE(it_is_of_one_version_while_others_write) {
  constexpr std::size_t kRows = 3000;
  Ids ids(kRows);
  std::iota(ids.begin(), ids.end(), 0);
  Table table(kDim, std::make_shared<Optimizer>(AdagradParams{.lr = 0.1}), Initializer{});
  const auto write = [&](float value) { table.load(ids, std::vector<float>(kRows * kDim, value).data()); };
  write(1.0f);
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (std::size_t n = 2; n < repeats(400); ++n) {
      write(static_cast<float>(n));
      table.remove({{static_cast<std::int64_t>(n), static_cast<std::int64_t>(n + 1)}});
    }
    done = true;
  });
  TableMark mark = table.mark();
  while (!done) {
    for (const auto& since : {std::optional<TableMark>(), std::optional<TableMark>(mark)}) {
      const TableChange change = table.export_change(since);
      mark = change.mark;
      BOOST_CHECK(std::adjacent_find(change.rows.weights.begin(), change.rows.weights.end(),
                                     std::not_equal_to<>()) == change.rows.weights.end());
      const std::size_t rows = change.rows.ids.size();
      if (change.whole) BOOST_CHECK(rows == kRows || rows == kRows - 2);
    }
  }
  writer.join();
}

BOOST_AUTO_TEST_CASE(changes_make_the_table_that_they_are_of) {
  for (const TableBounds& bounds : all_bounds()) {
    for (unsigned seed = 0; seed < repeats(60); ++seed) {
      Generator random(seed);
      const auto leader = make_table(bounds);
      auto follower = make_table(bounds);
      change(*leader, random, 300);
      follower->import_state(leader->export_state());
      TableMark mark = leader->mark();
      for (unsigned round = 0; round < 5; ++round) {
        for (unsigned n = 0; n < round * seed % 4; ++n) change(*leader, random, 300);
        if (seed % 5 == 0 && round == 2) leader->import_state(leader->export_state());  // another epoch
        const TableChange made = leader->export_change(mark);
        BOOST_CHECK_EQUAL(made.whole, seed % 5 == 0 && round == 2);
        mark = made.mark;
        if (made.whole) {
          follower->import_state(made.rows);
        } else {
          follower->apply(made, Table::Versions::kKeep);
        }
        check_same(*leader, *follower);
      }
      // It is that table: the same befalls both, evictions among rows of one version too.
      Generator again = random;
      change(*leader, random, 300);
      change(*follower, again, 300);
      check_same(*leader, *follower);
    }
  }
}

BOOST_AUTO_TEST_CASE(changes_as_batches_of_ones_own) {
  for (const TableBounds& bounds : all_bounds()) {
    Generator random(3);
    const auto leader = make_table(bounds), replica = make_table(bounds);
    change(*leader, random, 300);
    replica->import_state(leader->export_state());
    TableMark mark = leader->mark();
    std::uint64_t seen = replica->version();
    std::map<std::int64_t, std::vector<float>> held;  // by a follower of the replica
    const auto row = [&](const Table& table, std::int64_t id) {
      std::vector<float> out(kDim);
      table.lookup(std::span(&id, 1), out.data());
      return out;
    };
    for (const std::int64_t id : replica->ids()) held[id] = row(*replica, id);
    for (unsigned round = 0; round < repeats(40); ++round) {
      change(*leader, random, 300);
      const TableChange made = leader->export_change(mark);
      mark = made.mark;
      replica->apply(made, Table::Versions::kNext);
      BOOST_CHECK_EQUAL(replica->version(), seen + 1);
      const Changes told = replica->changes(seen);
      BOOST_CHECK(!told.reset);
      seen = told.version;
      for (const std::int64_t id : told.removed) held.erase(id);
      for (const std::int64_t id : told.updated) held[id] = row(*replica, id);
      std::map<std::int64_t, std::vector<float>> expected;
      for (const std::int64_t id : leader->ids()) expected[id] = row(*leader, id);
      BOOST_CHECK(held == expected);
      BOOST_CHECK_EQUAL(replica->size(), leader->size());
    }
  }
}

BOOST_AUTO_TEST_CASE(changes_of_another_table_are_refused) {
  TableBounds lru;
  lru.max_rows = 120;
  lru.eviction = Eviction::kLru;
  Generator random(5);
  const auto leader = make_table(lru), other = make_table(lru);
  change(*leader, random, 300);
  const TableMark mark = leader->mark();
  change(*leader, random, 300);
  TableChange made = leader->export_change(mark);
  BOOST_CHECK_THROW(other->apply(made, Table::Versions::kKeep), std::invalid_argument);
  BOOST_CHECK_EQUAL(other->size(), 0u);
  made.rows.ids[0] = made.rows.ids[1];
  BOOST_CHECK_THROW(leader->apply(made, Table::Versions::kNext), std::invalid_argument);
  made = leader->export_change(mark);
  made.removed.push_back(made.rows.ids[0]);
  BOOST_CHECK_THROW(leader->apply(made, Table::Versions::kNext), std::invalid_argument);
  BOOST_CHECK_THROW(leader->apply(leader->export_change({}), Table::Versions::kKeep), std::invalid_argument);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
