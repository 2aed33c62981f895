// Items to tell an event's item from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "learn/marks.h"
#include "learn/recent_items.h"

namespace fastinc {

/// Draws up to `count` items without repeats: uniformly, or with probability `popular` one of the last
/// events'.
class NegativeSampler {
 public:
  NegativeSampler(std::size_t count, std::uint64_t seed, double popular = 0.0)
      : count_(count), seed_(seed), popular_(popular) {}

  /// How many were drawn, and how many tries it took: with popular ones among them, and uniform; neither: all
  /// there are.
  struct Draw {
    std::size_t n, mixed, uniform;
  };

  /// The last items of a user, never negatives of that user's events.
  static constexpr std::size_t kRecent = 100;

  std::size_t most(std::size_t items) const { return count_ < items ? count_ : items; }
  /// Of `items`, neither the target nor what is in `recent`, which are among them; all others where there are
  /// not enough. `draw` seeds it; marks: for all items. out: (most(items.size()),)
  Draw draw(std::span<const std::uint32_t> items, std::uint64_t draw, std::uint32_t target,
            std::span<const std::uint32_t> recent, const RecentItems& last, Marks& marks,
            std::uint32_t* out) const;
  /// Add minus the log of the probability that each of those drawn from so many items is drawn (Yi et al.
  /// 2019). drawn, scores: (draw.n,)
  void correct(std::size_t items, const RecentItems& last, const Draw& draw, const std::uint32_t* drawn,
               float* scores) const;

 private:
  std::size_t count_;
  std::uint64_t seed_;
  double popular_;
};

/// Keep the negatives that are the hardest to tell from the target: those whose score is at least
/// `deviations` standard deviations above their mean, in their order. rows, scores: (n,) Returns how many;
/// some are left.
std::size_t keep_hard(double deviations, std::uint32_t* rows, float* scores, std::size_t n);

}  // namespace fastinc
