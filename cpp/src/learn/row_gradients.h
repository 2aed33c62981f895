// What a group of events adds up to for each row of a table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cpu/kernels.h"

namespace fastinc {

/// Terms by row: rows in order of their first term, the terms of each in the order they were added.
class RowGradients {
 public:
  /// Room for rows 0 .. rows - 1 and so many terms: what follows can't fail.
  void reserve(std::size_t rows, std::size_t terms);
  void start();
  void add(std::uint32_t row, GradientTerm term) {
    Place& place = places_[row];
    if (place.group != group_) {
      place = {group_, static_cast<std::uint32_t>(row_count_)};
      rows_[row_count_] = row;
      counts_[row_count_++] = 0;
    }
    ++counts_[place.index];
    added_[term_count_++] = {place.index, term};
  }
  /// After the last add().
  void finish();

  std::span<const std::uint32_t> rows() const { return {rows_.data(), row_count_}; }
  const std::uint32_t* starts() const { return starts_.data(); }
  const GradientTerm* terms() const { return terms_.data(); }
  std::size_t bytes() const;

 private:
  struct Place {
    std::uint32_t group = 0, index = 0;
  };
  struct Added {
    std::uint32_t index;
    GradientTerm term;
  };

  std::vector<Place> places_;  // by row: where it is in rows_, if group is group_
  std::uint32_t group_ = 0;
  std::size_t row_count_ = 0, term_count_ = 0;
  std::vector<std::uint32_t> rows_, counts_, starts_;  // the first row_count_ count
  std::vector<Added> added_;                           // the first term_count_ count
  std::vector<GradientTerm> terms_;
};

}  // namespace fastinc
