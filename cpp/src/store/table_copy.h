// A table as it is at one version, or what changed of it, copied while others write to it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "fastinc/table.h"
#include "store/lazy_memory.h"
#include "store/row_store.h"

namespace fastinc {

/// All rows, or those since a mark, are copied without a lock, each whole; then those written meanwhile,
/// again and again, until few are left. These are copied with writers kept out: what the copy is then is the
/// table at that version.
class TableCopy {
 public:
  /// Throws std::bad_alloc, as all that follows.
  /// removes = false: no row ever goes, so that a change is never whole for want of the log.
  explicit TableCopy(const RowStore& store, const std::optional<TableMark>& since = {}, bool removes = true);

  /// Copy what was written and removed since the last time, or all there is. Returns how many rows it was.
  std::size_t catch_up();
  /// Catch up until few rows are left.
  void follow();
  /// The rest, while the caller keeps writers out.
  void finish();

  /// After finish(), once: rows in slot order.
  TableChange take();

 private:
  /// Where a slot's row is in the copy, once it was read.
  class Places {
   public:
    /// Places of so many slots.
    void grow(std::size_t slots);
    std::uint32_t& operator[](Slot slot) { return static_cast<std::uint32_t*>(memory_.data())[slot]; }

   private:
    LazyMemory memory_;  // 0: not read; only what was read takes room
    std::size_t slots_ = 0;
  };

  void start_again(std::uint64_t epoch);
  bool list_changed(std::uint64_t until, std::vector<Slot>& written,
                    std::vector<std::int64_t>& removed) const;
  void make_room(std::span<const Slot> written);
  void read(std::size_t place);
  void note_removed(std::span<const std::int64_t> ids);
  bool is_kept(std::size_t place) const;
  void finish_bounds();
  void sort_rows();

  const RowStore& store_;
  const std::size_t floats_;  // of a row's state
  const bool removes_;
  bool started_ = false, whole_ = true;
  std::uint64_t epoch_ = 0;
  Places places_;
  TableState state_;  // rows in the order of their first reading; a row version of 0: the slot holds none
  std::vector<Slot> slots_;  // whose rows these are
  /// Where ids that were removed meanwhile have a row again, or kNoSlot: slots that they had may still hold
  /// it.
  std::unordered_map<std::int64_t, Slot> removed_;
};

}  // namespace fastinc
