// Top-k by the float32 scores of rows that are looked at one by one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "fastinc/metric.h"
#include "search/candidates.h"
#include "search/lists.h"
#include "search/row_scores.h"
#include "store/row_store.h"

namespace fastinc {

/// The rows that are looked at: some for every query, and for each query a list of its own.
struct SlotLists {
  const Slot* shared = nullptr;  // (shared_count,); null: slots 0 .. shared_count - 1
  std::size_t shared_count = 0;
  const Lists<Slot>* own = nullptr;  // null: none
};

/// For one request. Rows may be written meanwhile: they are scored from copies.
class RowSearch {
 public:
  /// version: of the table, when the search began
  RowSearch(const RowStore& store, const RowScores& scores, const RowFilter& filter, Metric metric,
            std::size_t k, std::uint64_t version)
      : store_(store), scores_(scores), filter_(filter), metric_(metric), k_(k), version_(version) {}

  /// Answer queries [first, last). scores, ids: (n, k)
  void run(const SlotLists& lists, std::size_t first, std::size_t last, float* scores, std::int64_t* ids);

  /// Sort, and name an id once that was met twice because it went and came back meanwhile. Returns how many
  /// are left.
  std::size_t drop_repeats(Candidate* best, std::size_t size) const;

  /// Query q's row of an answer.
  void write(std::size_t q, const Candidate* best, std::size_t size, float* scores, std::int64_t* ids) const;

 private:
  using Block = RowScores::Block;

  void answer(const SlotLists& lists, std::size_t first, std::size_t last, std::size_t threads, Best* best);
  std::vector<Candidate> run_wider(const SlotLists& lists, std::size_t q, std::size_t k);
  void scan(const Slot* slots, std::size_t begin, std::size_t end, std::size_t first, std::size_t last,
            Best* best, float* rows) const;
  void select(std::size_t q, const Block& block, Best& best) const;

  const RowStore& store_;
  const RowScores& scores_;
  const RowFilter& filter_;
  const Metric metric_;
  const std::size_t k_;
  const std::uint64_t version_;
  std::vector<float> row_copies_;
};

}  // namespace fastinc
