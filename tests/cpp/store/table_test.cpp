// A table against a std::unordered_map, and what it refuses.
#include "fastinc/table.h"

#include <set>

#include "support/reference_update.h"
#include "support/support.h"
#include "support/table_model.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(table)

namespace {

constexpr Initializer kInit{InitializerKind::kNormal, 0.0f, 0.5f, 21};

std::shared_ptr<Optimizer> share(const OptimizerParams& params) {
  return std::make_shared<Optimizer>(params);
}

std::vector<float> lookup(const Table& table, const Ids& ids) {
  std::vector<float> rows(ids.size() * table.dim());
  table.lookup(ids, rows.data());
  return rows;
}

std::uint64_t stat(const Table& table, std::string_view name) {
  for (const auto& [key, value] : table.stats()) {
    if (key == name) return value;
  }
  BOOST_FAIL("no statistic " << name);
  return 0;
}

std::size_t memory(const Table& table, std::string_view name) {
  for (const auto& [key, value] : table.memory_usage()) {
    if (key == name) return value;
  }
  BOOST_FAIL("no part " << name);
  return 0;
}

std::int64_t any_id(Generator& random) {
  constexpr std::int64_t kSpecial[] = {0, -1, std::numeric_limits<std::int64_t>::min(),
                                       std::numeric_limits<std::int64_t>::max()};
  const std::size_t pick = below(random, 60);
  if (pick < 4) return kSpecial[pick];
  return static_cast<std::int64_t>(pick * 0x9e3779b97f4a7c15ull);
}

Ids any_ids(Generator& random, std::size_t most) {
  Ids ids(below(random, most));
  for (std::int64_t& id : ids) id = any_id(random);
  return ids;
}

void check_against_model(const Table& table, const TableModel& model, Generator& random,
                         const std::string& where) {
  const Ids ids = any_ids(random, 40);
  check_same_bytes(lookup(table, ids), model.lookup(ids), where + "lookup ");
  check_same_bytes(sorted(table.ids()), model.ids(), where + "ids ");
  BOOST_CHECK_EQUAL(table.size(), model.ids().size());
  BOOST_CHECK_EQUAL(table.version(), model.version());
  const std::uint64_t since = random() % (model.version() + 1);
  const Changes changes = table.changes(since);
  BOOST_CHECK_EQUAL(changes.version, model.version());
  check_same_bytes(sorted(changes.updated), model.updated_since(since), where + "updated ");
  check_same_bytes(changes.removed, model.removed_since(since), where + "removed ");
  const auto held = std::make_unique<bool[]>(ids.size());
  table.contains(ids, held.get());
  bool same = true;
  for (std::size_t i = 0; i < ids.size(); ++i) same = same && held[i] == model.contains(ids[i]);
  BOOST_CHECK_MESSAGE(same, where << "contains");
  std::vector<std::uint8_t> codes(ids.size() * (table.dim() + kQuantizedTail)), expected(codes.size());
  table.lookup_quantized(ids, codes.data());
  quantize_rowwise(lookup(table, ids).data(), ids.size(), table.dim(), expected.data());
  check_same_bytes(codes, expected, where + "codes ");
}

/// A table with a bit of everything in it.
std::unique_ptr<Table> used_table(const OptimizerParams& params, std::size_t dim) {
  auto table = std::make_unique<Table>(dim, share(params), kInit);
  Generator random(31);
  for (int k = 0; k < 20; ++k) {
    const Ids ids = any_ids(random, 30);
    table->update(ids, uniform_floats(random, ids.size() * dim).data(), NonFinite::kRaise);
    table->remove(any_ids(random, 4));
  }
  return table;
}

void check_same_state(const TableState& got, const TableState& expected, const std::string& where) {
  check_same_bytes(got.ids, expected.ids, where + "ids");
  check_same_bytes(got.row_versions, expected.row_versions, where + "row versions");
  check_same_bytes(got.weights, expected.weights, where + "weights");
  check_same_bytes(got.state, expected.state, where + "state");
  BOOST_CHECK_EQUAL(got.version, expected.version);
}

}  // namespace

