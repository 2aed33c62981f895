// A table's limits at work: which ids get a row, which rows go.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "fastinc/bounds.h"
#include "store/admission.h"
#include "store/moments.h"
#include "store/pages.h"
#include "store/slot.h"
#include "store/victims.h"

namespace fastinc {

class RowStore;

/// Called by the store's writer alone.
class Bounds {
 public:
  Bounds(const TableBounds& config, std::uint64_t salt, unsigned page_shift, std::size_t max_pages);

  const TableBounds& config() const { return config_; }
  bool counts_uses() const { return config_.eviction == Eviction::kLfu; }
  std::uint32_t frequency(Slot slot) const { return counts_uses() ? *frequencies_->at(slot) : 0; }
  void set_frequency(Slot slot, std::uint32_t frequency) { *frequencies_->at(slot) = frequency; }

  /// Throws std::invalid_argument if there are more distinct ids than the table may have rows.
  void check_fits(std::span<const std::int64_t> ids) const;

  /// Room for this many slots; throws std::bad_alloc.
  void reserve(std::size_t slot_count);

  /// Count the ids without a row. Returns the positions to go on with, or nothing if that is all of them.
  ///   ids, slots: (n,)
  std::optional<std::vector<std::uint32_t>> admit(std::span<const std::int64_t> ids, const Slot* slots);

  /// The next row to give up for a new one; rows written at `version`, the batch's own, stay. Between
  /// reserve_batch(), for a batch of n, and end_batch().
  std::optional<Slot> next_victim(const RowStore& store, std::uint64_t version) noexcept;
  void reserve_batch(std::size_t n) { own_.reserve(n); }
  void end_batch() noexcept;
  /// The next row whose time is over.
  std::optional<Slot> next_expired(const RowStore& store) noexcept;
  /// A row was made in this batch.
  void note_insert(Slot slot, std::uint64_t version) noexcept;
  /// A known row of the batch: at most once a batch, by its version.
  void note_use(Slot slot) noexcept;
  /// A batch is complete.
  void note_time(std::uint64_t version) noexcept;

  /// All rows are of this version, or older, as of now.
  void restart(std::uint64_t version);

  CountMin* sketch() { return sketch_.get(); }
  const CountMin* sketch() const { return sketch_.get(); }
  std::uint64_t refused() const { return refused_.load(std::memory_order_relaxed); }
  std::size_t admission_bytes() const { return sketch_ ? sketch_->bytes() : 0; }
  std::size_t eviction_bytes(std::size_t slot_count) const;

 private:
  TableBounds config_;
  Victims victims_;
  std::vector<std::pair<Slot, EvictionKey>>
      own_;                   // victims that the batch needs itself: handed back at its end
  std::size_t prepared_ = 0;  // slots that victims_ has room for
  std::atomic<std::size_t> victim_bytes_{0};
  std::unique_ptr<Pages<std::uint32_t>> frequencies_;
  std::unique_ptr<CountMin> sketch_;
  Moments moments_;
  std::atomic<std::uint64_t> refused_{0};
};

}  // namespace fastinc
