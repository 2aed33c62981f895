// Small recommenders of every kind, and everything they know.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fastinc/recommender.h"
#include "support/events.h"
#include "support/support.h"

namespace fastinc::test {

inline std::shared_ptr<Optimizer> share(const OptimizerParams& params) {
  return std::make_shared<Optimizer>(params);
}

inline RecommenderConfig small_config() {
  RecommenderConfig config;
  config.dim = 13;
  config.negatives = 20;
  config.window = 6;
  config.history_size = 12;
  config.seed = 5;
  return config;
}

struct Setting {
  UserModel user;
  Loss loss;
  double time_scale;
  bool whole = false;  // all the formula's parts
  bool hard = false;   // hard negatives alone
  bool labelled() const { return loss == Loss::kMse; }
  std::string name() const {
    return "user " + std::to_string(static_cast<int>(user)) + ", loss " +
           std::to_string(static_cast<int>(loss)) + (hard ? ", hard: " : ": ");
  }
};

inline constexpr Setting kSettings[] = {{UserModel::kHistory, Loss::kSoftmax, 0.0},
                                        {UserModel::kBoth, Loss::kSoftmax, 20.0},
                                        {UserModel::kBoth, Loss::kBpr, 0.0},
                                        {UserModel::kVector, Loss::kLogistic, 0.0},
                                        {UserModel::kHistory, Loss::kLogistic, 7.0},
                                        {UserModel::kBoth, Loss::kMse, 0.0},
                                        {UserModel::kHistory, Loss::kSoftmax, 9.0, true},
                                        {UserModel::kBoth, Loss::kLogistic, 0.0, true},
                                        {UserModel::kHistory, Loss::kSoftmax, 9.0, true, true},
                                        {UserModel::kBoth, Loss::kBpr, 9.0, false, true}};

inline RecommenderConfig configure(const Setting& setting) {
  RecommenderConfig config = small_config();
  config.user = setting.user;
  config.loss = setting.loss;
  config.time_scale = setting.time_scale;
  if (setting.hard) config.hard_negatives = 0.3;
  if (!setting.whole) return config;
  config.tie_weight = 0.5;
  config.long_window = 10;
  config.situations = true;
  config.hidden = 5;
  return config;
}

inline Events events_for(const Setting& setting, std::size_t n) {
  Events events = random_events(3, n, 40, 90);
  if (setting.labelled()) {
    for (const std::int64_t item : events.items) events.labels.push_back(static_cast<float>(1 + item % 5));
  }
  return events;
}

/// Everything a model knows, for comparing down to the byte. Versions depend on the batching: left out.
struct Everything {
  std::vector<float> floats;
  std::vector<std::uint8_t> codes;
  RecommenderState state;
};

inline Everything everything(const Recommender& model) {
  Everything out{{}, {}, model.export_state()};
  for (const auto& [name, table] : model.tables()) {
    const TableState state = table->export_state();
    out.floats.insert(out.floats.end(), state.weights.begin(), state.weights.end());
    out.floats.insert(out.floats.end(), state.state.begin(), state.state.end());
    if (name != "items") continue;  // the others keep none
    std::vector<std::uint8_t> codes(state.ids.size() * (table->dim() + kQuantizedTail)),
        expected(codes.size());
    table->lookup_quantized(state.ids, codes.data());
    quantize_rowwise(state.weights.data(), state.ids.size(), table->dim(), expected.data());
    check_same_bytes(codes, expected, "serving copies ");
    out.codes.insert(out.codes.end(), codes.begin(), codes.end());
  }
  return out;
}

/// The model as it is, with another optimizer.
inline std::unique_ptr<Recommender> copy_of(const Recommender& model,
                                            const std::shared_ptr<Optimizer>& optimizer) {
  auto copy = std::make_unique<Recommender>(model.config(), optimizer);
  const auto from = model.tables(), to = copy->tables();
  for (std::size_t i = 0; i < from.size(); ++i) to[i].second->import_state(from[i].second->export_state());
  copy->import_state(model.export_state());
  return copy;
}

inline void check_same(const Everything& got, const Everything& expected, const std::string& where) {
  check_same_bytes(got.floats, expected.floats, where + "floats ");
  check_same_bytes(got.codes, expected.codes, where + "codes ");
  check_same_bytes(got.state.history_offsets, expected.state.history_offsets, where + "histories ");
  check_same_bytes(got.state.history_items, expected.state.history_items, where + "histories ");
  check_same_bytes(got.state.history_times, expected.state.history_times, where + "histories ");
  BOOST_CHECK_EQUAL(got.state.item_count, expected.state.item_count);
  BOOST_CHECK_EQUAL(got.state.event_count, expected.state.event_count);
  BOOST_CHECK_EQUAL(got.state.skipped, expected.state.skipped);
  BOOST_CHECK_EQUAL(got.state.latest_time, expected.state.latest_time);
  BOOST_CHECK_EQUAL(got.state.label_sum, expected.state.label_sum);
  BOOST_CHECK_EQUAL(got.state.label_count, expected.state.label_count);
  BOOST_CHECK_EQUAL(got.state.limited, expected.state.limited);
  check_same_bytes(got.state.item_events, expected.state.item_events, where + "items ");
  check_same_bytes(got.state.seen_items, expected.state.seen_items, where + "items ");
  check_same_bytes(got.state.last_items, expected.state.last_items, where + "items ");
  check_same_bytes(got.state.features.items, expected.state.features.items, where + "features ");
  check_same_bytes(got.state.features.numbers, expected.state.features.numbers, where + "features ");
  check_same_bytes(got.state.features.offsets, expected.state.features.offsets, where + "features ");
  check_same_bytes(got.state.features.buckets, expected.state.features.buckets, where + "features ");
  check_same_bytes(got.state.features.given, expected.state.features.given, where + "features ");
  BOOST_REQUIRE_EQUAL(got.state.anchors.size(), expected.state.anchors.size());
  for (std::size_t i = 0; i < got.state.anchors.size(); ++i) {
    check_same_bytes(got.state.anchors[i].rows, expected.state.anchors[i].rows, where + "anchors ");
    check_same_bytes(got.state.anchors[i].values, expected.state.anchors[i].values, where + "anchors ");
  }
}

inline void learn_in_parts(Recommender& model, const Events& events, std::size_t part) {
  const EventBatch all = events.batch();
  for (std::size_t begin = 0; begin < all.size(); begin += part) {
    model.learn(all.slice(begin, std::min(begin + part, all.size())));
  }
}

}  // namespace fastinc::test
