#include "fastinc/snapshot.h"

#include <new>
#include <thread>

#include "support/events.h"
#include "support/failing_new.h"
#include "support/recommender.h"
#include "support/reference_update.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(snapshot)

namespace {

constexpr std::size_t kTaken = 250, kRestored = 450, kEnd = 600;

using Model = std::unique_ptr<Recommender>;

Model make(const Setting& setting, const OptimizerParams& params = AdagradParams{.lr = 0.1}) {
  return std::make_unique<Recommender>(configure(setting), share(params));
}

using Versions = std::vector<std::uint64_t>;

Versions versions(const Recommender& model) {
  Versions out;
  for (const auto& [name, table] : model.tables()) out.push_back(table->version());
  return out;
}

/// The rows of one model below each table's count, start rows above it, and what happened to a third one.
void fill(Recommender& out, const Recommender& old, const Recommender& untaught, const Recommender& now) {
  const auto tables = out.tables(), olds = old.tables(), starts = untaught.tables();
  for (std::size_t i = 0; i < tables.size(); ++i) {
    TableState state = starts[i].second->export_state();
    const TableState kept = olds[i].second->export_state();
    std::copy(kept.weights.begin(), kept.weights.end(), state.weights.begin());
    std::fill(state.state.begin(), state.state.end(), 0.1f);
    std::copy(kept.state.begin(), kept.state.end(), state.state.begin());
    tables[i].second->import_state(state);
  }
  out.import_state(now.export_state());
}

}  // namespace

// What restore() promises: rows as they were, start rows for what is newer, everything else as it is now.
BOOST_AUTO_TEST_CASE(a_restored_model_goes_on_as_one_with_the_old_rows_and_the_new_histories) {
  for (const Setting& setting : kSettings) {
    const Events events = events_for(setting, kEnd);
    const EventBatch all = events.batch();
    const AdagradParams params{.lr = 0.1, .initial_accumulator_value = 0.1};
    const Model model = make(setting, params), old = make(setting, params), expected = make(setting, params);
    AdagradParams still = params;
    still.lr = 0.0;
    const Model untaught = make(setting, still);
    model->learn(all.slice(0, kTaken));
    old->learn(all.slice(0, kTaken));
    const auto taken = model->snapshot();
    BOOST_CHECK_EQUAL(taken->events, kTaken);
    model->learn(all.slice(kTaken, kRestored));
    untaught->learn(all.slice(0, kRestored));
    fill(*expected, *old, *untaught, *model);
    const std::size_t items = model->item_count();
    BOOST_REQUIRE_GT(items, old->item_count());  // some are newer than the snapshot
    model->restore(*taken);
    check_same(everything(*model), everything(*expected), setting.name() + "restored, ");
    model->learn(all.slice(kRestored, kEnd));
    expected->learn(all.slice(kRestored, kEnd));
    check_same(everything(*model), everything(*expected), setting.name() + "continued, ");
  }
}

BOOST_AUTO_TEST_CASE(versions_move_on_and_the_change_log_names_what_was_written_since) {
  const Setting& setting = kSettings[6];
  const Events events = events_for(setting, kEnd);
  const Model model = make(setting);
  model->learn(events.batch().slice(0, kTaken));
  const auto taken = model->snapshot();
  const Versions before = versions(*model);
  model->restore(*taken);  // nothing was written since, and nothing is now
  BOOST_CHECK(versions(*model) == before);

  model->learn(events.batch().slice(kTaken, kTaken + 3));
  const Versions later = versions(*model);
  const auto tables = model->tables();
  std::vector<std::vector<std::int64_t>> written;
  for (std::size_t i = 0; i < tables.size(); ++i) {
    written.push_back(tables[i].second->changes(before[i]).updated);
  }
  BOOST_CHECK(!written[0].empty() && written[0].size() < model->item_count());
  model->restore(*taken);
  for (std::size_t i = 0; i < tables.size(); ++i) {
    const Changes changes = tables[i].second->changes(later[i]);
    BOOST_CHECK_EQUAL(changes.version, later[i] + (written[i].empty() ? 0 : 1));
    BOOST_CHECK(!changes.reset && changes.removed.empty());
    std::vector<std::int64_t> updated = changes.updated;
    std::sort(updated.begin(), updated.end());
    std::sort(written[i].begin(), written[i].end());
    BOOST_CHECK_MESSAGE(updated == written[i], tables[i].first);
  }
}

