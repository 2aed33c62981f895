// Where a table's rows are: pages of rows, the index from id to slot, and the change log.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "cpu/rows.h"
#include "fastinc/initializer.h"
#include "fastinc/optimizer.h"
#include "fastinc/shared_mutex.h"
#include "store/bounds.h"
#include "store/change_log.h"
#include "store/id_index.h"
#include "store/pages.h"
#include "store/slot.h"

namespace fastinc {

struct Kernels;
class TableCopy;

/// Writers hold `mutex` exclusively, and so there is one at a time. What is marked "any thread" needs no
/// lock: pages and index entries stay where they are, and a row's header tells if what was read is one state
/// of it. Holding `mutex` shared keeps writers out, for who needs the rows of one version.
class RowStore {
 public:
  RowStore(std::size_t dim, std::shared_ptr<Optimizer> optimizer, const Initializer& init,
           const TableBounds& bounds);
  RowStore(const RowStore&) = delete;
  RowStore& operator=(const RowStore&) = delete;

  mutable SharedMutex mutex;

  // --- any thread ---
  std::size_t dim() const { return rows_.dim; }
  const Optimizer& optimizer() const { return *optimizer_; }
  const Initializer& initializer() const { return init_; }
  const StateShape& state_shape() const { return optimizer_->shape(); }
  std::size_t size() const { return size_.load(std::memory_order_acquire); }
  /// Slots handed out so far, free ones included: row numbers in rows() are below it.
  std::size_t slot_count() const { return slot_count_.load(std::memory_order_acquire); }
  std::uint64_t version() const { return version_.load(std::memory_order_acquire); }
  /// Counts the states that the table was set to: versions of one say nothing of another's.
  std::uint64_t epoch() const { return epoch_.load(std::memory_order_acquire); }
  /// Pages and strides for the kernels.
  const RowSet& rows() const { return rows_; }
  const ChangeLog& changes() const { return changes_; }
  const Bounds* bounds() const { return bounds_.get(); }
  const IdIndex& index() const { return index_; }

  Slot find(std::int64_t id) const { return find(id, index_.hash(id)); }
  Slot find(std::int64_t id, std::uint64_t hash) const {
    return index_.find(hash, [&](Slot slot) { return this->id(slot) == id; });
  }
  /// find() for many. ids: (n,) -> slots: (n,)
  void find(std::span<const std::int64_t> ids, Slot* slots) const;

  float* weights(Slot slot) const { return row_pointer(rows_, rows_.weights, slot); }
  float* state(Slot slot) const { return weights(slot) + dim(); }
  bool has_codes() const { return has_codes_.load(std::memory_order_acquire); }
  /// Where has_codes().
  std::uint8_t* codes(Slot slot) const { return code_pointer(rows_, slot); }
  RowHeader* header(Slot slot) const { return header_of(weights(slot)); }
  std::int64_t id(Slot slot) const { return load_id(header(slot)); }
  void prefetch_row(Slot slot) const {
    prefetch_lines(header(slot), sizeof(RowHeader) + dim() * sizeof(float));
  }
  void prefetch_id(Slot slot) const { __builtin_prefetch(header(slot)); }
  /// 0 where the slot holds no row.
  std::uint64_t row_version(Slot slot) const {
    const std::uint64_t stamp = load_stamp(header(slot));
    return (stamp & kLive) != 0 ? version_of(stamp) : 0;
  }

  /// Whole rows of ids, start rows where there are none; returns how many had one. read_codes(): where
  /// has_codes().
  ///   ids: (n,) -> out: (n, dim), or (n, dim + 8) int8 copies
  std::size_t read(std::span<const std::int64_t> ids, float* out) const;
  std::size_t read_codes(std::span<const std::int64_t> ids, std::uint8_t* out) const;
  /// read() on this thread alone.
  std::size_t read_here(std::span<const std::int64_t> ids, float* out) const;
  /// Whose row is in a slot, and of which version: 0 where there is none.
  std::pair<std::int64_t, std::uint64_t> read_header(Slot slot) const;

  // --- writers ---

  Bounds* bounds() { return bounds_.get(); }

  /// Have an int8 copy of every row, in step with it from now on. Throws std::bad_alloc, unchanged.
  void keep_codes();

  /// What expire() needs to give up `most` rows at most, after create() has evicted `others`. Every batch
  /// begins with it. Returns how many it may be. Throws std::bad_alloc.
  std::size_t reserve_expire(std::size_t most, std::size_t others);
  /// Give up rows whose time is over. Every batch ends with it: its own rows stay. They are in evicted().
  void expire(std::uint64_t version) noexcept;

  /// Create rows for the ids that find() knew none for, in the place of others where the table is full: start
  /// values, not to be seen by readers until a step, publish() or set_row(). On failure no row was made,
  /// though some may have gone: commit evicted(). ids: (n,), slots: (n,) in and out
  void create(std::span<const std::int64_t> ids, Slot* slots, std::uint64_t version);

  /// find() and create() where there are no bounds. ids: (n,) -> slots: (n,)
  void find_or_create(std::span<const std::int64_t> ids, Slot* slots) {
    find(ids, slots);
    create(ids, slots, version() + 1);
  }

