// Items to tell an event's item from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "learn/marks.h"

namespace fastinc {

/// Draws up to `count` items uniformly and without repeats.
class NegativeSampler {
 public:
  NegativeSampler(std::size_t count, std::uint64_t seed) : count_(count), seed_(seed) {}

  /// The last items of a user, never negatives of that user's events.
  static constexpr std::size_t kRecent = 100;

  std::size_t most(std::size_t items) const { return count_ < items ? count_ : items; }
  /// Of `items`, neither the target nor what is in `recent`, which are among them; all others where there are
  /// not enough. `draw` seeds it; marks: for all items. out: (most(items.size()),) Returns how many.
  std::size_t draw(std::span<const std::uint32_t> items, std::uint64_t draw, std::uint32_t target,
                   std::span<const std::uint32_t> recent, Marks& marks, std::uint32_t* out) const;

 private:
  std::size_t count_;
  std::uint64_t seed_;
};

/// Keep the negatives that are the hardest to tell from the target: those whose score is at least
/// `deviations` standard deviations above their mean, in their order. rows, scores: (n,) Returns how many;
/// some are left.
std::size_t keep_hard(double deviations, std::uint32_t* rows, float* scores, std::size_t n);

}  // namespace fastinc
