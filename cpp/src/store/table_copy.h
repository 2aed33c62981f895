// A table as it is at one version, or what changed of it, copied while others write to it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "fastinc/table.h"
#include "store/lazy_memory.h"
#include "store/row_store.h"

namespace fastinc {

/// First the rows to copy are listed, those of a moment for which writers are kept out. From then on a writer
/// that is the first to change one of them since copies it (copy on write), and copy() copies the others:
/// the copy is the table at that moment, however fast others write.
class TableCopy {
 public:
  /// All rows, or what changed since a mark. removes = false: no row ever goes, so that a change is never
  /// whole for want of the log. Throws std::bad_alloc, as what follows.
  explicit TableCopy(const RowStore& store, const std::optional<TableMark>& since = {}, bool removes = true);
  ~TableCopy();
  TableCopy(const TableCopy&) = delete;
  TableCopy& operator=(const TableCopy&) = delete;

  /// List most of the rows.
  void prepare();
  /// List the rest, while the caller keeps writers out: the copy is of this moment.
  void begin();
  /// Copy what writers didn't.
  void copy();
  /// After copy(), once: rows in slot order. The caller doesn't keep writers out.
  TableChange take();

  /// Called by the store's writers, before they change a row that begin() may have listed.
  void keep(std::span<const Slot> slots) noexcept;
  /// All of them, because versions begin anew: nothing is to be copied any more.
  void keep_all() noexcept;

 private:
  /// By slot: 1 + where its row is in the copy, or 0. Only what was listed takes room.
  class Places {
   public:
    void grow(std::size_t slots);
    std::uint32_t& operator[](Slot slot) { return static_cast<std::uint32_t*>(memory_.data())[slot]; }
    std::size_t size() const { return slots_; }

   private:
    LazyMemory memory_;
    std::size_t slots_ = 0;
  };

  void make_room(std::size_t rows);
  void keep(Slot slot) noexcept;
  std::size_t list();
  bool list_changed(std::uint64_t until, std::vector<Slot>& written);
  void start_again(std::uint64_t epoch);
  void begin_bounds();
  void end();
  void read(std::size_t place);
  void sort_rows();

  const RowStore& store_;
  const std::size_t floats_;  // of a row's state
  const bool removes_;
  bool started_ = false, whole_ = true, installed_ = false;
  std::atomic<bool> complete_{false};  // all rows are kept
  std::uint64_t epoch_ = 0;
  Places places_;
  std::vector<Slot> slots_;            // listed, by place
  std::vector<std::int64_t> removed_;  // ids, perhaps back by now
  TableState state_;        // by place; a row version of 0: there was no row, or it isn't copied yet
  std::vector<float> row_;  // scratch
};

}  // namespace fastinc
