// Which rows a full table gives up: exactly those with the smallest keys, without an entry for every row.
#pragma once

#include <algorithm>
#include <compare>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "store/slot.h"

namespace fastinc {

/// What rows are evicted by: the least used, of those the longest unused. Frequency is 0 unless it counts.
struct EvictionKey {
  std::uint32_t frequency = 0;
  std::uint64_t version = 0;
  friend constexpr auto operator<=>(const EvictionKey& a, const EvictionKey& b) noexcept {
    return std::tie(a.frequency, a.version) <=> std::tie(b.frequency, b.version);
  }
  friend constexpr bool operator==(const EvictionKey&, const EvictionKey&) = default;
};

inline constexpr EvictionKey kAnyKey{~std::uint32_t{0}, ~std::uint64_t{0}};

/// Slots are below slot_count(); key() is false where a slot holds no row.
template <class Rows>
concept EvictionRows = requires(const Rows& rows, Slot slot, EvictionKey& key) {
  { rows.slot_count() } noexcept -> std::convertible_to<std::size_t>;
  { rows.key(slot, key) } noexcept -> std::same_as<bool>;
};

/// Rows in the order of (key, slot), smallest first, as they are at each call. Told of new rows, it finds out
/// about the rest itself: used rows (a row's key only ever grows) and rows that went.
///
/// A heap holds an entry for every row below `bound_`, with a key that is not above the row's: at the top, an
/// entry that is the row's own is the smallest of all, and any other is put where it belongs by now. Beside
/// it a Range is built, the heap that comes next: a scan over all slots that each entry taken moves on a
/// little, so that it is over when half of the present heap is. One that has then waited long, because new
/// rows were the smallest, is built anew before its rows have all been used. Bounds may be anywhere without
/// an error: they come from a sample of rows, and a heap that is full gives up its upper half and lowers its
/// bound.
///
/// Each of the three heaps has room for 1/48 of the slots: 1 byte a row together. Not synchronised.
class Victims {
 public:
  Victims() { reserve(kFewest); }

  /// Room for a table of this many slots. Nothing else allocates. Without it the answers are the same,
  /// slower.
  void prepare(std::size_t slot_count) { reserve(slot_count / kShare); }

  /// A row came into a slot, new or used before, with this key. (Before the first next() it needn't be told.)
  void note_insert(Slot slot, EvictionKey key) noexcept;

  /// Takes out the smallest row, unless its key is above `limit`; none if there are no rows. Costs nothing
  /// while none is at or below `limit`. The caller removes it, or hands it back with note_insert(), before
  /// its key changes and before another row comes in; several may be taken first.
  template <EvictionRows Rows>
  std::optional<Slot> next(const Rows& rows, EvictionKey limit = kAnyKey) noexcept;

  /// Forget everything: needed after a key became smaller.
  void clear() noexcept;

  std::size_t bytes() const noexcept;
  /// Slots looked at so far for what comes next, sampled ones included.
  std::uint64_t scanned() const noexcept { return scanned_; }

 private:
  struct Entry {
    EvictionKey key() const noexcept { return {frequency, version}; }
    friend constexpr auto operator<=>(const Entry& a, const Entry& b) noexcept {
      return std::tie(a.frequency, a.version, a.slot) <=> std::tie(b.frequency, b.version, b.slot);
    }
    friend constexpr bool operator==(const Entry&, const Entry&) = default;

    std::uint64_t version;  // first, for 16 bytes in all
    std::uint32_t frequency;
    Slot slot;
  };
  using Heap = std::vector<Entry>;
  static constexpr Entry kNone{0, 0, 0};                                     // no row is below it
  static constexpr Entry kAll{kAnyKey.version, kAnyKey.frequency, kNoSlot};  // and none at or above this
  static constexpr std::size_t kFewest = 256, kShare = 48, kMostSampled = 4096, kFewLeft = 64;

  /// Rows from bound_ up to a bound of its own, among the slots it has been through.
  struct Range {
    bool begun() const noexcept { return end > 0; }
    bool complete() const noexcept { return begun() && cursor == end; }
    bool covers(Slot slot) const noexcept { return slot < cursor || slot >= end; }  // later slots are told
    void clear() noexcept;
    void offer(Entry entry, std::size_t capacity) noexcept;

    Heap heap;
    Entry bound = kNone;
    std::size_t cursor = 0, end = 0;
  };

  static Entry entry(Slot slot, EvictionKey key) noexcept { return {key.version, key.frequency, slot}; }
  /// How many rows a bound should let in: a sample's error leaves it below capacity_.
  std::size_t wanted() const noexcept { return capacity_ / 4 * 3; }

