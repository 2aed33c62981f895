// A table's int8 rows, searched for what its float32 rows score.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cpu/kernels.h"
#include "search/code_search.h"
#include "search/lists.h"
#include "search/row_scores.h"
#include "store/row_store.h"

namespace fastinc {

/// What CodeSearch asks of rows; see there.
class TableCodes {
 public:
  TableCodes(const RowStore& store, const RowScores& scores, const RowFilter& filter, std::size_t slots)
      : store_(store), scores_(scores), filter_(filter), slots_(slots) {}

  /// Query q of a search is query number(q) of the request.
  void set_queries(std::span<const std::size_t> numbers) { numbers_ = numbers; }

  struct Scratch {
    RowScores::Block block;
    std::unique_ptr<float[]> rows;
  };
  Scratch make_scratch() const;

  std::size_t size() const { return slots_; }
  std::size_t dim() const { return store_.dim(); }
  CodeScan chunk(std::size_t at, std::size_t end) const;
  bool is_filtered(std::size_t q) const {
    return filter_.allowed.has_value() || !filter_.excluded_slots.of(numbers_[q]).empty();
  }
  bool skips(std::size_t q, Slot slot) const;
  std::size_t score(std::size_t q, Slot* slots, std::size_t n, Candidate* out, Scratch& scratch) const;

 private:
  const RowStore& store_;
  const RowScores& scores_;
  const RowFilter& filter_;
  std::size_t slots_;
  std::span<const std::size_t> numbers_;
};

}  // namespace fastinc
