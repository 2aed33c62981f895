#include "fastinc/baselines.h"

#include <cmath>
#include <map>

#include "support/events.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(baselines)

namespace {

/// Item-kNN from its definition: histories are lists, counts are maps, nothing is incremental but the
/// counting.
class ReferenceKnn {
 public:
  ReferenceKnn(RecencyWeight recency, std::size_t history_size)
      : recency_(recency), history_size_(history_size) {}

  void learn(std::int64_t user, std::int64_t item) {
    std::vector<std::int64_t>& history = histories_[user];  // most recent first
    if (std::find(history.begin(), history.end(), item) == history.end()) {
      std::map<std::int64_t, double> first_met;
      for (std::size_t l = 0; l < history.size(); ++l) first_met.try_emplace(history[l], weight(l));
      for (const auto& [other, w] : first_met) {
        together_[{other, item}] += w;
        together_[{item, other}] += w;
      }
      ++users_with_[item];
    }
    history.insert(history.begin(), item);
    if (history.size() > history_size_) history.pop_back();
  }
  double score(std::int64_t user, std::int64_t item) const {
    double sum = 0.0;
    const auto it = histories_.find(user);
    if (it == histories_.end() || users_with_.count(item) == 0) return 0.0;
    for (std::size_t l = 0; l < it->second.size(); ++l) {
      const auto pair = together_.find({it->second[l], item});
      if (pair == together_.end()) continue;
      sum += weight(l) * pair->second / std::sqrt(users_with_.at(it->second[l]) * users_with_.at(item));
    }
    return sum;
  }

 private:
  double weight(std::size_t l) const {
    return recency_ == RecencyWeight::kRank ? 1.0 / static_cast<double>(l + 1) : 1.0;
  }
  RecencyWeight recency_;
  std::size_t history_size_;
  std::map<std::int64_t, std::vector<std::int64_t>> histories_;
  std::map<std::pair<std::int64_t, std::int64_t>, double> together_;
  std::map<std::int64_t, double> users_with_;
};

}  // namespace

BOOST_AUTO_TEST_CASE(popularity_counts_positive_events) {
  Popularity model(5);
  Events events;
  for (const std::int64_t item : {0, 1, 1, 2, 1, 2}) events.add(0, item, 0.0);
  events.labels = {1.0f, 1.0f, 1.0f, 0.0f, 5.0f, -1.0f};
  model.learn(events.batch());
  std::vector<float> scores(3);
  model.score_items(99, 0.0, scores);
  check_same_bytes(scores, {1.0f, 3.0f, 0.0f}, "counts ");
}

BOOST_AUTO_TEST_CASE(item_knn_against_its_definition) {
  for (const RecencyWeight recency : {RecencyWeight::kUniform, RecencyWeight::kRank}) {
    for (const std::size_t history_size : {std::size_t{4}, std::size_t{1000}}) {
      // few items: rows become arrays; many: pairs, and back again as more appear
      for (const std::size_t items : {std::size_t{15}, std::size_t{300}}) {
        const Events events = random_events(items, 1200, 25, items);
        ItemKnn model(recency, history_size);
        ReferenceKnn reference(recency, history_size);
        double worst = 0.0;
        for (std::size_t i = 0; i < events.users.size(); ++i) {
          model.learn(events.batch().slice(i, i + 1));
          reference.learn(events.users[i], events.items[i]);
          if (i % 100 != 99) continue;
          std::vector<float> scores(model.item_count());
          for (const std::int64_t user : {std::int64_t{0}, events.users[i], std::int64_t{1000}}) {
            model.score_items(user, 0.0, scores);
            for (std::size_t j = 0; j < scores.size(); ++j) {
              const double expected = reference.score(user, static_cast<std::int64_t>(j));
              worst = std::max(worst, std::abs(static_cast<double>(scores[j]) - expected) / (1.0 + expected));
            }
          }
        }
        BOOST_CHECK_MESSAGE(worst < 1e-5,
                            items << " items, history " << history_size << ": off by " << worst);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(fewer_scores_than_items_can_be_asked_for) {
  ItemKnn model(RecencyWeight::kUniform, 10);
  const Events events = random_events(4, 200, 10, 20);
  model.learn(events.batch());
  std::vector<float> all(model.item_count()), some(3);
  model.score_items(0, 0.0, all);
  model.score_items(0, 0.0, some);
  check_same_bytes(some, {all[0], all[1], all[2]}, "scores ");
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
