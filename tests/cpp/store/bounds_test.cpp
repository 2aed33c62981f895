// Tables with limits against a model that keeps every key in order.
#include "fastinc/bounds.h"

#include <map>
#include <memory>
#include <set>
#include <tuple>

#include "fastinc/table.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(bounds)

namespace {

constexpr std::size_t kDim = 3;
double fake_time = 0.0;

using Ids = std::vector<std::int64_t>;

std::unique_ptr<Table> make(const TableBounds& bounds) {
  return std::make_unique<Table>(kDim, std::make_shared<Optimizer>(SgdParams{.lr = 1.0}), Initializer{},
                                 bounds);
}

void update(Table& table, const Ids& ids) {
  const std::vector<float> grads(ids.size() * kDim, -1.0f);
  table.update(ids, grads.data(), NonFinite::kRaise);
}

std::uint64_t stat(const Table& table, const std::string& name) {
  for (const auto& [key, value] : table.stats()) {
    if (key == name) return value;
  }
  BOOST_FAIL("no counter " + name);
  return 0;
}

Ids ids_of(const Table& table) {
  Ids ids = table.ids();
  std::sort(ids.begin(), ids.end());
  return ids;
}

/// Rows by (frequency, version, order of arrival in its batch doesn't matter: ties are the table's choice).
struct Model {
  struct Row {
    std::uint64_t frequency, version;
  };
  bool counts;
  std::map<std::int64_t, Row> rows;
  std::uint64_t version = 0;