BOOST_AUTO_TEST_CASE(random_operations_against_a_model) {
  for (const OptimizerParams& params : optimizer_settings()) {
    constexpr std::size_t kDim = 5;
    Generator random(41);
    Table table(kDim, share(params), kInit);
    TableModel model(params, kDim, kInit);
    for (int k = 0; k < 120; ++k) {
      const std::string where = describe(params) + "operation " + std::to_string(k) + ", ";
      const Ids ids = any_ids(random, 25);
      const std::vector<float> values = uniform_floats(random, ids.size() * kDim);
      const std::size_t choice = below(random, 6);
      if (choice < 3) {
        BOOST_CHECK_EQUAL(table.update(ids, values.data(), NonFinite::kRaise), 0u);
        model.update(ids, values);
      } else if (choice == 3) {
        table.load(ids, values.data());
        model.load(ids, values);
      } else {
        const Ids few(ids.begin(),
                      ids.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(ids.size(), 6)));
        BOOST_CHECK_EQUAL(table.remove(few), model.remove(few));
      }
      check_against_model(table, model, random, where);
    }
    // at most one slot for each id there ever was: slots of removed rows were used again
    BOOST_CHECK_LE(stat(table, "slots"), 60u);
    BOOST_CHECK_EQUAL(stat(table, "rows"), stat(table, "inserts") - stat(table, "removes"));
  }
}

BOOST_AUTO_TEST_CASE(slots_are_used_again) {
  Table table(3, share(AdamParams{}), kInit);
  Ids ids(1000);
  const std::vector<float> grads(3000, 1.0f);
  for (int round = 0; round < 10; ++round) {
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int64_t>(i) + 1000 * round;
    table.update(ids, grads.data(), NonFinite::kRaise);
    if (round % 2 == 0) BOOST_CHECK_EQUAL(table.remove(ids), 1000u);
  }
  BOOST_CHECK_EQUAL(table.size(), 5000u);
  BOOST_CHECK_EQUAL(stat(table, "slots"), 5000u);
  // a row in a used slot starts like any other: weights from the initializer, Adam's step count from 0
  Table fresh(3, share(AdamParams{}), kInit);
  fresh.update(ids, grads.data(), NonFinite::kRaise);
  check_same_bytes(lookup(table, ids), lookup(fresh, ids), "used slots ");
}

BOOST_AUTO_TEST_CASE(many_pages_same_bytes_everywhere) {
  constexpr std::size_t kRows = 9000, kDim = 12;
  Generator random(43);
  Ids ids;
  for (std::size_t i = 0; i < 2 * kRows; ++i)
    ids.push_back(static_cast<std::int64_t>(below(random, kRows)) * 977 - 5);
  const std::vector<float> grads = uniform_floats(random, ids.size() * kDim);
  for (const OptimizerParams& params : optimizer_settings()) {
    std::unique_ptr<TableState> expected;
    std::vector<std::uint8_t> expected_codes;
    for_each_isa_and_threads([&](const std::string& where) {
      Table table(kDim, share(params), kInit);
      for (int k = 0; k < 2; ++k) table.update(ids, grads.data(), NonFinite::kRaise);
      const TableState state = table.export_state();
      std::vector<std::uint8_t> codes(state.ids.size() * (kDim + kQuantizedTail));
      table.lookup_quantized(state.ids, codes.data());
      if (expected == nullptr) {
        expected = std::make_unique<TableState>(state);
        expected_codes = codes;
      }
      check_same_state(state, *expected, where + ", " + describe(params));
      check_same_bytes(codes, expected_codes, where + ", codes ");
    });
  }
}

BOOST_AUTO_TEST_CASE(looking_up_an_unknown_id_allocates_nothing) {
  const auto table = used_table(AdagradParams{}, 4);
  table->keep_codes();
  const auto before = table->memory_usage();
  const std::uint64_t slots = stat(*table, "slots"), hits = stat(*table, "hits"),
                      misses = stat(*table, "misses");
  Ids ids(5000);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int64_t>(i) * 3 + 1'000'000;
  std::vector<float> expected(ids.size() * 4);
  for (std::size_t i = 0; i < ids.size(); ++i) start_row(kInit, ids[i], &expected[i * 4], 4);
  check_same_bytes(lookup(*table, ids), expected, "start rows ");
  const Ids offsets = {0};
  table->pool(ids, offsets, PoolMode::kSum, nullptr, expected.data());
  std::vector<std::uint8_t> codes(ids.size() * 12);
  table->lookup_quantized(ids, codes.data());
  BOOST_CHECK(table->memory_usage() == before);
  BOOST_CHECK_EQUAL(stat(*table, "slots"), slots);
  BOOST_CHECK_EQUAL(stat(*table, "hits"), hits);
  BOOST_CHECK_EQUAL(stat(*table, "misses"), misses + 3 * ids.size());
}

