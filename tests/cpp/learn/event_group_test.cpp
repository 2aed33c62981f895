#include "learn/event_group.h"

#include <new>
#include <numeric>
#include <thread>

#include "support/failing_new.h"
#include "support/recommender.h"
#include "support/reference_loss.h"
#include "support/reference_update.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(event_group)

BOOST_AUTO_TEST_CASE(same_bytes_for_any_instruction_set_threads_and_parts_of_whole_groups) {
  for (const Setting& setting : kSettings) {
    const Events events = events_for(setting, 700);
    for (const std::size_t batch_size : {std::size_t{1}, std::size_t{32}}) {
      RecommenderConfig config = configure(setting);
      config.batch_size = batch_size;
      std::unique_ptr<Everything> expected;
      for_each_isa_and_threads([&](const std::string& where) {
        for (const std::size_t part : {batch_size, 5 * batch_size, std::size_t{700}}) {
          if (part == 5 * batch_size && num_threads() != 2) continue;  // enough of them
          Recommender model(config, share(AdagradParams{.lr = 0.1}));
          learn_in_parts(model, events, part);
          const Everything got = everything(model);
          if (expected == nullptr) expected = std::make_unique<Everything>(got);
          check_same(got, *expected, setting.name() + where + ", parts of " + std::to_string(part) + ": ");
        }
      });
    }
  }
}

BOOST_AUTO_TEST_CASE(what_ran_out_of_memory_goes_on_where_it_failed) {
  for (const Setting& setting : {kSettings[1], kSettings[6]}) {
    const Events events = events_for(setting, 600);
    const EventBatch all = events.batch();
    RecommenderConfig config = configure(setting);
    config.batch_size = 64;
    const auto make = [&] {
      auto model = std::make_unique<Recommender>(config, share(AdagradParams{.lr = 0.1}));
      model->learn(all.slice(0, 200));
      return model;
    };
    const auto expected = make();
    expected->learn(all.slice(200, 600));
    std::size_t failed = 0;
    for (bool failing = true; failing; failed += failing) {
      const auto model = make();
      std::thread([&] {
        const FailingNew guard(failed);
        try {
          model->learn(all.slice(200, 600));
          failing = false;
        } catch (const std::bad_alloc&) {
        }
      }).join();
      const std::size_t learned = model->event_count();
      if (failing) copy_of(*model, share(AdagradParams{.lr = 0.1}));  // refused where parts don't fit
      BOOST_CHECK(failing ? learned < 600 : learned == 600);
      BOOST_CHECK(learned == 200 || learned == 600 || learned % 64 == 0);  // whole groups
      model->learn(all.slice(learned, 600));
      check_same(everything(*model), everything(*expected), "allocation " + std::to_string(failed) + ": ");
      BOOST_REQUIRE_LT(failed, 1000u);
    }
    BOOST_CHECK_GT(failed, 5u);
  }
}

BOOST_AUTO_TEST_CASE(every_optimizer_learns_the_same_bytes_in_any_parts) {
  const Setting setting = kSettings[1];
  const Events events = events_for(setting, 300);
  for (const OptimizerParams& params : optimizer_settings()) {
    Recommender one(configure(setting), share(params)), all(configure(setting), share(params));
    learn_in_parts(one, events, 1);
    learn_in_parts(all, events, events.users.size());
    check_same(everything(one), everything(all), describe(params));
  }
}

