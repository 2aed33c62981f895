// A model's state is of one moment however it was copied, and changes make the model that they are of.
#include "learn/model_copy.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/events.h"
#include "support/recommender.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(model_copy)

namespace {

using Model = std::unique_ptr<Recommender>;

Model make(const Setting& setting) {
  RecommenderConfig config = configure(setting);
  if (setting.whole) {
    config.anchor = 0.2;
    config.feature_numbers = 2;
    config.popular_negatives = 0.4;
    config.batch_size = 4;
  }
  return std::make_unique<Recommender>(config, share(AdagradParams{.lr = 0.1}));
}

/// A new model of a whole state.
Model build(const Recommender& like, const RecommenderChange& all) {
  BOOST_REQUIRE(all.whole);
  auto model = std::make_unique<Recommender>(like.config(), share(AdagradParams{.lr = 0.1}));
  const auto tables = model->tables();
  for (std::size_t i = 0; i < tables.size(); ++i) tables[i].second->import_state(all.tables[i].rows);
  model->import_state(all.state);
  return model;
}

void learn(Recommender& model, const EventBatch& events) {
  const std::unique_lock lock(model.mutex);
  model.learn(events);
}

/// What happens to a model beside learning.
void disturb(Recommender& model, unsigned round) {
  if (model.config().feature_numbers == 0) return;
  const std::vector<std::int64_t> items = {static_cast<std::int64_t>(round),
                                           95 + static_cast<std::int64_t>(round)};
  const std::vector<float> numbers(4, 0.25f * static_cast<float>(round + 1));
  if (round % 3 == 0) model.add_items(items, {items, numbers, {}, {}});
  if (round % 3 == 1) model.set_anchor();
  if (round == 2) {
    const std::vector<float> vectors(2 * model.config().dim, 0.5f);
    model.warm_start(items, vectors.data(), nullptr);
  }
  if (round == 4) model.boost_lr(2.0, 50);
}

void check_versions(const Recommender& a, const Recommender& b) {
  const auto x = a.tables(), y = b.tables();
  for (std::size_t i = 0; i < x.size(); ++i) {
    BOOST_CHECK_EQUAL(x[i].second->version(), y[i].second->version());
    BOOST_CHECK(x[i].second->export_state().row_versions == y[i].second->export_state().row_versions);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(changes_make_the_model_that_they_are_of) {
  for (const Setting& setting : kSettings) {
    const Events events = events_for(setting, 700);
    const EventBatch all = events.batch();
    const Model leader = make(setting);
    Model replica;
    learn(*leader, all.slice(0, 100));
    RecommenderChange change = leader->export_change(nullptr);
    Model follower = build(*leader, change);
    replica = build(*leader, change);
    for (unsigned round = 0; round < 6; ++round) {
      disturb(*leader, round);
      std::shared_ptr<const Snapshot> before;
      if (round == 3) before = leader->snapshot();
      const std::size_t begin = 100 + 80 * round;
      learn(*leader, all.slice(begin, begin + (round == 5 ? 0 : 80)));  // once nothing
      if (before) leader->restore(*before);
      change = leader->export_change(change.mark);
      BOOST_CHECK(!change.whole);
      BOOST_CHECK(round < 5 || change.state.history_items.empty());
      follower->apply(change, Table::Versions::kKeep);
      replica->apply(change, Table::Versions::kNext);
      const std::string where = setting.name() + std::to_string(round) + " ";
      check_same(everything(*follower), everything(*leader), where);
      check_same(everything(*replica), everything(*leader), where + "replica ");
      check_versions(*follower, *leader);
    }
    for (Recommender* model : {leader.get(), follower.get()}) learn(*model, all.slice(500, 700));
    check_same(everything(*follower), everything(*leader), setting.name() + "goes on ");
  }
}

BOOST_AUTO_TEST_CASE(a_mark_can_be_used_again_and_made_of_a_model_at_hand) {
  const Events events = events_for(kSettings[6], 300);
  const Model leader = make(kSettings[6]);
  learn(*leader, events.batch().slice(0, 100));
  const RecommenderChange first = leader->export_change(nullptr);
  const auto mark = leader->mark();
  learn(*leader, events.batch().slice(100, 200));
  leader->export_change(first.mark);  // whose change is lost
  learn(*leader, events.batch().slice(200, 300));
  for (const auto& since : {first.mark, mark}) {
    const Model follower = build(*leader, first);
    follower->apply(leader->export_change(since), Table::Versions::kKeep);
    check_same(everything(*follower), everything(*leader), "");
  }
}

BOOST_AUTO_TEST_CASE(a_model_set_to_another_state_is_exported_whole) {
  const Events events = events_for(kSettings[0], 100);
  const Model leader = make(kSettings[0]);
  learn(*leader, events.batch());
  const auto mark = leader->mark();
  leader->import_state(leader->export_state());
  BOOST_CHECK(leader->export_change(mark).whole);
  BOOST_CHECK(!leader->export_change(leader->mark()).whole);
  BOOST_CHECK_THROW(leader->apply(leader->export_change(nullptr), Table::Versions::kKeep),
                    std::invalid_argument);
}

BOOST_AUTO_TEST_CASE(parts_that_dont_fit_are_refused) {
  const Events events = events_for(kSettings[6], 200);
  const auto refused = [&](auto spoil) {
    const Model leader = make(kSettings[6]);
    learn(*leader, events.batch().slice(0, 100));
    const RecommenderChange all = leader->export_change(nullptr);
    learn(*leader, events.batch().slice(100, 200));
    RecommenderChange change = leader->export_change(all.mark);
    spoil(change);
    BOOST_CHECK_THROW(build(*leader, all)->apply(change, Table::Versions::kKeep), std::invalid_argument);
  };
  refused([](RecommenderChange& change) { change.state.history_offsets.pop_back(); });
  refused([](RecommenderChange& change) { change.state.history_items[0] = 10'000; });
  refused([](RecommenderChange& change) { change.history_users[0] = -1; });
  refused([](RecommenderChange& change) { change.user_count = 0; });
  refused([](RecommenderChange& change) {
    change.state.item_events[0] += 0;
    change.changed_items.pop_back();
  });
  refused([](RecommenderChange& change) { change.state.item_events[0] = 0; });
  refused([](RecommenderChange& change) { change.state.last_items[0] = 10'000; });
  refused([](RecommenderChange& change) { change.state.item_count += 1; });
  refused([](RecommenderChange& change) { change.tables.pop_back(); });
  refused([](RecommenderChange& change) { change.state.boost = 0.0; });
}

// Every state that was exported while another thread learned is one that a model had which learned so many
// events.
BOOST_AUTO_TEST_CASE(it_is_of_one_moment_while_others_learn) {
  const std::size_t n = repeats(3000), turn = 4;
  const Events events = random_events(7, n, 200, 300);
  for (const Setting& setting : {kSettings[1], kSettings[6]}) {
    const Model leader = make(setting);
    std::atomic<bool> done{false};
    std::thread writer([&] {
      for (std::size_t i = 0; i < n; i += turn)
        learn(*leader, events.batch().slice(i, std::min(n, i + turn)));
      done = true;
    });
    Model follower;
    std::shared_ptr<const RecommenderMark> mark;
    const Model reference = make(setting);
    std::size_t learned = 0, looks = 0;
    for (bool last = false; !last;) {
      last = done;
      const RecommenderChange change = leader->export_change(looks % 7 == 6 ? nullptr : mark);
      mark = change.mark;
      if (change.whole) {
        follower = build(*leader, change);
      } else {
        follower->apply(change, Table::Versions::kKeep);
      }
      const auto count = static_cast<std::size_t>(change.state.event_count);
      for (; learned < count; learned += turn)
        learn(*reference, events.batch().slice(learned, std::min(n, learned + turn)));
      check_same(everything(*follower), everything(*reference), setting.name() + std::to_string(count) + " ");
      check_versions(*follower, *reference);
      ++looks;
    }
    writer.join();
    BOOST_CHECK_EQUAL(learned, n);
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
