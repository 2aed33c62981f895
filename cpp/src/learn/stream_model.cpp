#include "fastinc/stream_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

#include "fastinc/runtime.h"
#include "learn/top_items.h"

namespace fastinc {

EventBatch EventBatch::slice(std::size_t begin, std::size_t end) const {
  const std::size_t n = end - begin;
  return {users.subspan(begin, n), items.subspan(begin, n),
          labels.empty() ? labels : labels.subspan(begin, n),
          times.empty() ? times : times.subspan(begin, n)};
}

void validate_codes(std::span<const std::int64_t> codes, const char* name) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max() - 1;
  for (std::size_t i = 0; i < codes.size(); ++i) {
    if (codes[i] < 0 || codes[i] > kMost) {
      throw std::invalid_argument(std::string(name) + "[" + std::to_string(i) +
                                  "] = " + std::to_string(codes[i]) + " is not a code from 0 to " +
                                  std::to_string(kMost));
    }
  }
}

namespace {

template <class T>
void check_finite_column(std::span<const T> values, const char* name) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      throw std::invalid_argument(std::string(name) + "[" + std::to_string(i) +
                                  "] = " + number_text(static_cast<double>(values[i])) + " is not finite");
    }
  }
}

void check_length(std::size_t length, std::size_t n, const char* name) {
  if (length != n) {
    throw std::invalid_argument(std::string(name) + " has length " + std::to_string(length) + ", users has " +
                                std::to_string(n));
  }
}

}  // namespace

void validate(const EventBatch& events) {
  check_length(events.items.size(), events.size(), "items");
  if (!events.labels.empty()) check_length(events.labels.size(), events.size(), "labels");
  if (!events.times.empty()) check_length(events.times.size(), events.size(), "timestamps");
  validate_codes(events.users, "users");
  validate_codes(events.items, "items");
  check_finite_column(events.labels, "labels");
  check_finite_column(events.times, "timestamps");
}

StreamModel::StreamModel(std::size_t history_size) : histories_(history_size) {
  if (history_size < 1 || history_size > 1'000'000) {
    throw std::invalid_argument("history_size = " + std::to_string(history_size) +
                                " must be from 1 to 1000000");
  }
}

StreamModel::~StreamModel() = default;

float StreamModel::predict_label(std::int64_t, std::int64_t, double) const {
  throw std::invalid_argument("predictions: this model ranks items and predicts no labels");
}

void StreamModel::see_item(std::int64_t item) {
  item_count_ = std::max(item_count_, static_cast<std::size_t>(item) + 1);
}

void StreamModel::remember(std::int64_t user, std::int64_t item, double time, bool positive) {
  histories_.ensure_user(user);
  if (positive) histories_.push(user, item, time);
  latest_time_ = event_count_ == 0 ? time : std::max(latest_time_, time);
  ++event_count_;
}

void StreamModel::recommend(std::span<const std::int64_t> users, std::size_t k, double time,
                            bool exclude_seen, std::span<const std::int64_t> excluded, float* scores,
                            std::int64_t* items) const {
  constexpr float kNothing = -std::numeric_limits<float>::infinity();
  const double at = std::isnan(time) ? latest_time_ : time;
  std::vector<float> all(item_count_);
  std::vector<std::int32_t> order;
  for (std::size_t u = 0; u < users.size(); ++u) {
    score_items(users[u], at, all);
    if (exclude_seen) {
      for (std::size_t l = 0; l < histories_.length(users[u]); ++l) {
        all[static_cast<std::size_t>(histories_.recent(users[u], l).item)] = kNothing;
      }
    }
    for (const std::int64_t item : excluded) {
      if (item >= 0 && static_cast<std::size_t>(item) < item_count_)
        all[static_cast<std::size_t>(item)] = kNothing;
    }
    const std::size_t found = top_items(all, k, order);
    for (std::size_t j = 0; j < k; ++j) {
      items[u * k + j] = j < found ? order[j] : -1;
      scores[u * k + j] = j < found ? all[static_cast<std::size_t>(order[j])] : kNothing;
    }
  }
}

}  // namespace fastinc
