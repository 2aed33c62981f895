#include "fastinc/prequential.h"

#include <set>

#include "fastinc/baselines.h"
#include "fastinc/recommender.h"
#include "support/events.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(prequential)

namespace {

std::vector<std::int32_t> run_in_parts(StreamModel& model, const Events& events,
                                       const PrequentialOptions& options, std::size_t part,
                                       const std::vector<std::uint8_t>& targets = {}) {
  PrequentialRun run(options);
  std::vector<std::int32_t> outcomes(events.users.size(), 12345);
  for (std::size_t begin = 0; begin < events.users.size(); begin += part) {
    const std::size_t end = std::min(begin + part, events.users.size());
    std::span<const std::uint8_t> chosen;
    if (!targets.empty()) chosen = std::span(targets).subspan(begin, end - begin);
    run.run(model, events.batch().slice(begin, end), chosen,
            {std::span(outcomes).subspan(begin, end - begin)});
    BOOST_CHECK_EQUAL(run.position(), end);
  }
  return outcomes;
}

/// The rank by popularity from its definition: ties before the item by code count against it.
std::vector<std::int32_t> expected_for_popularity(const Events& events, const PrequentialOptions& options) {
  std::vector<std::int32_t> outcomes;
  std::vector<std::size_t> counts;
  std::vector<std::set<std::size_t>> had(100);
  for (std::size_t i = 0; i < events.users.size(); ++i) {
    const auto item = static_cast<std::size_t>(events.items[i]);
    std::set<std::size_t>& mine = had[static_cast<std::size_t>(events.users[i])];
    std::int32_t outcome = 1;
    if (i < options.warm_up) {
      outcome = outcome::kWarmUp;
    } else if (mine.empty()) {
      outcome = outcome::kNoHistory;
    } else if (item >= counts.size()) {
      outcome = outcome::kNewItem;
    } else if (options.exclude_seen && mine.count(item) > 0) {
      outcome = outcome::kRepeat;
    } else {
      for (std::size_t j = 0; j < counts.size(); ++j) {
        if (j == item || (options.exclude_seen && mine.count(j) > 0)) continue;
        outcome += counts[j] > counts[item] || (counts[j] == counts[item] && j < item);
      }
    }
    outcomes.push_back(outcome);
    if (item >= counts.size()) counts.resize(item + 1);
    ++counts[item];
    mine.insert(item);
  }
  return outcomes;
}

/// Remembers how many events it had learned at each call, and predicts that number.
class Recording : public StreamModel {
 public:
  Recording() : StreamModel(5) {}
  void learn(const EventBatch& events) override {
    for (std::size_t i = 0; i < events.size(); ++i) {
      see_item(events.items[i]);
      learned.push_back(events.time(i));
      remember(events.users[i], events.items[i], events.time(i), true);
    }
  }
  void score_items(std::int64_t, double, std::span<float> scores) const override {
    std::fill(scores.begin(), scores.end(), 0.0f);
  }
  Prediction prediction() const override { return Prediction::kLabel; }
  float predict_label(std::int64_t, std::int64_t, double) const override {
    return static_cast<float>(learned.size());
  }

  std::vector<double> learned;  // times
};

/// A model whose score of one item isn't a number.
class Broken : public StreamModel {
 public:
  explicit Broken(float value) : StreamModel(5), value_(value) {}
  void learn(const EventBatch& events) override {
    for (std::size_t i = 0; i < events.size(); ++i) see_item(events.items[i]);
  }
  void score_items(std::int64_t, double, std::span<float> scores) const override {
    for (std::size_t j = 0; j < scores.size(); ++j) scores[j] = static_cast<float>(j);
    if (scores.size() > 1) scores[1] = value_;
  }

 private:
  float value_;
};

}  // namespace