  void reserve(std::size_t capacity);
  void offer(Entry entry) noexcept;
  void offer_ranges(Entry entry) noexcept;
  void give_up_half() noexcept;
  Slot random_slot(std::size_t slot_count) noexcept;
  void take_top() noexcept;
  void take_ready() noexcept;
  void choose_bound(std::size_t slot_count, std::size_t sampled) noexcept;

  template <EvictionRows Rows>
  bool settle(const Rows& rows, EvictionKey limit) noexcept;
  template <EvictionRows Rows>
  bool refill(const Rows& rows, EvictionKey limit) noexcept;
  template <EvictionRows Rows>
  void advance(const Rows& rows) noexcept;
  template <EvictionRows Rows>
  void begin_scan(const Rows& rows) noexcept;
  template <EvictionRows Rows>
  void scan(const Rows& rows, std::size_t slots) noexcept;

  std::size_t capacity_ = 0;  // of each heap
  Heap heap_;
  Entry bound_ = kNone;
  Range ready_, building_;    // ready_ is complete or not begun, building_ not begun or not complete
  std::size_t pace_ = 0;      // slots scanned per entry taken
  std::uint64_t waited_ = 0;  // victims since ready_ was
  std::uint64_t scanned_ = 0, samples_ = 0;
};

template <EvictionRows Rows>
std::optional<Slot> Victims::next(const Rows& rows, EvictionKey limit) noexcept {
  if (!settle(rows, limit)) return std::nullopt;
  const Entry victim = heap_.front();
  // A slot used again may be in the heap twice, with the same key by now.
  while (!heap_.empty() && heap_.front() == victim) take_top();
  ++waited_;
  advance(rows);
  return victim.slot;
}

/// Brings the smallest row to the top; false if it is above `limit`.
template <EvictionRows Rows>
bool Victims::settle(const Rows& rows, EvictionKey limit) noexcept {
  for (;;) {
    if (heap_.empty()) {
      if (!refill(rows, limit)) return false;
      continue;
    }
    const Entry top = heap_.front();
    if (limit < top.key()) return false;
    EvictionKey now;
    const bool live = rows.key(top.slot, now);
    if (live && now == top.key()) return true;
    take_top();
    // A smaller key is a new row's, which has an entry of its own.
    if (live && now > top.key()) offer(entry(top.slot, now));
    if (!ready_.begun()) advance(rows);
  }
}

/// The next range takes the empty heap's place. False if rows of `limit` can't be in it.
template <EvictionRows Rows>
bool Victims::refill(const Rows& rows, EvictionKey limit) noexcept {
  if (bound_ == kAll || limit < bound_.key() || rows.slot_count() == 0) return false;
  if (!ready_.begun()) {
    if (!building_.begun()) begin_scan(rows);
    scan(rows, building_.end);
  }
  take_ready();
  return true;
}

/// What an entry taken is worth of the scan for the next range.
template <EvictionRows Rows>
void Victims::advance(const Rows& rows) noexcept {
  if (ready_.begun() && heap_.size() <= kFewLeft) take_ready();
  if (bound_ == kAll || (ready_.begun() && !building_.begun() && waited_ < wanted())) return;
  if (!building_.begun()) begin_scan(rows);
  scan(rows, pace_);
}

template <EvictionRows Rows>
void Victims::begin_scan(const Rows& rows) noexcept {
  const std::size_t slots = rows.slot_count();
  building_.end = slots;
  building_.bound = kAll;
  pace_ = 2 * slots / std::max<std::size_t>(ready_.begun() ? wanted() : heap_.size(), 1) + 1;
  if (slots <= wanted()) return;
  const std::size_t sampled = std::min(capacity_, kMostSampled);
  for (std::size_t i = 0; i < sampled; ++i) {  // into the heap, which is empty as yet
    const Slot slot = random_slot(slots);
    EvictionKey key;
    if (rows.key(slot, key) && entry(slot, key) >= bound_) building_.heap.push_back(entry(slot, key));
  }
  scanned_ += sampled;
  choose_bound(slots, sampled);
}

template <EvictionRows Rows>
void Victims::scan(const Rows& rows, std::size_t slots) noexcept {
  const std::size_t end = building_.cursor + std::min(slots, building_.end - building_.cursor);
  scanned_ += end - building_.cursor;
  for (std::size_t s = building_.cursor; s < end; ++s) {
    const Slot slot = static_cast<Slot>(s);
    EvictionKey key;
    if (rows.key(slot, key) && entry(slot, key) >= bound_) building_.offer(entry(slot, key), capacity_);
  }
  building_.cursor = end;
  if (!building_.complete()) return;
  std::swap(ready_, building_);
  building_.clear();
  waited_ = 0;
}

}  // namespace fastinc