BOOST_AUTO_TEST_CASE(a_snapshot_can_be_restored_again_and_does_not_change) {
  const Setting& setting = kSettings[1];
  const Events events = events_for(setting, kEnd);
  const Model model = make(setting);
  model->learn(events.batch().slice(0, kTaken));
  const auto first = model->snapshot();
  const std::vector<Snapshot::Rows> copy = first->tables;
  model->learn(events.batch().slice(kTaken, kRestored));
  const auto second = model->snapshot();
  const Everything learned = everything(*model);
  model->restore(*first);
  model->restore(*second);  // newer than what was just restored, and older than the write
  check_same(everything(*model), learned, "back to the second: ");
  model->restore(*first);
  const auto again = model->snapshot();
  for (std::size_t i = 0; i < copy.size(); ++i) {
    check_same_bytes(first->tables[i].values, copy[i].values, "the snapshot ");
    const std::vector<float>& now = again->tables[i].values;
    BOOST_REQUIRE_GE(now.size(), copy[i].values.size());
    check_same_bytes({now.begin(), now.begin() + static_cast<std::ptrdiff_t>(copy[i].values.size())},
                     copy[i].values, "restored ");
  }
}

BOOST_AUTO_TEST_CASE(its_bytes_are_those_of_the_rows) {
  const Model model = make(kSettings[6]);
  const std::size_t empty = model->snapshot()->bytes();
  model->learn(events_for(kSettings[6], kTaken).batch());
  std::size_t floats = 0;
  for (const auto& [name, table] : model->tables()) {
    const TableState state = table->export_state();
    floats += state.weights.size() + state.state.size();
  }
  BOOST_CHECK_EQUAL(model->snapshot()->bytes() - empty, floats * sizeof(float));
}

BOOST_AUTO_TEST_CASE(out_of_memory_leaves_the_model_as_it_was) {
  const Setting& setting = kSettings[7];
  const Events events = events_for(setting, kEnd);
  const Model model = make(setting);
  model->learn(events.batch().slice(0, kTaken));
  const auto taken = model->snapshot();
  model->learn(events.batch().slice(kTaken, kRestored));
  const Everything before = everything(*model);
  const Versions at = versions(*model);
  const auto fail_each = [&](const char* what, auto call) {
    std::size_t failed = 0;
    for (bool failing = true; failing; failed += failing) {
      std::thread([&] {
        const FailingNew guard(failed);
        try {
          call();
          failing = false;
        } catch (const std::bad_alloc&) {
        }
      }).join();
      if (!failing) break;
      check_same(everything(*model), before, what);
      BOOST_CHECK(versions(*model) == at);
      BOOST_REQUIRE_LT(failed, 1000u);
    }
    BOOST_CHECK_GT(failed, 3u);
  };
  fail_each("snapshot(): ", [&] { model->snapshot(); });
  fail_each("restore(): ", [&] { model->restore(*taken); });
  BOOST_CHECK(versions(*model) != at);
}

BOOST_AUTO_TEST_CASE(another_models_is_refused_and_changes_nothing) {
  const Setting setting = kSettings[1];
  const Events events = events_for(setting, kTaken);
  const Model model = make(setting);
  model->learn(events.batch());
  const Everything before = everything(*model);
  const auto refused = [&](const Recommender& other, std::string_view part) {
    check_throws<std::invalid_argument>([&] { model->restore(*other.snapshot()); }, {"snapshot: of ", part});
    check_same(everything(*model), before, "refused: ");
  };
  const auto with = [&](auto spoil) {
    RecommenderConfig config = configure(setting);
    spoil(config);
    return std::make_unique<Recommender>(config, share(AdagradParams{}));
  };
  refused(*with([](RecommenderConfig& c) { c.dim = 14; }), "dim = 14, not 13");
  refused(*with([](RecommenderConfig& c) { c.user = UserModel::kVector; }), "user");
  refused(*with([](RecommenderConfig& c) { c.loss = Loss::kBpr; }), "loss");
  refused(*with([](RecommenderConfig& c) { c.long_window = 3; }), "long_window = 3, not 0");
  refused(*with([](RecommenderConfig& c) { c.situations = true; }), "situations = 1, not 0");
  refused(*with([](RecommenderConfig& c) { c.hidden = 2; }), "hidden = 2, not 0");
  refused(*with([](RecommenderConfig& c) { c.init_std = 0.5; }), "init_std = 0.5, not 0.05");
  refused(*with([](RecommenderConfig& c) { c.seed = 6; }), "seed = 6, not 5");
  refused(*make(setting, SgdParams{}), "optimizer = sgd, not adagrad");
  refused(*make(setting), "another model");
  const auto taken = model->snapshot();
  model->import_state(model->export_state());  // codes may mean something else now
  check_throws<std::invalid_argument>([&] { model->restore(*taken); }, {"another model"});
}

