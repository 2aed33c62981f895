#include "store/moments.h"

#include <chrono>
#include <cstddef>

namespace fastinc {

double Moments::now() const {
  if (clock_ != nullptr) return clock_();
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void Moments::note(std::uint64_t version) noexcept {
  if (ttl_ <= 0.0) return;
  const double at = now();
  // a moment is at least a step long, so that kMost of them cover more than the time a row lives
  if (moments_.empty() || (at - moments_.back().first >= ttl_ / kSteps && moments_.size() < kMost)) {
    moments_.push_back({at, at, version});
  } else {
    moments_.back().last = at;
    moments_.back().version = version;
  }
}

std::uint64_t Moments::last_expired() noexcept {
  if (ttl_ <= 0.0) return 0;
  const double limit = now() - ttl_;
  std::size_t over = 0;
  while (over + 1 < moments_.size() && moments_[over + 1].last <= limit) ++over;
  moments_.erase(moments_.begin(), moments_.begin() + static_cast<std::ptrdiff_t>(over));
  return moments_.empty() || moments_.front().last > limit ? 0 : moments_.front().version;
}

}  // namespace fastinc
