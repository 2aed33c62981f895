// Where a table's rows are: pages of rows, the map from id to slot, versions, and which ids are gone.
#pragma once

#include <boost/unordered/unordered_flat_map.hpp>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cpu/rows.h"
#include "fastinc/initializer.h"
#include "fastinc/optimizer.h"
#include "fastinc/shared_mutex.h"
#include "math/random.h"

namespace fastinc {

using Slot = std::uint32_t;
inline constexpr Slot kNoSlot = ~Slot{0};

/// boost's flat map mixes weak hashes itself; ids are mixed here so that it needn't (and so that runs are
/// repeatable).
struct IdHash {
  using is_avalanching = void;
  std::size_t operator()(std::int64_t id) const noexcept {
    return base::mix_bits(static_cast<std::uint64_t>(id));
  }
};

/// Not synchronised: callers hold `mutex`, shared to read and exclusive to write.
/// A slot whose version is 0 holds no row.
class RowStore {
 public:
  RowStore(std::size_t dim, std::shared_ptr<Optimizer> optimizer, const Initializer& init);
  RowStore(const RowStore&) = delete;
  RowStore& operator=(const RowStore&) = delete;

  mutable SharedMutex mutex;

  std::size_t dim() const { return dim_; }
  std::size_t size() const { return map_.size(); }
  /// Slots handed out so far, free ones included: row numbers in rows() are below it.
  std::size_t slot_count() const { return slot_count_; }
  std::uint64_t version() const { return version_; }
  const Optimizer& optimizer() const { return *optimizer_; }
  const Initializer& initializer() const { return init_; }
  const StateShape& state_shape() const { return optimizer_->shape(); }
  /// Pages and strides for the kernels; valid until rows are next created.
  const RowSet& rows() const { return rows_; }

  Slot find(std::int64_t id) const {
    const auto it = map_.find(id);
    return it == map_.end() ? kNoSlot : it->second;
  }
  float* weights(Slot slot) const { return row_pointer(rows_, rows_.weights, slot); }
  float* state(Slot slot) const { return weights(slot) + dim_; }
  std::uint8_t* codes(Slot slot) const {
    return code_pages_[slot >> rows_.page_shift] + (slot & rows_.page_mask) * (dim_ + 8);
  }
  std::int64_t id(Slot slot) const { return id_pages_[slot >> rows_.page_shift][slot & rows_.page_mask]; }
  std::uint64_t row_version(Slot slot) const {
    return version_pages_[slot >> rows_.page_shift][slot & rows_.page_mask];
  }

  /// Slots of all ids, creating rows where there are none. All or nothing: throws before it changes anything.
  /// Created rows carry `version`. ids: (n,) -> slots: (n,)
  void find_or_create(std::span<const std::int64_t> ids, std::uint64_t version, Slot* slots);

  /// Allocate pages and map entries for new rows ahead of find_or_create().
  void reserve_rows(std::size_t new_rows);

  /// Quantise the rows of these slots and stamp them with `version`.
  void publish(std::span<const Slot> slots, std::uint64_t version);
  /// Make `version` the table's version: the batch is complete.
  void set_version(std::uint64_t version) { version_ = version; }

  /// Returns how many ids had a row; they are logged as removed at `version`.
  std::size_t remove(std::span<const std::int64_t> ids, std::uint64_t version);

  void clear();
  void log_removal(std::int64_t id, std::uint64_t version) { removed_[id] = version; }

  struct Counters {
    std::uint64_t inserted = 0, removed = 0, skipped = 0;
  };
  Counters counters;

  using RemovedMap = boost::unordered_flat_map<std::int64_t, std::uint64_t, IdHash>;
  const RemovedMap& removed() const { return removed_; }

  struct Bytes {
    std::size_t weights, state, codes, ids, versions, map, removed;
  };
  Bytes bytes() const;

 private:
  struct Page {
    std::unique_ptr<float[]> rows;  // rows_per_page x (weights, element states, row states)
    std::unique_ptr<std::uint8_t[]> codes;
    std::unique_ptr<std::int64_t[]> ids;
    std::unique_ptr<std::uint64_t[]> versions;
  };
  std::size_t rows_per_page() const { return std::size_t{1} << rows_.page_shift; }
  void reserve_pages(std::size_t new_rows);
  void add_page();
  void point_rows_at_pages();
  Slot take_slot();

  std::size_t dim_;
  std::shared_ptr<Optimizer> optimizer_;
  Initializer init_;
  std::size_t stride_;  // floats a row takes
  RowSet rows_;
  std::vector<Page> pages_;
  std::vector<float*> float_pages_;
  std::vector<std::uint8_t*> code_pages_;
  std::vector<std::int64_t*> id_pages_;
  std::vector<std::uint64_t*> version_pages_;
  boost::unordered_flat_map<std::int64_t, Slot, IdHash> map_;
  RemovedMap removed_;
  std::vector<Slot> free_;
  std::size_t slot_count_ = 0;
  std::uint64_t version_ = 0;
};

}  // namespace fastinc
