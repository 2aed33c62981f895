// How old a version is: when batches were complete, in steps.
#pragma once

#include <cstdint>
#include <vector>

namespace fastinc {

/// Takes no memory after reserve(), however many batches there are.
class Moments {
 public:
  /// ttl: seconds that a row lives; 0: versions have no age
  explicit Moments(double ttl, double (*clock)()) : ttl_(ttl), clock_(clock) {}

  void reserve() {
    if (ttl_ > 0.0) moments_.reserve(kMost);
  }
  void clear() noexcept { moments_.clear(); }

  /// A version is complete, as of now.
  void note(std::uint64_t version) noexcept;

  /// The last version whose rows' time is over; 0: there is none. Forgets those before it.
  std::uint64_t last_expired() noexcept;

  std::size_t bytes() const noexcept { return moments_.capacity() * sizeof(Moment); }

 private:
  static constexpr double kSteps = 1024.0;  // a row lives at most 1 / 1024 of its time too long
  static constexpr std::size_t kMost = 2048;
  struct Moment {
    double first, last;     // when the earliest and the latest of its versions were complete
    std::uint64_t version;  // the latest
  };
  double now() const;

  double ttl_;
  double (*clock_)();
  std::vector<Moment> moments_;  // oldest first
};

}  // namespace fastinc
