// Which items there are, which of them had events, and which are still new.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "learn/new_items.h"

namespace fastinc {

/// Items 0 .. size() - 1 are known. Those that had an event are seen; those that had fewer than `new_below`
/// are new.
class Catalogue {
 public:
  explicit Catalogue(std::size_t new_below = 1) : new_below_(static_cast<std::uint32_t>(new_below)) {}

  std::size_t size() const { return events_.size(); }
  std::uint32_t events(std::size_t item) const { return events_[item]; }
  /// Of every item.
  std::span<const std::uint32_t> events() const { return events_; }
  /// In order of their first event.
  std::span<const std::uint32_t> seen() const { return seen_; }
  const NewItems& new_items() const { return new_; }

  /// Room for so many items: what follows can't fail.
  void reserve(std::size_t items) {
    if (items <= events_.capacity()) return;
    const std::size_t room = std::max(items, 2 * events_.capacity());
    seen_.reserve(room);
    new_.reserve(room);
    events_.reserve(room);
  }
  /// Items 0 .. items - 1 are known from here on.
  void announce(std::size_t items) {
    for (std::size_t j = size(); j < items; ++j) {
      events_.push_back(0);
      new_.push(new_below_ > 0);
    }
  }
  /// True for the item's first event.
  bool count_event(std::size_t item) {
    announce(item + 1);
    if (events_[item] == UINT32_MAX) return false;
    ++events_[item];
    if (events_[item] == new_below_) new_.erase(item);
    if (events_[item] != 1) return false;
    seen_.push_back(static_cast<std::uint32_t>(item));
    return true;
  }

  /// Items 0 .. items - 1 are known; those in `seen`, in this order, had their first events; `changed` have
  /// so many by now. False, and anything may be there, where the three don't fit together.
  bool advance(std::size_t items, std::span<const std::uint32_t> seen, std::span<const std::uint32_t> changed,
               std::span<const std::uint32_t> events) {
    if (items < size() || changed.size() != events.size()) return false;
    reserve(items);
    announce(items);
    for (const std::uint32_t item : seen) {
      if (item >= items || events_[item] != 0 || !count_event(item)) return false;
    }
    for (std::size_t i = 0; i < changed.size(); ++i) {
      const std::size_t item = changed[i];
      if (item >= items || events[i] < events_[item] || (events[i] > 0) != (events_[item] > 0)) return false;
      while (events_[item] < std::min(events[i], new_below_)) count_event(item);
      events_[item] = events[i];
    }
    return true;
  }

  /// Everything, as it was. False, and anything may be there, where the two don't fit together.
  bool assign(std::span<const std::uint32_t> events, std::span<const std::uint32_t> seen) {
    *this = Catalogue(new_below_);
    reserve(events.size());
    for (const std::uint32_t item : seen) {
      announce(std::min<std::size_t>(events.size(), std::size_t{item} + 1));
      if (item >= events.size() || events[item] == 0 || !count_event(item)) return false;
    }
    announce(events.size());
    for (std::size_t j = 0; j < events.size(); ++j) {
      if ((events[j] > 0) != (events_[j] > 0)) return false;
      while (events_[j] < std::min(events[j], new_below_)) count_event(j);
      events_[j] = events[j];
    }
    return true;
  }

  std::size_t bytes() const {
    return (events_.capacity() + seen_.capacity()) * sizeof(std::uint32_t) + new_.bytes();
  }

 private:
  std::uint32_t new_below_;
  std::vector<std::uint32_t> events_;  // by item
  std::vector<std::uint32_t> seen_;
  NewItems new_;
};

}  // namespace fastinc