BOOST_AUTO_TEST_CASE(outcomes_against_the_definition) {
  const Events events = random_events(6, 600, 20, 30);
  for (const bool exclude_seen : {true, false}) {
    for (const std::size_t warm_up : {std::size_t{0}, std::size_t{150}, std::size_t{1000}}) {
      const PrequentialOptions options{warm_up, exclude_seen, 0.0};
      const std::vector<std::int32_t> expected = expected_for_popularity(events, options);
      for (const std::size_t part : {std::size_t{1}, std::size_t{64}, std::size_t{600}}) {
        Popularity model(1000);
        check_same_bytes(run_in_parts(model, events, options, part), expected, "outcome ");
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(events_that_are_no_targets_are_learned_all_the_same) {
  const Events events = random_events(7, 300, 20, 30);
  std::vector<std::uint8_t> targets(300);
  for (std::size_t i = 0; i < targets.size(); ++i) targets[i] = i % 3 != 0;
  Popularity model(1000);
  std::vector<std::int32_t> expected = expected_for_popularity(events, {});
  for (std::size_t i = 0; i < targets.size(); i += 3) expected[i] = outcome::kNotTarget;
  check_same_bytes(run_in_parts(model, events, {}, 100, targets), expected, "outcome ");
}

BOOST_AUTO_TEST_CASE(scores_that_arent_numbers_are_misses) {
  Events events;
  for (const std::int64_t item : {0, 1, 2}) events.add(0, item, 0.0);
  events.add(1, 0, 0.0);
  events.add(1, 2, 0.0);  // ranked among 1 and 2
  for (const float value : {kNan, kInfinity}) {
    Broken model(value);
    BOOST_CHECK_EQUAL(run_in_parts(model, events, {}, 2).back(), outcome::kNonFinite);
  }
  Broken behind(-kInfinity);
  BOOST_CHECK_EQUAL(run_in_parts(behind, events, {}, 2).back(), 1);
}

BOOST_AUTO_TEST_CASE(lists_are_the_best_candidates) {
  const Events events = random_events(8, 500, 20, 30);
  for (const bool exclude_seen : {true, false}) {
    const PrequentialOptions options{50, exclude_seen, 0.0};
    Popularity plain(1000), listed(1000);
    const std::vector<std::int32_t> expected = run_in_parts(plain, events, options, 500);
    constexpr std::size_t kSize = 4;
    std::vector<std::int32_t> outcomes(500), lists(500 * kSize, 77);
    PrequentialRun run(options);
    run.run(listed, events.batch(), {}, {outcomes, {}, lists, kSize});
    check_same_bytes(outcomes, expected, "outcome ");
    for (std::size_t i = 0; i < 500; ++i) {
      const auto list = std::span(lists).subspan(i * kSize, kSize);
      const auto place = std::find(list.begin(), list.end(), static_cast<std::int32_t>(events.items[i]));
      if (outcomes[i] < 0) BOOST_CHECK_EQUAL(std::count(list.begin(), list.end(), -1), kSize);
      if (outcomes[i] == outcome::kNewItem) BOOST_CHECK(list[0] >= 0 && place == list.end());
      if (outcomes[i] > 0) BOOST_CHECK_EQUAL(place - list.begin() + 1, std::min(outcomes[i], 5));
    }
  }
}

BOOST_AUTO_TEST_CASE(there_is_no_list_among_scores_without_an_order) {
  Events events;
  for (const std::int64_t item : {0, 1, 2}) events.add(0, item, 0.0);
  events.add(1, 0, 0.0);
  events.add(1, 2, 0.0);
  std::vector<std::int32_t> outcomes(5), lists(10);
  Broken broken(kNan), behind(-kInfinity);
  PrequentialRun({}).run(broken, events.batch(), {}, {outcomes, {}, lists, 2});
  BOOST_CHECK_EQUAL(lists[8], -1);
  PrequentialRun({}).run(behind, events.batch(), {}, {outcomes, {}, lists, 2});
  BOOST_CHECK_EQUAL(lists[8], 2);
  BOOST_CHECK_EQUAL(lists[9], -1);  // the user had 0, and 1 is nobody's
}

BOOST_AUTO_TEST_CASE(labels_are_predicted_before_they_are_learned) {
  RecommenderConfig config;
  config.dim = 4;
  config.loss = Loss::kMse;
  const auto make = [&] { return Recommender(config, std::make_shared<Optimizer>(AdagradParams{})); };
  Events events = random_events(9, 200, 10, 20);
  for (std::size_t i = 0; i < 200; ++i) events.labels.push_back(static_cast<float>(i % 5));
  Recommender judged = make(), plain = make();
  std::vector<std::int32_t> outcomes(200);
  std::vector<float> predictions(200), expected(200, kNan);
  PrequentialRun({30, true, 0.0}).run(judged, events.batch(), {}, {outcomes, predictions});
  for (std::size_t i = 0; i < 200; ++i) {
    const EventBatch event = events.batch().slice(i, i + 1);
    if (i >= 30) plain.predict(event.users, event.items, event.time(0), &expected[i]);
    plain.learn(event);
  }
  check_same_bytes(predictions, expected, "prediction ");
}

BOOST_AUTO_TEST_CASE(models_without_predictions_are_refused_unchanged) {
  const Events events = random_events(9, 20, 5, 5);
  std::vector<std::int32_t> outcomes(20);
  std::vector<float> predictions(20);
  Popularity model(10);
  Recommender softmax({}, std::make_shared<Optimizer>(AdagradParams{}));
  for (StreamModel* refused : {static_cast<StreamModel*>(&model), static_cast<StreamModel*>(&softmax)}) {
    BOOST_CHECK(refused->prediction() == Prediction::kNone);
    BOOST_CHECK_THROW(refused->predict_label(0, 0, 0.0), std::invalid_argument);
    BOOST_CHECK_THROW(PrequentialRun({}).run(*refused, events.batch(), {}, {outcomes, predictions}),
                      std::invalid_argument);
    BOOST_CHECK_EQUAL(refused->event_count(), 0u);
  }
}

BOOST_AUTO_TEST_CASE(a_delay_keeps_events_back_until_they_are_due) {
  const Events events = random_events(10, 300, 20, 30);  // an event every half second
  for (const std::size_t part : {std::size_t{1}, std::size_t{37}, std::size_t{300}}) {
    for (const double delay : {0.0, 0.25, 0.5, 3.0, 1000.0}) {
      Recording model;
      PrequentialRun run({40, true, delay});
      std::vector<std::int32_t> outcomes(300);
      std::vector<float> predictions(300);
      for (std::size_t begin = 0; begin < 300; begin += part) {
        const std::size_t n = std::min(part, 300 - begin);
        run.run(model, events.batch().slice(begin, begin + n), {},
                {std::span(outcomes).subspan(begin, n), std::span(predictions).subspan(begin, n)});
      }
      for (std::size_t i = 40; i < 300; ++i) {
        std::size_t known = 0;  // how many of those before it happened long enough ago
        while (known < i && events.times[known] + delay <= events.times[i]) ++known;
        BOOST_CHECK_EQUAL(predictions[i], static_cast<float>(known));
      }
      run.finish(model);
      check_same_bytes(model.learned, events.times, "time ");
      run.finish(model);  // nothing is left
      BOOST_CHECK_EQUAL(model.event_count(), 300u);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_delay_makes_items_not_learned_yet_misses) {
  Events events;
  for (const std::int64_t item : {0, 1}) events.add(0, item, 0.0);
  events.add(1, 0, 5.0);
  events.add(1, 1, 6.0);   // known as an item, not learned
  events.add(2, 2, 20.0);  // by now all before are
  events.add(2, 1, 21.0);  // 2 is not a candidate: the user had it, though it is not learned
  Recording model;
  std::vector<std::int32_t> outcomes(6);
  PrequentialRun({0, true, 10.0}).run(model, events.batch(), {}, {outcomes});
  const std::vector<std::int32_t> expected{outcome::kNoHistory, outcome::kNewItem,   outcome::kNoHistory,
                                           outcome::kNewItem,   outcome::kNoHistory, 2};
  check_same_bytes(outcomes, expected, "outcome ");
}

BOOST_AUTO_TEST_CASE(bad_delays_are_refused) {
  for (const double delay : {-1.0, static_cast<double>(kInfinity), static_cast<double>(kNan)}) {
    BOOST_CHECK_THROW(PrequentialRun({0, true, delay}), std::invalid_argument);
  }
  Events events = random_events(10, 20, 5, 5);
  Recording model;
  std::vector<std::int32_t> outcomes(20);
  const EventBatch timeless{events.users, events.items, {}, {}};
  BOOST_CHECK_THROW(PrequentialRun({0, true, 1.0}).run(model, timeless, {}, {outcomes}),
                    std::invalid_argument);
  PrequentialRun run({0, true, 100.0});
  run.run(model, events.batch(), {}, {outcomes});
  const std::vector<float> labels(20);
  const EventBatch labelled{events.users, events.items, labels, events.times};
  BOOST_CHECK_THROW(run.run(model, labelled, {}, {outcomes}), std::invalid_argument);
  BOOST_CHECK_EQUAL(run.position(), 20u);
  BOOST_CHECK(model.learned.empty());
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
