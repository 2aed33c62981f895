// What every model that learns from an event stream can do: learn events in order, score all items for a
// user. Users and items are codes 0, 1, 2, ... in order of first appearance (IdMap makes them from a caller's
// ids).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "fastinc/history.h"
#include "fastinc/shared_mutex.h"

namespace fastinc {

/// A batch of events in order. users, items: (n,) codes; labels, times: (n,) or empty.
struct EventBatch {
  std::span<const std::int64_t> users;
  std::span<const std::int64_t> items;
  std::span<const float> labels;
  std::span<const double> times;

  std::size_t size() const { return users.size(); }
  float label(std::size_t i) const { return labels.empty() ? 1.0f : labels[i]; }
  /// Without times the clock stands still: every event happens at 0.
  double time(std::size_t i) const { return times.empty() ? 0.0 : times[i]; }
  EventBatch slice(std::size_t begin, std::size_t end) const;
};

/// Throws std::invalid_argument naming the argument and value for lengths that differ, a code outside
/// [0, 2^31 - 2], a label or time that isn't finite.
void validate(const EventBatch& events);
/// The same for codes alone, called `name`.
void validate_codes(std::span<const std::int64_t> codes, const char* name);

/// What a model says of an event's label: nothing, its probability, or a value in units of labels.
enum class Prediction : std::uint8_t { kNone, kProbability, kLabel };

/// Not synchronised: callers hold `mutex`, exclusive to learn and shared for everything that only reads.
class StreamModel {
 public:
  mutable SharedMutex mutex;

  explicit StreamModel(std::size_t history_size);
  virtual ~StreamModel();
  StreamModel(const StreamModel&) = delete;
  StreamModel& operator=(const StreamModel&) = delete;

  /// Throws std::invalid_argument for events that this model can't learn, before it learns any.
  virtual void check(const EventBatch& /*events*/) const {}

  /// Learn events [0, n) in order; every event sees the histories of all before it. The caller has validated
  /// and checked them.
  virtual void learn(const EventBatch& events) = 0;

  /// Score items 0 .. scores.size() - 1 for a user (an unknown user is one without history), as of `time`.
  /// Higher is better. scores: (items,), items <= item_count()
  virtual void score_items(std::int64_t user, double time, std::span<float> scores) const = 0;

  virtual Prediction prediction() const { return Prediction::kNone; }

  /// The label that an event would have, of users and items that may be unknown. Throws std::invalid_argument
  /// for a model without predictions.
  virtual float predict_label(std::int64_t user, std::int64_t item, double time) const;

  std::size_t item_count() const { return item_count_; }
  std::size_t user_count() const { return histories_.size(); }
  std::uint64_t event_count() const { return event_count_; }
  double latest_time() const { return latest_time_; }
  const Histories& histories() const { return histories_; }

  /// The best k items for each user.
  ///   excluded: (m,) item codes nobody gets; exclude_seen leaves out a user's own history
  ///   scores: (n, k) best first, ties by code, -inf where fewer exist; items: (n, k), -1 likewise
  ///   time: NaN means latest_time()
  virtual void recommend(std::span<const std::int64_t> users, std::size_t k, double time, bool exclude_seen,
                         std::span<const std::int64_t> excluded, float* scores, std::int64_t* items) const;

 protected:
  /// Count the event and append it to its user's history (call last in learning an event).
  void remember(std::int64_t user, std::int64_t item, double time, bool positive);
  /// Make `item` a known one.
  void see_item(std::int64_t item);

  Histories histories_;
  std::size_t item_count_ = 0;
  std::uint64_t event_count_ = 0;
  double latest_time_ = 0.0;
};

}  // namespace fastinc