// With SGD and a rate of 1, what an event alone subtracts from the weights is its gradient: a group subtracts
// the sum of those of its events, each with the history as of itself and all by the same weights.
BOOST_AUTO_TEST_CASE(a_group_steps_down_the_sum_of_its_gradients) {
  constexpr std::size_t kGroup = 8, kLearned = 64;
  for (const Setting& setting : kSettings) {
    RecommenderConfig config = configure(setting);
    config.hidden_lr_scale = 1.0;
    config.negatives = 50;  // more than there are items: all of them, in groups of any size
    config.batch_size = kGroup;
    Events events = random_events(9, kLearned + kGroup, 4, 12);
    std::iota(events.items.begin(), events.items.begin() + 12, 0);  // none is new in the group
    for (std::size_t i = 0; setting.labelled() && i < events.users.size(); ++i) {
      events.labels.push_back(static_cast<float>(i % 4));
    }
    const auto optimizer = share(SgdParams{.lr = 0.1});
    Recommender model(config, optimizer);
    model.learn(events.batch().slice(0, kLearned));
    const std::vector<double> before = all_weights(model);
    std::vector<double> expected = before;
    const auto still = share(SgdParams{.lr = 0.0});
    const auto passed_by = copy_of(model, still);  // sees the events and stays as it is
    for (std::size_t e = 0; e < kGroup; ++e) {
      const EventBatch event = events.batch().slice(kLearned + e, kLearned + e + 1);
      const auto one = copy_of(*passed_by, share(SgdParams{.lr = 1.0}));
      one->learn(event);
      const std::vector<double> after = all_weights(*one);
      for (std::size_t i = 0; i < before.size(); ++i) expected[i] += after[i] - before[i];
      passed_by->learn(event);
    }
    optimizer->set("lr", 1.0);
    model.learn(events.batch().slice(kLearned, kLearned + kGroup));
    const std::vector<double> after = all_weights(model);
    double worst = 0.0, largest = 0.0;
    for (std::size_t i = 0; i < before.size(); ++i) {
      worst = std::max(worst, std::abs(after[i] - expected[i]));
      largest = std::max(largest, std::abs(after[i] - before[i]));
    }
    BOOST_CHECK_MESSAGE(worst < 5e-6, setting.name() << "off by " << worst);
    BOOST_CHECK_GT(largest, 1e-3);
  }
}

namespace {

std::vector<float> row(const Recommender& model, const char* table, std::int64_t id) {
  for (const auto& [name, rows] : model.tables()) {
    if (name != table) continue;
    std::vector<float> out(rows->dim());
    rows->lookup(std::vector<std::int64_t>{id}, out.data());
    return out;
  }
  return {};
}

/// One user's vector becomes as large as a float can be.
void poison(const Recommender& model, std::int64_t user) {
  for (const auto& [name, table] : model.tables()) {
    const std::vector<float> huge(table->dim(), 1e30f);
    if (name == "users") table->load(std::vector<std::int64_t>{user}, huge.data());
  }
}

}  // namespace

// An overflow in one event of a group leaves the others of the group as they are without it, and its own rows
// as they were, whatever an optimizer makes of a gradient of 0.
BOOST_AUTO_TEST_CASE(a_skipped_event_leaves_the_rest_of_its_group) {
  RecommenderConfig config = small_config();
  config.user = UserModel::kVector;
  config.batch_size = 2;
  const Events events = random_events(4, 40, 5, 20);
  for (const OptimizerParams& params : optimizer_settings()) {
    const auto optimizer = share(params);
    Recommender model(config, optimizer);
    model.learn(events.batch());
    const auto other = copy_of(model, optimizer);
    poison(model, 1);
    poison(*other, 1);
    Events both, alone;
    both.add(1, events.items[0], 100.0);
    both.add(2, events.items[1], 100.0);
    alone.add(2, events.items[1], 100.0);
    model.learn(both.batch());
    BOOST_CHECK_EQUAL(model.skipped_events(), 1u);
    BOOST_CHECK_EQUAL(model.event_count(), 42u);
    other->learn(alone.batch());
    BOOST_CHECK_EQUAL(other->skipped_events(), 0u);
    BOOST_CHECK(row(model, "items", events.items[1]) == row(*other, "items", events.items[1]));
    BOOST_CHECK(row(model, "items", events.items[0]) == row(*other, "items", events.items[0]));
    BOOST_CHECK(row(model, "users", 2) == row(*other, "users", 2));
    BOOST_CHECK(row(model, "users", 1) == std::vector<float>(config.dim, 1e30f));
  }
}

// Scores that are NaN (inf - inf) must not pass for ones without hard negatives.
BOOST_AUTO_TEST_CASE(scores_that_are_not_numbers_skip_the_event) {
  RecommenderConfig config = small_config();
  config.user = UserModel::kVector;
  config.hard_negatives = 0.67;
  Recommender model(config, share(SgdParams{.lr = 0.1}));
  model.learn(random_events(4, 200, 5, 20).batch());
  std::vector<float> wild(config.dim + 1, 3e38f), user(config.dim, 3e38f);
  for (std::size_t i = 0; i < wild.size(); i += 2) wild[i] = -3e38f;
  for (const std::int64_t item : {3, 4, 5}) model.items()->load(std::vector<std::int64_t>{item}, wild.data());
  for (const auto& [name, table] : model.tables()) {
    if (name == "users") table->load(std::vector<std::int64_t>{1}, user.data());
  }
  const std::uint64_t before = model.skipped_events();
  Events event;
  event.add(1, 0, 300.0);
  model.learn(event.batch());
  BOOST_CHECK_EQUAL(model.skipped_events(), before + 1);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
