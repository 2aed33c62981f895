// Where rows of a table are pulled to while they learn.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cpu/kernels.h"
#include "fastinc/recommender.h"

namespace fastinc {

class RowStore;

/// A copy of rows: as they were once, or as they were given. Rows that aren't in it have no anchor.
class Anchors {
 public:
  explicit Anchors(std::size_t dim) : dim_(dim) {}
  /// The rows 0 .. count - 1 of a table, as they are. Throws std::bad_alloc.
  Anchors(const RowStore& store, std::size_t count);
  /// What export_state() returned. Throws std::invalid_argument where it isn't of a table of so many rows.
  Anchors(const AnchorState& state, std::size_t dim, std::size_t count);

  /// Room for anchors of these rows: set() can't fail then. Throws std::bad_alloc, unchanged.
  void reserve(std::span<const std::uint32_t> rows);
  /// values: (rows, dim)
  void set(std::span<const std::uint32_t> rows, const float* values) noexcept;
  /// Rows from begin to end - 1 have none any more.
  void drop(std::size_t begin, std::size_t end) noexcept;

  /// What the kernels take; valid until the next change.
  Anchoring view(float strength) const { return {places_.data(), places_.size(), values_.data(), strength}; }

  /// Another number for everything that these anchors ever were, and 0 where there never were any.
  std::uint64_t changes() const { return changes_; }

  AnchorState export_state() const;
  std::size_t bytes() const {
    return places_.capacity() * sizeof(std::uint32_t) + values_.capacity() * sizeof(float);
  }

 private:
  void count_change() noexcept;

  std::size_t dim_;
  std::uint64_t changes_ = 0;
  std::vector<std::uint32_t> places_;  // by row
  std::vector<float> values_;          // (anchors, dim)
};

}  // namespace fastinc
