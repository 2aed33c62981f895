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
inline constexpr std::int32_t kNewItem = 0;     // no event had the item before: a miss
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
};

/// One pass of one model over a stream that arrives in parts. Which items and users are known and which items
/// a user had is counted here from the events alone, so that it is the same for every model, whatever each
/// remembers.
class PrequentialRun {
 public:
  explicit PrequentialRun(const PrequentialOptions& options) : options_(options) {}

  std::size_t position() const { return position_; }

  /// The next events of the stream, which the caller has validated. The model learns them one by one, those
  /// of the warm-up in one batch. How the stream is cut into calls makes no difference.
  ///   targets: (n,) 0 for an event that is learned but not ranked, or empty: rank all
  ///   outcomes: (n,) written
  void run(StreamModel& model, const EventBatch& events, std::span<const std::uint8_t> targets,
           std::span<std::int32_t> outcomes);

 private:
  std::int32_t judge(const StreamModel& model, std::int64_t user, std::int64_t item, double time);
  std::int32_t rank(const StreamModel& model, std::int64_t user, std::int64_t item, double time);
  void note(std::int64_t user, std::int64_t item);

  PrequentialOptions options_;
  std::size_t position_ = 0;
  std::vector<std::uint8_t> known_items_;  // (items,) 1 for those that had an event
  std::size_t known_item_count_ = 0;
  std::vector<std::vector<std::int32_t>> had_items_;  // (users,) the distinct items of each user
  std::vector<float> scores_;                         // scratch
};

}  // namespace fastinc