  /// Ids whose rows the batch at hand has given up, for commit().
  std::span<const std::int64_t> evicted() const { return evicted_; }
  /// Whether the batch at hand has marked or given up rows, so that its version is used up.
  bool unfinished() const { return unfinished_; }

  /// Allocate pages for new rows ahead of find_or_create().
  void reserve_rows(std::size_t new_rows) { reserve_pages(new_rows); }

  /// Rows of these ids are in these slots from here on, each once, and only free_slots are free: what was
  /// there before, or had one of the ids elsewhere, is gone. Not to be seen by readers until set_row().
  /// Throws std::bad_alloc.
  void place(std::span<const std::int64_t> ids, std::span<const Slot> slots, std::span<const Slot> free_slots,
             std::uint64_t version);
  /// Slots without a row, the next one to be used last.
  std::span<const Slot> free_slots() const { return free_; }

  /// What commit() needs for this many rows. Throws std::bad_alloc, unchanged.
  void reserve_commit(std::size_t written, std::size_t removed);

  /// These rows are about to change: copies that are being made have them as they are. Slots may repeat, or
  /// be kNoSlot. What else changes or removes rows does so itself.
  void preserve(std::span<const Slot> slots) noexcept {
    if (!copies_.empty()) preserve_all(slots);
  }
  /// A copy of this version that rows are kept for, from now on or no longer.
  void note_copy(TableCopy* copy) const { copies_.push_back(copy); }
  void forget_copy(TableCopy* copy) const { std::erase(copies_, copy); }

  /// Set a row as it is; state null: fresh. weights: (dim,), state: (floats,)
  void set_row(Slot slot, const float* weights, const float* state, std::uint64_t version);

  /// Bring int8 copies and versions of these rows up to date, and show new ones to readers.
  void publish(std::span<const Slot> slots, std::uint64_t version);

  /// Make `version`, the one after version(), the table's: the batch is complete, and evicted() empty.
  /// written may repeat.
  void commit(std::uint64_t version, std::span<const Slot> written,
              std::span<const std::int64_t> removed = {}) noexcept;

  /// The same for a batch that came to nothing after it had marked or given up rows.
  void commit_unfinished(std::uint64_t version) noexcept;

  /// Returns the ids that had a row, each once, for commit().
  std::vector<std::int64_t> remove(std::span<const std::int64_t> ids, std::uint64_t version);

  /// No row, for the rows of this version to come. Memory is kept.
  void clear(std::uint64_t version);
  /// The rows are those of this version, and what came before is forgotten.
  void restart(std::uint64_t version);

  struct Counters {
    std::atomic<std::uint64_t> inserts{0}, removes{0}, evictions{0}, skipped{0}, hits{0}, misses{0};
  };
  mutable Counters counters;

  struct Bytes {
    std::size_t weights, state, codes, headers, index, change_log, eviction, admission;
  };
  Bytes bytes() const;

 private:
  void preserve_all(std::span<const Slot> slots) noexcept;
  void reserve_pages(std::size_t new_rows);
  void reserve_slots(std::size_t count);
  void reserve_free(std::size_t more);
  void touch(const Slot* slots, std::size_t n, std::uint64_t version) noexcept;
  void evict(Slot slot, std::uint64_t version) noexcept;
  void insert_unknown(std::span<const std::int64_t> ids, Slot* slots, std::uint64_t version);
  Slot take_slot();
  void free_slot(Slot slot, std::uint64_t version) noexcept;
  void finish(std::uint64_t version) noexcept;
  void retire(Slot slot, std::uint64_t version);
  void quantize(const Kernels& kernel, Slot slot);
  static void prefetch_lines(const void* from, std::size_t bytes) {
    const auto begin = reinterpret_cast<std::uintptr_t>(from);
    for (std::uintptr_t line = begin & ~std::uintptr_t{63}; line < begin + bytes; line += 64) {
      __builtin_prefetch(reinterpret_cast<const void*>(line));
    }
  }
  template <class Fetch, class Read, class Retry>
  void for_each_run(std::span<const std::int64_t> ids, Fetch fetch, Read read, Retry retry) const;
  template <class T, class Kernel, class Start>
  std::size_t read_block(std::span<const std::int64_t> ids, Kernel kernel, Start start, std::size_t width,
                         T* out) const;
  template <class T, class Kernel, class Start>
  bool read_one(std::int64_t id, std::uint64_t hash, Kernel kernel, Start start, T* out) const;

  std::shared_ptr<Optimizer> optimizer_;
  Initializer init_;
  std::size_t stride_;  // floats a row takes, header included
  RowSet rows_;
  Pages<float> row_pages_;
  Pages<std::uint8_t> code_pages_;
  IdIndex index_;
  ChangeLog changes_;
  std::vector<Slot> free_;
  std::unique_ptr<Bounds> bounds_;  // null: none
  std::vector<Slot> created_;       // of the batch at hand
  std::vector<std::int64_t> evicted_;
  std::size_t most_expired_ = 0;
  mutable std::vector<TableCopy*> copies_;  // being made
  bool unfinished_ = false;
  std::atomic<bool> has_codes_{false};  // for readers; writers see rows_
  std::atomic<std::size_t> size_{0}, slot_count_{0}, free_bytes_{0};
  std::atomic<std::uint64_t> version_{0}, epoch_{0};
};

}  // namespace fastinc
