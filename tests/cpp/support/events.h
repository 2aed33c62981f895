// Streams of events for the models' tests.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fastinc/stream_model.h"
#include "support/support.h"

namespace fastinc::test {

struct Events {
  std::vector<std::int64_t> users, items;
  std::vector<float> labels;
  std::vector<double> times;

  void add(std::int64_t user, std::int64_t item, double time) {
    users.push_back(user);
    items.push_back(item);
    times.push_back(time);
  }
  EventBatch batch() const { return {users, items, labels, times}; }
};

/// Popular items are more popular; codes appear in order; a user sometimes repeats an item.
inline Events random_events(std::uint64_t seed, std::size_t n, std::size_t users, std::size_t items) {
  Generator random(seed);
  Events events;
  std::int64_t next_user = 0, next_item = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const auto user = static_cast<std::int64_t>(below(random, users));
    const auto item = static_cast<std::int64_t>(below(random, 1 + below(random, items)));
    events.add(std::min(user, next_user), std::min(item, next_item), static_cast<double>(i) * 0.5);
    next_user += events.users.back() == next_user;
    next_item += events.items.back() == next_item;
  }
  return events;
}

}  // namespace fastinc::test