  std::pair<std::uint64_t, std::uint64_t> key(std::int64_t id) const {
    const Row& row = rows.at(id);
    return {counts ? row.frequency : 0, row.version};
  }
  void write(const Ids& ids) {
    ++version;
    for (const std::int64_t id : std::set<std::int64_t>(ids.begin(), ids.end())) {
      Row& row = rows[id];
      ++row.frequency;
      row.version = version;
    }
  }
  /// What the table gave up must have been smaller than, or as small as, all it kept but the batch's own.
  void follow(const Table& table, const Ids& batch, std::size_t max_rows) {
    const Changes changes = table.changes(version);
    BOOST_REQUIRE(!changes.reset);
    const std::set<std::int64_t> own(batch.begin(), batch.end()),
        gone(changes.removed.begin(), changes.removed.end());
    std::size_t fresh = 0;
    for (const std::int64_t id : own) fresh += rows.count(id) == 0;
    const std::size_t expected = rows.size() + fresh > max_rows ? rows.size() + fresh - max_rows : 0;
    BOOST_REQUIRE_EQUAL(gone.size(), expected);
    std::pair<std::uint64_t, std::uint64_t> largest_gone{0, 0}, smallest_kept{~0ull, ~0ull};
    for (const auto& [id, row] : rows) {
      if (own.count(id) > 0) continue;
      if (gone.count(id) > 0) {
        largest_gone = std::max(largest_gone, key(id));
      } else {
        smallest_kept = std::min(smallest_kept, key(id));
      }
    }
    BOOST_REQUIRE(largest_gone <= smallest_kept);
    for (const std::int64_t id : gone) BOOST_REQUIRE_EQUAL(rows.erase(id), 1u);
    write(batch);
  }
};

void run_against_model(Eviction eviction, std::size_t max_rows, int batches) {
  const auto table = make({.max_rows = max_rows, .eviction = eviction});
  Model model{.counts = eviction == Eviction::kLfu};
  Generator random(17);
  for (int k = 0; k < batches; ++k) {
    Ids ids(1 + random() % std::min<std::size_t>(max_rows, 50));
    for (auto& id : ids) {  // some ids are popular
      const auto x = static_cast<std::int64_t>(random() % (4 * max_rows));
      id = random() % 2 == 0 ? x : x % static_cast<std::int64_t>(max_rows / 2 + 1);
    }
    update(*table, ids);
    model.follow(*table, ids, max_rows);
    BOOST_REQUIRE_EQUAL(table->size(), model.rows.size());
    if (k % 50 == 0 || k + 1 == batches) {
      Ids expected;
      for (const auto& [id, row] : model.rows) expected.push_back(id);
      BOOST_REQUIRE(ids_of(*table) == expected);
    }
  }
  BOOST_CHECK_EQUAL(stat(*table, "slots"), max_rows);
  BOOST_CHECK_EQUAL(stat(*table, "inserts") - stat(*table, "evictions"), table->size());
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_longest_unwritten_go_first) {
  for (const std::size_t max_rows : {1, 7, 300, 3000}) run_against_model(Eviction::kLru, max_rows, 1500);
}

BOOST_AUTO_TEST_CASE(the_least_written_go_first) {
  for (const std::size_t max_rows : {1, 7, 300, 3000}) run_against_model(Eviction::kLfu, max_rows, 1500);
}

BOOST_AUTO_TEST_CASE(an_evicted_id_starts_anew) {
  const auto table = make({.max_rows = 2, .eviction = Eviction::kLru});
  update(*table, {1});
  update(*table, {1});
  update(*table, {2});
  update(*table, {3});  // 1 goes
  std::vector<float> row(kDim);
  table->lookup(Ids{1}, row.data());
  BOOST_CHECK_EQUAL(row[0], 0.0f);
  update(*table, {1});
  table->lookup(Ids{1}, row.data());
  BOOST_CHECK_EQUAL(row[0], 1.0f);
  BOOST_CHECK(ids_of(*table) == (Ids{1, 3}));
}

BOOST_AUTO_TEST_CASE(a_batch_that_has_no_room_is_refused_and_changes_nothing) {
  const auto table = make({.max_rows = 3, .eviction = Eviction::kLru});
  update(*table, {1, 2});
  check_throws<std::invalid_argument>([&] { update(*table, {1, 5, 6, 7, 7}); },
                                      {"4 distinct ids", "max_rows = 3"});
  BOOST_CHECK(ids_of(*table) == (Ids{1, 2}));
  BOOST_CHECK_EQUAL(table->version(), 1u);
  update(*table, {1, 5, 6, 6, 6});
  BOOST_CHECK(ids_of(*table) == (Ids{1, 5, 6}));
  // nor does what the batch before gave up come back
  check_throws<std::invalid_argument>([&] { update(*table, {5, 6, 7, 8}); }, {"4 distinct ids"});
  BOOST_CHECK_EQUAL(table->version(), 2u);
  BOOST_CHECK(table->changes(1).removed == Ids{2});
}

BOOST_AUTO_TEST_CASE(rows_live_for_their_time) {
  fake_time = 100.0;
  const auto table = make({.ttl = 10.0, .clock = [] { return fake_time; }});
  update(*table, {1, 2});
  fake_time = 105.0;
  update(*table, {2, 3});
  fake_time = 109.9;
  BOOST_CHECK_EQUAL(table->expire(), 0u);
  fake_time = 110.02;
  const std::uint64_t before = table->version();
  BOOST_CHECK_EQUAL(table->expire(), 1u);
  BOOST_CHECK(ids_of(*table) == (Ids{2, 3}));
  BOOST_CHECK(table->changes(before).removed == Ids{1});
  fake_time = 112.0;
  update(*table, {3});
  fake_time = 120.0;
  update(*table, {9});  // an update takes them along
  BOOST_CHECK(ids_of(*table) == (Ids{3, 9}));
  BOOST_CHECK_EQUAL(stat(*table, "evictions"), 2u);
  fake_time = 1000.0;
  BOOST_CHECK_EQUAL(table->expire(), 2u);
  BOOST_CHECK_EQUAL(table->expire(), 0u);
}

BOOST_AUTO_TEST_CASE(rows_that_are_kept_busy_outlive_others) {
  fake_time = 0.0;
  const auto table = make({.max_rows = 500, .ttl = 10.0, .clock = [] { return fake_time; }});
  Generator random(4);
  std::map<std::int64_t, double> written;
  for (int k = 0; k < 3000; ++k) {
    fake_time += 0.05;
    Ids ids(5);
    for (auto& id : ids) id = static_cast<std::int64_t>(random() % 400);
    update(*table, ids);
    for (const auto id : ids) written[id] = fake_time;
    for (const auto& [id, at] : written) {
      bool there = false;
      table->contains(Ids{id}, &there);
      if (fake_time - at < 10.0) BOOST_REQUIRE(there);
      if (fake_time - at > 10.0 * (1 + 2.0 / 1024) + 0.06) BOOST_REQUIRE(!there);
    }
  }
}

BOOST_AUTO_TEST_CASE(rare_ids_get_no_row) {
  const auto table = make({.min_count = 3});
  update(*table, {1, 2, 2});
  BOOST_CHECK_EQUAL(table->size(), 0u);
  BOOST_CHECK_EQUAL(table->version(), 0u);
  BOOST_CHECK_EQUAL(stat(*table, "refused"), 3u);
  update(*table, {2, 1});  // 2's third time
  BOOST_CHECK(ids_of(*table) == Ids{2});
  update(*table, {1, 1});
  BOOST_CHECK(ids_of(*table) == (Ids{1, 2}));
  std::vector<float> rows(2 * kDim);
  table->lookup(Ids{1, 2}, rows.data());
  BOOST_CHECK_EQUAL(rows[0], 2.0f);  // both gradients of the batch that let it in
  BOOST_CHECK_EQUAL(rows[kDim], 1.0f);
  const std::vector<float> vector(kDim, 5.0f);
  table->load(Ids{77}, vector.data());  // what is loaded is wanted
  BOOST_CHECK_EQUAL(table->size(), 3u);
}

BOOST_AUTO_TEST_CASE(states_keep_counts_and_sightings) {
  const TableBounds limits{.max_rows = 4, .eviction = Eviction::kLfu, .min_count = 2, .sketch_width = 1024};
  const auto table = make(limits), copy = make(limits);
  for (int k = 0; k < 3; ++k) update(*table, {1, 2});
  update(*table, {3, 3});
  update(*table, {2, 4, 4, 50});
  copy->import_state(table->export_state());
  BOOST_CHECK(copy->export_state().frequencies == table->export_state().frequencies);
  for (Table* t : {table.get(), copy.get()}) {
    update(*t, {50});  // its second sighting: 3 is the one with the fewest uses and the oldest
    BOOST_CHECK(ids_of(*t) == (Ids{1, 2, 4, 50}));
  }
  const auto other = make({.max_rows = 4, .eviction = Eviction::kLru});
  check_throws<std::invalid_argument>([&] { other->import_state(table->export_state()); }, {"frequencies"});
  const auto smaller =
      make({.max_rows = 3, .eviction = Eviction::kLfu, .min_count = 2, .sketch_width = 1024});
  check_throws<std::invalid_argument>([&] { smaller->import_state(table->export_state()); },
                                      {"max_rows = 3"});
}

BOOST_AUTO_TEST_CASE(bounds_that_make_no_sense) {
  const auto refused = [](const TableBounds& limits, std::initializer_list<std::string_view> parts) {
    check_throws<std::invalid_argument>([&] { make(limits); }, parts);
  };
  refused({.eviction = Eviction::kLru}, {"max_rows"});
  refused({.max_rows = 5}, {"max_rows = 5", "rule"});
  refused({.ttl = -1.0}, {"ttl = -1"});
  refused({.max_rows = 5, .eviction = Eviction::kLfu, .ttl = 1.0}, {"ttl"});
  refused({.min_count = 0}, {"min_count = 0"});
  refused({.min_count = 256}, {"min_count = 256", "255"});
  refused({.sketch_width = 3}, {"sketch_width = 3"});
  refused({.min_count = 40, .sketch_width = 64}, {"sketch_width = 64", "8 * min_count = 320"});
}

/// A stream of ids that never come back, with a few that do, through a small table.
BOOST_AUTO_TEST_CASE(soak_at_the_limit) {
  constexpr std::size_t kRows = 20000, kBatch = 500, kBatches = 2000;
  const auto table = make({.max_rows = kRows, .eviction = Eviction::kLru});
  std::size_t most = 0, at_first = 0;
  std::int64_t next = 1000;
  for (std::size_t k = 0; k < kBatches; ++k) {
    Ids ids(kBatch);
    for (std::size_t i = 0; i < kBatch; ++i) ids[i] = i < 20 ? static_cast<std::int64_t>(i) : next++;
    update(*table, ids);
    const std::size_t used = table->memory_usage().back().second;
    if (k == kBatches / 4) at_first = used;
    if (k > kBatches / 4) most = std::max(most, used);
  }
  BOOST_CHECK_EQUAL(table->size(), kRows);
  // as ids come and go, a group of the index may be one too many and get another segment of 16 KiB
  BOOST_CHECK_LE(most, at_first + 4 * 16 * 1024);
  Ids expected;
  for (std::int64_t id = 0; id < 20; ++id) expected.push_back(id);
  BOOST_CHECK_EQUAL(stat(*table, "slots"), kRows);
  const Ids held = ids_of(*table);
  BOOST_CHECK(std::includes(held.begin(), held.end(), expected.begin(), expected.end()));
  std::vector<float> row(kDim);
  table->lookup(Ids{7}, row.data());
  BOOST_CHECK_EQUAL(row[0], static_cast<float>(kBatches));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
