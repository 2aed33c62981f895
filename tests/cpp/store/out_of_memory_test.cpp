// A call that fails for want of memory, wherever that is, changes nothing, and can be made again.
#include <algorithm>
#include <functional>
#include <map>
#include <new>
#include <thread>

#include "fastinc/table.h"
#include "support/failing_new.h"
#include "support/support.h"
#include "support/table_model.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(out_of_memory)

namespace {

constexpr std::size_t kDim = 5;
using Rows = std::map<std::int64_t, std::vector<float>>;  // weights and state of each id

Rows rows_of(const Table& table) {
  const TableState state = table.export_state();
  const std::size_t floats = state.ids.empty() ? 0 : state.state.size() / state.ids.size();
  Rows rows;
  for (std::size_t i = 0; i < state.ids.size(); ++i) {
    std::vector<float>& row = rows[state.ids[i]];
    row.assign(&state.weights[i * kDim], &state.weights[i * kDim] + kDim);
    row.insert(row.end(), state.state.begin() + static_cast<std::ptrdiff_t>(i * floats),
               state.state.begin() + static_cast<std::ptrdiff_t>((i + 1) * floats));
  }
  return rows;
}

/// What every part of a table says of its rows is the same.
void check_consistent(const Table& table, const std::string& where) {
  const Rows rows = rows_of(table);
  Ids known;
  for (const auto& [id, row] : rows) known.push_back(id);
  BOOST_CHECK_MESSAGE(sorted(table.ids()) == known, where << "ids()");
  BOOST_CHECK_EQUAL(table.size(), rows.size());
  std::vector<float> found(known.size() * kDim);
  table.lookup(known, found.data());
  for (std::size_t i = 0; i < known.size(); ++i) {
    BOOST_REQUIRE_MESSAGE(std::equal(&found[i * kDim], &found[i * kDim] + kDim, rows.at(known[i]).begin()),
                          where << "lookup of " << known[i]);
  }
}

/// Rows that a batch gave up before it failed are gone, and changes() tells of them; all others are as they
/// were.
void check_unchanged(const Table& table, const Rows& before, std::uint64_t version,
                     const std::string& where) {
  check_consistent(table, where);
  const Rows after = rows_of(table);
  const Changes changes = table.changes(version);
  const Ids& removed = changes.removed;
  for (const auto& [id, row] : before) {
    const auto it = after.find(id);
    if (it == after.end()) {
      BOOST_CHECK_MESSAGE(
          table.bounds().any() && std::find(removed.begin(), removed.end(), id) != removed.end(),
          where << id << " is gone");
    } else {
      BOOST_CHECK_MESSAGE(it->second == row, where << id << " has changed");
    }
  }
  for (const auto& [id, row] : after) BOOST_CHECK_MESSAGE(before.contains(id), where << id << " is new");
  if (!table.bounds().any()) BOOST_CHECK_EQUAL(table.version(), version);
}

using Make = std::function<std::unique_ptr<Table>()>;
using Act = std::function<void(Table&)>;

/// Let the first allocation of the call fail, then the second, and so on until none is left to fail.
void fail_every_allocation(const Make& make, const Act& act, const std::string& what) {
  const std::unique_ptr<Table> expected = make();
  act(*expected);
  std::size_t failed = 0;
  for (bool failing = true; failing; failed += failing) {
    const std::string where = what + ", allocation " + std::to_string(failed) + ": ";
    const std::unique_ptr<Table> table = make();
    const Rows before = rows_of(*table);
    const std::uint64_t version = table->version();
    // scratch memory is of a thread: a new one has none yet
    std::thread([&] {
      const FailingNew guard(failed);
      try {
        act(*table);
        failing = false;
      } catch (const std::bad_alloc&) {
      }
    }).join();
    if (failing) {
      check_unchanged(*table, before, version, where);
      act(*table);
    }
    check_consistent(*table, where + "again: ");
    // rows that went before a failure leave others to go afterwards
    if (!table->bounds().any()) BOOST_CHECK_MESSAGE(rows_of(*table) == rows_of(*expected), where << "again");
    BOOST_REQUIRE_LT(failed, 1000u);
  }
  BOOST_CHECK_MESSAGE(failed > 0, what << " allocates nothing");
}

Ids range(std::int64_t first, std::size_t n) {
  Ids ids(n);
  for (std::size_t i = 0; i < n; ++i) ids[i] = (first + static_cast<std::int64_t>(i)) * 7919;
  return ids;
}

std::unique_ptr<Table> filled(const TableBounds& bounds, bool codes = true) {
  auto table = std::make_unique<Table>(kDim, std::make_shared<Optimizer>(AdamParams{}),
                                       Initializer{InitializerKind::kNormal, 0.0f, 0.5f, 21}, bounds);
  if (codes) table->keep_codes();
  Generator random(5);
  for (int batch = 0; batch < 3; ++batch) {
    const Ids ids = range(batch * 40, 60);
    table->update(ids, uniform_floats(random, ids.size() * kDim).data(), NonFinite::kRaise);
  }
  table->remove(range(10, 5));
  return table;
}

struct Case {
  const char* name;
  TableBounds bounds;
};

double at_rest() {
  return 0.0;
}

std::vector<Case> cases() {
  TableBounds lru, lfu, ttl, rare;
  lru.max_rows = lfu.max_rows = ttl.max_rows = 140;
  lru.eviction = Eviction::kLru;
  lfu.eviction = Eviction::kLfu;
  ttl.ttl = 10.0;
  ttl.clock = at_rest;
  rare.min_count = 2;
  rare.sketch_width = 1024;
  return {{"no bounds", {}}, {"lru", lru}, {"lfu", lfu}, {"ttl", ttl}, {"min_count", rare}};
}

}  // namespace

