// A copy that is made while the table is written to is the table at one version.
#include "store/table_copy.h"

#include <map>
#include <mutex>
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
    some.resize(5);  // which come back, in other slots perhaps
    if (random() % 2 == 0) table.load(some, uniform_floats(random, some.size() * kDim).data());
  }
}

void check_followed(const TableBounds& bounds) {
  for (unsigned seed = 0; seed < repeats(60); ++seed) {
    Generator random(seed);
    Table table(kDim, std::make_shared<Optimizer>(AdagradParams{.lr = 0.1}), Initializer{}, bounds);
    change(table, random, 300);
    TableCopy copy(table.store());
    for (unsigned round = 0; round < seed % 5; ++round) {
      copy.catch_up();
      if (round == 2 && seed % 7 == 0) table.import_state(table.export_state());  // another epoch
      change(table, random, 300);
    }
    {
      const WriteTurn turn(table.store().mutex);
      copy.finish();
    }
    const TableState got = copy.take();
    change(table, random, 300);  // nothing to it any more
    TableCopy at_once(table.store());
    at_once.finish();
    BOOST_CHECK_EQUAL(rows_of(got).size(), got.ids.size());
    BOOST_CHECK_LT(got.version, table.version());
    // What a table that was set to the copy goes on from is what the table was.
    Table twin(kDim, std::make_shared<Optimizer>(AdagradParams{.lr = 0.1}), Initializer{}, bounds);
    twin.import_state(got);
    BOOST_CHECK(rows_of(twin.export_state()) == rows_of(got));
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(it_is_what_the_table_is) {
  for (unsigned seed = 0; seed < repeats(100); ++seed) {
    Generator random(seed);
    Table table(kDim, std::make_shared<Optimizer>(AdagradParams{.lr = 0.1}), Initializer{});
    TableCopy copy(table.store());
    for (unsigned round = 0; round < 1 + seed % 6; ++round) {
      change(table, random, 300);
      copy.catch_up();
    }
    change(table, random, 300);
    copy.finish();  // nobody else writes
    TableCopy anew(table.store());
    anew.finish();
    const TableState got = copy.take(), expected = anew.take();
    BOOST_CHECK_EQUAL(got.version, expected.version);
    BOOST_CHECK(got.ids == expected.ids);
    BOOST_CHECK(got.row_versions == expected.row_versions);
    BOOST_CHECK(got.weights == expected.weights);
    BOOST_CHECK(got.state == expected.state);
  }
}

BOOST_AUTO_TEST_CASE(limits_and_other_states_between) {
  TableBounds lru, lfu;
  lru.max_rows = lfu.max_rows = 120;
  lru.eviction = Eviction::kLru;
  lfu.eviction = Eviction::kLfu;
  for (const TableBounds& bounds : {TableBounds{}, lru, lfu}) check_followed(bounds);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
