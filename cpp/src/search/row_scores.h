// Float32 scores of a table's rows, which may be written meanwhile: they are scored from copies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/kernels.h"
#include "fastinc/metric.h"
#include "store/row_store.h"

namespace fastinc {

class RowScores {
 public:
  /// queries: (n, dim)
  RowScores(const RowStore& store, const Kernels& kernel, Metric metric, const float* queries, std::size_t n);

  static constexpr std::size_t kMostRows = 256;

  /// Rows of a block at most: their copies stay in the L2 cache.
  std::size_t block_rows() const { return block_rows_; }

  struct Block {
    std::size_t size = 0;
    Slot slots[kMostRows];
    std::int64_t ids[kMostRows];
    float norms[kMostRows];  // kCosine: 0 where the norm isn't safe
    float ranks[kMostRows];  // scores, negated for kL2
    float* rows = nullptr;   // (block_rows, dim)
  };

  /// Copy the rows of the slots from..from + n - 1, or of block.slots where there are `n` already. Slots that
  /// hold no row are left out.
  void load(Slot from, std::size_t n, Block& block) const;
  void load(std::size_t n, Block& block) const;

  /// block.ranks for a query; not a number where the row isn't.
  void score(std::size_t query, Block& block) const;

  const float* query(std::size_t q) const { return queries_ + q * store_.dim(); }

 private:
  const RowStore& store_;
  const Kernels& kernel_;
  const Metric metric_;
  const float* queries_;
  const std::size_t block_rows_;
  std::vector<float> query_norms_;
};

}  // namespace fastinc
