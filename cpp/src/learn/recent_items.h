// The items of the last events: a streaming estimate of how popular items are.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fastinc {

/// Drawing one of them uniformly draws an item by its share of the last events.
class RecentItems {
 public:
  explicit RecentItems(std::size_t capacity) : capacity_(capacity) {}

  /// Room for so many items and more events: what follows can't fail.
  void reserve(std::size_t items, std::size_t more) {
    if (capacity_ == 0) return;
    const std::size_t events = std::min(capacity_, events_.size() + more);
    if (events > events_.capacity()) events_.reserve(std::min(capacity_, 2 * events));
    if (items > counts_.capacity()) counts_.reserve(2 * items);
    if (items > counts_.size()) counts_.resize(items, 0);
  }
  void push(std::uint32_t item) {
    if (capacity_ == 0) return;
    ++counts_[item];
    ++pushes_;
    if (events_.size() < capacity_) {
      events_.push_back(item);
      return;
    }
    --counts_[events_[next_]];
    events_[next_] = item;
    next_ = next_ + 1 < capacity_ ? next_ + 1 : 0;
  }

  std::size_t size() const { return events_.size(); }
  /// How often push() was called.
  std::uint64_t pushes() const { return pushes_; }
  /// From the oldest on.
  std::uint32_t operator[](std::size_t i) const {
    const std::size_t at = next_ + i;
    return events_[at < events_.size() ? at : at - events_.size()];
  }
  double share(std::size_t item) const {
    return static_cast<double>(counts_[item]) / static_cast<double>(events_.size());
  }
  /// The oldest first.
  std::vector<std::uint32_t> in_order() const {
    std::vector<std::uint32_t> out = events_;
    std::rotate(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(next_), out.end());
    return out;
  }
  std::size_t bytes() const { return (events_.capacity() + counts_.capacity()) * sizeof(std::uint32_t); }

 private:
  std::size_t capacity_, next_ = 0;
  std::uint64_t pushes_ = 0;
  std::vector<std::uint32_t> events_;
  std::vector<std::uint32_t> counts_;  // by item
};

}  // namespace fastinc
