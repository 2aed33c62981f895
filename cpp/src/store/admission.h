// How often an id was seen, about, for ids that have no row: a table may create rows only after n sightings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fastinc {

/// A count-min sketch of which an id uses one cache line: one of 16 counters in each of its four quarters.
/// Conservative update: only the counters that hold the estimate are raised.
///
/// Counters fade: after every kFadingSightings the next line is halved, so that none stalls for all of them
/// and each is halved once in width() / 4 sightings, all along. That long the sketch remembers an id, on
/// average half as long a single sighting (1 / 2 = 0). Between two halvings of its line an estimate never
/// falls below the true count, up to 255; a halving leaves at least half the count, rounded down.
///
/// The period is what one-off ids dictate: 16 of them a line leave a new id four counters above 0 in 5 of 100
/// cases, for good; 8 would in 1 and 64 in 35, and 512 leave no counter at 0, however wide the sketch is.
class CountMin {
 public:
  static constexpr std::uint64_t kFadingSightings = 16;  // from one line's halving to the next one's

  /// width: counters, one byte each; rounded up to a power of two, at least 64.
  CountMin(std::size_t width, std::uint64_t salt);

  /// Returns the estimate with these sightings in it.
  std::uint32_t add(std::int64_t id, std::uint32_t times = 1) noexcept;
  std::uint32_t estimate(std::int64_t id) const noexcept;
  void clear() noexcept;

  std::size_t width() const noexcept { return lines_.size() * kLine; }
  std::size_t bytes() const noexcept { return lines_.capacity() * kLine; }

  /// All there is to keep, with the width and the salt: counters: (width,), and sightings added so far.
  std::vector<std::uint8_t> counters() const;
  std::uint64_t additions() const noexcept { return additions_; }
  /// Throws std::invalid_argument, changing nothing, unless there are width() counters.
  void restore(std::span<const std::uint8_t> counters, std::uint64_t additions);

 private:
  static constexpr std::size_t kLine = 64, kQuarter = 16;
  struct alignas(kLine) Line {
    std::uint8_t counters[kLine];
  };
  struct Place {
    std::size_t line;
    std::uint8_t at[4];
  };
  Place place(std::int64_t id) const noexcept;
  void fade(std::uint64_t sightings) noexcept;

  std::vector<Line> lines_;
  std::uint64_t key_;
  std::uint64_t additions_ = 0;
};

}  // namespace fastinc