BOOST_AUTO_TEST_CASE(a_frozen_model_remembers_and_learns_nothing) {
  for (const Setting& setting : kSettings) {
    const Events events = events_for(setting, kRestored);
    const Model model = make(setting), taught = make(setting);
    model->learn(events.batch().slice(0, kTaken));
    const auto taken = model->snapshot();
    model->set_frozen(true);
    model->learn(events.batch().slice(kTaken, kRestored));
    taught->learn(events.batch());
    const RecommenderState state = model->export_state(), other = taught->export_state();
    check_same_bytes(state.history_items, other.history_items, setting.name() + "histories ");
    BOOST_CHECK_EQUAL(state.item_count, other.item_count);
    BOOST_CHECK_EQUAL(state.event_count, other.event_count);
    BOOST_CHECK_EQUAL(state.latest_time, other.latest_time);
    const Everything learned = everything(*model);
    model->restore(*taken);  // all rows are as they were, and new ones as if just made
    check_same_bytes(everything(*model).floats, learned.floats, setting.name() + "frozen ");
    model->set_frozen(false);
    BOOST_CHECK(everything(*model).floats != everything(*taught).floats);
  }
}

// A rate that differs from event to event is the same for any batching, and that of the formula.
BOOST_AUTO_TEST_CASE(schedules_and_boosts_count_events) {
  for (const Setting& setting : {kSettings[0], kSettings[6]}) {
    const Events events = events_for(setting, 300);
    RecommenderConfig config = configure(setting);
    config.schedule = {.kind = Schedule::Kind::kExponential, .events = 100.0, .floor = 0.25, .warm_up = 40.0};
    for (const OptimizerParams& params : optimizer_settings()) {
      const auto optimizer = share(params);
      Recommender all(config, share(params)), parts(config, share(params)),
          by_hand(configure(setting), optimizer);
      for (Recommender* model : {&all, &parts}) {
        model->learn(events.batch().slice(0, 100));
        model->boost_lr(3.0, 50);
      }
      all.learn(events.batch().slice(100, 300));
      for (std::size_t i = 100; i < 300; i += 7) {
        parts.learn(events.batch().slice(i, std::min<std::size_t>(i + 7, 300)));
      }
      const double lr = get_parameter(params, "lr");
      for (std::size_t i = 0; i < 300; ++i) {
        const double boost = i >= 100 && i < 150 ? 3.0 : 1.0;
        optimizer->set("lr", lr * (boost * config.schedule.factor(i)));
        by_hand.learn(events.batch().slice(i, i + 1));
      }
      const Everything expected = everything(all);
      check_same_bytes(everything(parts).floats, expected.floats, describe(params) + "parts ");
      check_same_bytes(everything(by_hand).floats, expected.floats, describe(params) + "by hand ");
    }
  }
}

BOOST_AUTO_TEST_CASE(boosts_are_checked_and_kept) {
  const Model model = make(kSettings[0]), copy = make(kSettings[0]);
  for (const double bad : {0.0, -1.0, 1e39, std::nan("")}) {
    check_throws<std::invalid_argument>([&] { model->boost_lr(bad, 3); }, {"factor = "});
  }
  model->boost_lr(4.0, 10);
  model->set_frozen(true);
  copy->import_state(model->export_state());
  BOOST_CHECK_EQUAL(copy->lr_factor(), 4.0);
  BOOST_CHECK(copy->frozen());
  RecommenderState bad = model->export_state();
  bad.boost = -1.0;
  check_throws<std::invalid_argument>([&] { copy->import_state(bad); }, {"boost = -1"});
  model->boost_lr(3e38, ~std::uint64_t{0});  // the end saturates, as the rate does
  BOOST_CHECK_EQUAL(model->lr_factor(), 3e38);
  model->set_frozen(false);
  const Events events = events_for(kSettings[0], 3);
  model->learn(events.batch());
  BOOST_CHECK_EQUAL(model->lr_factor(), 3e38);
  model->boost_lr(2.0, 0);
  BOOST_CHECK_EQUAL(model->lr_factor(), 1.0);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