BOOST_AUTO_TEST_CASE(pooling) {
  const auto table = used_table(SgdParams{}, 7);
  const Ids held = table->ids();
  const Ids ids = {held[0], 12345, held[1], held[0], held[2]}, offsets = {0, 3, 3, 4};
  const std::vector<float> rows = lookup(*table, ids), weights = {0.5f, -2.0f, 3.0f, 1.0f, 0.0f};
  const auto expected = [&](bool weighted, bool mean) {
    std::vector<float> out;
    const std::size_t bounds[] = {0, 3, 3, 4, 5};
    for (std::size_t b = 0; b < 4; ++b) {
      for (std::size_t c = 0; c < 7; ++c) {
        float sum = 0.0f;
        for (std::size_t i = bounds[b]; i < bounds[b + 1]; ++i)
          sum += (weighted ? weights[i] : 1.0f) * rows[i * 7 + c];
        const auto count = static_cast<float>(bounds[b + 1] - bounds[b]);
        out.push_back(mean && count > 0.0f ? sum / count : sum);
      }
    }
    return out;
  };
  for_each_isa_and_threads([&](const std::string& where) {
    std::vector<float> out(4 * 7);
    table->pool(ids, offsets, PoolMode::kSum, nullptr, out.data());
    check_same_bytes(out, expected(false, false), where + ", sum ");
    table->pool(ids, offsets, PoolMode::kMean, nullptr, out.data());
    check_same_bytes(out, expected(false, true), where + ", mean ");
    table->pool(ids, offsets, PoolMode::kSum, weights.data(), out.data());
    check_same_bytes(out, expected(true, false), where + ", weighted ");
  });
}

BOOST_AUTO_TEST_CASE(pooling_refuses) {
  const auto table = used_table(SgdParams{}, 2);
  const Ids ids = {1, 2, 3};
  const std::vector<float> weights = {1.0f, kNan, 1.0f};
  std::vector<float> out(8, 5.0f);
  const auto refused = [&](const Ids& offsets, PoolMode mode, const float* w,
                           std::initializer_list<std::string_view> parts) {
    check_throws<std::invalid_argument>([&] { table->pool(ids, offsets, mode, w, out.data()); }, parts);
  };
  refused({1, 2}, PoolMode::kSum, nullptr, {"offsets[0] = 1"});
  refused({0, 2, 1}, PoolMode::kSum, nullptr, {"offsets[2] = 1", "2"});
  refused({0, 4}, PoolMode::kSum, nullptr, {"offsets[1] = 4", "3"});
  refused({0, -1}, PoolMode::kSum, nullptr, {"offsets[1] = -1"});
  refused({}, PoolMode::kSum, nullptr, {"offsets is empty", "3"});
  refused({0}, PoolMode::kMean, out.data(), {"weights", "mean"});
  refused({0}, PoolMode::kSum, weights.data(), {"weights[1", "nan"});
  BOOST_CHECK(out == std::vector<float>(8, 5.0f));
}

BOOST_AUTO_TEST_CASE(loading_the_last_of_repeated_ids_wins) {
  Table table(2, share(AdagradParams{}), kInit);
  const Ids ids = {4, 9, 4};
  const std::vector<float> vectors = {1, 2, 3, 4, 5, 6};
  table.load(ids, vectors.data());
  check_same_bytes(lookup(table, {4, 9}), {5.0f, 6.0f, 3.0f, 4.0f}, "loaded ");
  BOOST_CHECK_EQUAL(table.version(), 1u);
  BOOST_CHECK_EQUAL(table.size(), 2u);
}

BOOST_AUTO_TEST_CASE(refused_batches_change_nothing) {
  const auto table = used_table(RowWiseAdagradParams{}, 3);
  const TableState before = table->export_state();
  const auto stats = table->stats();
  const Ids ids = {777777, 0};
  const std::vector<float> bad = {1, 2, 3, 4, kNan, 6};
  check_throws<std::invalid_argument>([&] { table->update(ids, bad.data(), NonFinite::kRaise); },
                                      {"grads[1, 1] = ", "(id 0)"});
  check_throws<std::invalid_argument>([&] { table->load(ids, bad.data()); }, {"vectors[1, 1] = "});
  check_throws<std::invalid_argument>([&] { table->changes(table->version() + 1); },
                                      {"since = " + std::to_string(table->version() + 1), "version"});
  table->update(Ids{}, nullptr, NonFinite::kRaise);
  table->load(Ids{}, nullptr);
  BOOST_CHECK_EQUAL(table->remove(Ids{777777}), 0u);
  check_same_state(table->export_state(), before, "refused: ");
  BOOST_CHECK(table->stats() == stats);
}