BOOST_AUTO_TEST_CASE(updates) {
  for (const auto& [name, bounds] : cases()) {
    const auto act = [](Table& table) {
      Generator random(6);
      Ids ids = range(100, 70);  // known and new ones, and repeats
      ids.insert(ids.end(), ids.begin(), ids.begin() + 30);
      table.update(ids, uniform_floats(random, ids.size() * kDim).data(), NonFinite::kRaise);
    };
    fail_every_allocation([&] { return filled(bounds); }, act, std::string("update, ") + name);
  }
}

BOOST_AUTO_TEST_CASE(updates_that_the_index_grows_for) {
  const auto act = [](Table& table) {
    Generator random(6);
    const Ids ids = range(100, 9000);
    table.update(ids, uniform_floats(random, ids.size() * kDim).data(), NonFinite::kSkip);
  };
  fail_every_allocation([] { return filled({}); }, act, "update");
}

BOOST_AUTO_TEST_CASE(loads) {
  for (const auto& [name, bounds] : cases()) {
    const auto act = [](Table& table) {
      Generator random(7);
      const Ids ids = range(110, 50);
      table.load(ids, uniform_floats(random, ids.size() * kDim).data());
    };
    fail_every_allocation([&] { return filled(bounds); }, act, std::string("load, ") + name);
  }
}

BOOST_AUTO_TEST_CASE(removals) {
  for (const auto& [name, bounds] : cases()) {
    const auto act = [](Table& table) { table.remove(range(90, 70)); };
    fail_every_allocation([&] { return filled(bounds); }, act, std::string("remove, ") + name);
  }
}

BOOST_AUTO_TEST_CASE(reads) {
  const auto act = [](Table& table) {
    const Ids ids = range(100, 70);
    std::vector<float> out(ids.size() * kDim);
    std::vector<std::uint8_t> codes(ids.size() * (kDim + kQuantizedTail));
    const Ids offsets{0, 3, 3, 50};
    table.lookup(ids, out.data());
    table.lookup_quantized(ids, codes.data());
    table.pool(ids, offsets, PoolMode::kMean, nullptr, out.data());
    table.changes(1);
  };
  fail_every_allocation([] { return filled({}, false); }, act, "reads");
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
