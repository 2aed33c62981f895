// A table as it is at one version, copied while others write to it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "fastinc/table.h"
#include "store/row_store.h"

namespace fastinc {

/// All rows are copied without a lock, each whole; then those written meanwhile, again and again, until few
/// are left. These are copied with writers kept out: what the copy is then is the table at that version.
class TableCopy {
 public:
  /// Throws std::bad_alloc, as all that follows.
  explicit TableCopy(const RowStore& store);

  /// Copy what was written and removed since the last time, or all there is. Returns how many rows it was.
  std::size_t catch_up();
  /// Catch up until few rows are left.
  void follow();
  /// The rest, while the caller keeps writers out.
  void finish();

  /// After finish(), once: everything of the table, rows in slot order.
  TableState take();

 private:
  void start_again(std::uint64_t epoch);
  void grow(std::size_t slots);
  void read(Slot slot);
  void note_removed(std::span<const std::int64_t> ids);
  bool is_kept(std::size_t slot) const;

  const RowStore& store_;
  const std::size_t floats_;  // of a row's state
  std::uint64_t epoch_ = 0;
  bool started_ = false;
  // By slot until take(); a row version of 0: it held no row.
  TableState state_;
  /// Where ids that were removed meanwhile have a row again, or kNoSlot: slots that they had may still hold
  /// it.
  std::unordered_map<std::int64_t, Slot> removed_;
};

}  // namespace fastinc
