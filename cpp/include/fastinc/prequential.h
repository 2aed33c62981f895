// Test, then train: rank the item of each event among the others before the model learns the event.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "fastinc/stream_model.h"

namespace fastinc {

/// What became of an event. A positive outcome is the rank of its item, from 1.
namespace outcome {
inline constexpr std::int32_t kNewItem = 0;     // no event had the item, or none the model knows of: a miss
inline constexpr std::int32_t kWarmUp = -1;     // not ranked, as are the next three
inline constexpr std::int32_t kNotTarget = -2;  // the caller said so
inline constexpr std::int32_t kNoHistory = -3;  // the user's first event
inline constexpr std::int32_t kRepeat = -4;     // the user had the item before, and such items are left out
inline constexpr std::int32_t kNonFinite =
    -5;  // the target's score isn't finite or a candidate's NaN or +inf: a miss
}  // namespace outcome

struct PrequentialOptions {
  std::size_t warm_up = 0;   // so many events are learned without being ranked
  bool exclude_seen = true;  // leave out the items that the user had
  double delay = 0.0;        // seconds between an event and its learning
};

/// Where results go; what is empty isn't computed.
struct PrequentialOutputs {
  std::span<std::int32_t> outcomes;    // (n,)
  std::span<float> predictions = {};   // (n,) the label before the event is learned; NaN in the warm-up
  std::span<std::int32_t> lists = {};  // (n, list_size) the best items where an event is ranked or its item
                                       // is new; -1 behind them, and everywhere else
  std::size_t list_size = 0;
};

/// One pass of one model over a stream that arrives in parts. Which items and users are known and which items
/// a user had is counted here from the events alone, so that it is the same for every model, whatever each
/// remembers or has learned yet.
class PrequentialRun {
 public:
  /// Throws std::invalid_argument for a delay that is negative or not finite.
  explicit PrequentialRun(const PrequentialOptions& options);

  std::size_t position() const { return position_; }

  /// The next events of the stream, which the caller has validated. The model learns them one by one, those
  /// of the warm-up in one batch; with a delay, before the first event at a time of theirs plus the delay or
  /// later. How the stream is cut into calls makes no difference, save for a cut in the warm-up within a
  /// group of events. Throws std::invalid_argument, unchanged, for what the model refuses, predictions that
  /// it doesn't make, and a delay of events without times.
  ///   targets: (n,) 0 for an event that is learned but not ranked, or empty: rank all
  void run(StreamModel& model, const EventBatch& events, std::span<const std::uint8_t> targets,
           const PrequentialOutputs& out);

  /// Learn what the delay has kept back. Call at the end of the stream.
  void finish(StreamModel& model);

 private:
  /// Events that happened and are not known yet, in order from `first` on.
  struct Pending {
    std::vector<std::int64_t> users, items;
    std::vector<float> labels;
    std::vector<double> times;
    std::size_t first = 0;
  };

  void check(const StreamModel& model, const EventBatch& events, const PrequentialOutputs& out) const;
  void learn_or_keep(StreamModel& model, const EventBatch& events);
  void learn_due(StreamModel& model, double time);
  void learn_pending(StreamModel& model, std::size_t end);
  std::int32_t judge(const StreamModel& model, std::int64_t user, std::int64_t item, double time,
                     std::span<std::int32_t> list);
  std::size_t score_candidates(const StreamModel& model, std::int64_t user, double time);
  std::int32_t rank(std::size_t target) const;
  void write_list(std::span<std::int32_t> list);
  void note(std::int64_t user, std::int64_t item);

  PrequentialOptions options_;
  std::size_t position_ = 0;
  std::vector<std::uint8_t> known_items_;  // (items,) 1 for those that had an event
  std::size_t known_item_count_ = 0;
  std::vector<std::vector<std::int32_t>> had_items_;  // (users,) the distinct items of each user
  Pending pending_;
  std::vector<float> scores_;        // scratch
  std::vector<std::int32_t> order_;  // scratch
};

}  // namespace fastinc
