#include "fastinc/prequential.h"

#include <set>

#include "fastinc/baselines.h"
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
    run.run(model, events.batch().slice(begin, end), chosen, std::span(outcomes).subspan(begin, end - begin));
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
      const PrequentialOptions options{warm_up, exclude_seen};
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

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