BOOST_AUTO_TEST_CASE(a_version_in_which_nothing_changed) {
  Table table(2, share(make_optimizer("sgd")), kInit);
  table.load(Ids{1}, std::vector<float>{1, 2}.data());
  for (int i = 0; i < 5; ++i) table.advance();
  table.load(Ids{2}, std::vector<float>{1, 2}.data());
  BOOST_TEST(table.version() == 7u);
  BOOST_TEST(table.export_state().row_versions == (std::vector<std::uint64_t>{1, 7}));
  BOOST_TEST(table.changes(0).updated == (Ids{1, 2}));
  for (std::uint64_t since = 1; since < 7; ++since) {
    const Changes changes = table.changes(since);
    BOOST_TEST(changes.updated == Ids{2});
    BOOST_TEST(changes.version == 7u);
    BOOST_TEST(!changes.reset);
  }
  for (int i = 0; i < 100'000; ++i) table.advance();  // more versions than the log holds
  BOOST_TEST(table.changes(100'000).updated.empty());
  BOOST_TEST(!table.changes(100'000).reset);
  BOOST_TEST(table.changes(7).reset);
}

BOOST_AUTO_TEST_CASE(skipped_rows_are_counted_and_not_created) {
  Table table(2, share(SgdParams{}), kInit);
  const Ids ids = {1, 2, 1};
  const std::vector<float> grads = {1, 1, 1, 1, kInfinity, 0};
  BOOST_CHECK_EQUAL(table.update(ids, grads.data(), NonFinite::kSkip), 1u);
  BOOST_CHECK(table.ids() == Ids{2});
  BOOST_CHECK_EQUAL(stat(table, "skipped_nonfinite"), 1u);
  BOOST_CHECK_EQUAL(table.version(), 1u);
}

BOOST_AUTO_TEST_CASE(a_changed_learning_rate_holds_from_the_next_batch) {
  const auto optimizer = share(SgdParams{.lr = 1.0});
  Table table(1, optimizer, {});
  const Ids ids = {5};
  const float one = 1.0f;
  table.update(ids, &one, NonFinite::kRaise);
  optimizer->set("lr", 0.25);
  table.update(ids, &one, NonFinite::kRaise);
  check_same_bytes(lookup(table, ids), {-1.25f}, "weight ");
}

BOOST_AUTO_TEST_CASE(export_and_import_continue_the_same) {
  for (const OptimizerParams& params : optimizer_settings()) {
    const auto table = used_table(params, 6);
    const TableState state = table->export_state();
    Table copy(6, share(params), kInit);
    copy.load(Ids{999}, std::vector<float>(6, 1.0f).data());  // import replaces what is there
    copy.import_state(state);
    check_same_state(copy.export_state(), state, describe(params));
    Generator random(51), again(51);
    for (int k = 0; k < 5; ++k) {
      const Ids ids = any_ids(random, 30);
      BOOST_CHECK(any_ids(again, 30) == ids);
      table->update(ids, uniform_floats(random, ids.size() * 6).data(), NonFinite::kRaise);
      copy.update(ids, uniform_floats(again, ids.size() * 6).data(), NonFinite::kRaise);
    }
    const Ids ids = sorted(table->ids());
    check_same_bytes(sorted(copy.ids()), ids, "ids ");
    check_same_bytes(lookup(copy, ids), lookup(*table, ids), describe(params));
    std::vector<std::uint8_t> codes(ids.size() * 14), expected(codes.size());
    copy.lookup_quantized(ids, codes.data());
    table->lookup_quantized(ids, expected.data());
    check_same_bytes(codes, expected, "codes ");
    for (std::uint64_t since = 0; since <= table->version(); ++since) {
      const Changes a = table->changes(since), b = copy.changes(since);
      BOOST_CHECK(!a.reset && a.version == b.version);
      // what was removed before the state was taken isn't in it
      BOOST_CHECK_EQUAL(b.reset, since < state.version);
      BOOST_CHECK(sorted(b.updated) == (b.reset ? ids : sorted(a.updated)));
      BOOST_CHECK(b.removed == (b.reset ? Ids{} : a.removed));
    }
  }
}

BOOST_AUTO_TEST_CASE(an_empty_state_can_be_imported) {
  const auto table = used_table(AdamParams{}, 2);
  table->import_state(TableState{});
  BOOST_CHECK_EQUAL(table->size(), 0u);
  BOOST_CHECK_EQUAL(table->version(), 0u);
  table->update(Ids{3}, std::vector<float>(2, 1.0f).data(), NonFinite::kRaise);
  BOOST_CHECK(table->ids() == Ids{3});
}

BOOST_AUTO_TEST_CASE(values_that_overflowed_come_back_bit_for_bit) {
  const auto table = used_table(AdagradParams{}, 3);
  TableState state = table->export_state();
  state.weights[1] = kNan;
  state.state[2] = kInfinity;
  table->import_state(state);
  check_same_state(table->export_state(), state, "overflowed: ");
}

BOOST_AUTO_TEST_CASE(states_that_dont_fit_are_refused_and_change_nothing) {
  const auto table = used_table(AdagradParams{}, 3);
  const TableState good = table->export_state();
  BOOST_REQUIRE_GE(good.ids.size(), 2u);
  const auto refused = [&](std::string_view message, auto spoil) {
    TableState bad = good;
    spoil(bad);
    check_throws<std::invalid_argument>([&] { table->import_state(bad); }, {message});
    check_same_state(table->export_state(), good, "refused: ");
  };
  refused("row_versions and ids", [](TableState& s) { s.row_versions.pop_back(); });
  refused("weights is not (rows, dim)", [](TableState& s) { s.weights.pop_back(); });
  refused("state is not", [](TableState& s) { s.state.push_back(0.0f); });
  refused("a row version is out of range", [](TableState& s) { s.row_versions[1] = 0; });
  refused("a row version is out of range", [](TableState& s) { s.row_versions[1] = s.version + 1; });
  refused("the version is out of range", [](TableState& s) { s.version = std::uint64_t{1} << 48; });
  refused("an id occurs twice", [](TableState& s) { s.ids[1] = s.ids[0]; });
}

BOOST_AUTO_TEST_CASE(arguments_of_a_new_table) {
  const auto refused = [](std::size_t dim, const Initializer& init,
                          std::initializer_list<std::string_view> parts) {
    check_throws<std::invalid_argument>([&] { Table(dim, share(SgdParams{}), init); }, parts);
  };
  refused(0, {}, {"dim = 0"});
  refused((1u << 20) + 1, {}, {"dim = 1048577", "1048576"});
  refused(4, {InitializerKind::kNormal, 0.0f, -1.0f, 0}, {"std = -1"});
  const Table table(1u << 20, share(SgdParams{}), {});
  BOOST_CHECK_EQUAL(table.dim(), 1u << 20);
}

BOOST_AUTO_TEST_CASE(memory_is_what_the_parts_add_up_to) {
  Table table(16, share(AdagradParams{}), kInit);
  BOOST_CHECK_EQUAL(memory(table, "weights"), 0u);
  Ids ids(20000);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int64_t>(i);
  table.load(ids, std::vector<float>(ids.size() * 16, 1.0f).data());
  table.remove(Ids{3, 4});
  std::size_t sum = 0;
  for (const auto& [name, bytes] : table.memory_usage()) sum += name == "total" ? 0 : bytes;
  BOOST_CHECK_EQUAL(memory(table, "total"), sum);
  BOOST_CHECK_GE(memory(table, "weights"), 20000u * 16 * 4);
  BOOST_CHECK_LT(memory(table, "weights"), 2 * 20000u * 16 * 4);
  BOOST_CHECK_EQUAL(memory(table, "state"), memory(table, "weights"));
  BOOST_CHECK_GT(memory(table, "index"), 0u);
  BOOST_CHECK_GT(memory(table, "change_log"), 0u);
}

BOOST_AUTO_TEST_CASE(one_new_id_many_times_takes_the_memory_of_one) {
  Table once(8, share(SgdParams{}), kInit), often(8, share(SgdParams{}), kInit);
  const std::vector<float> grads(100000 * 8, 0.5f);
  once.update(Ids{7}, grads.data(), NonFinite::kRaise);
  often.update(Ids(100000, 7), grads.data(), NonFinite::kRaise);
  BOOST_CHECK_EQUAL(memory(often, "total"), memory(once, "total"));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
