// The table's side of an approximate index over it: what the index returns, and what was written since it was
// built, become one answer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "fastinc/exact_search.h"
#include "fastinc/table.h"

namespace fastinc {

/// A table's rows, ids ascending, each as of `version` or newer: what an approximate index is built from.
struct RowsAtVersion {
  std::uint64_t version = 0;
  std::uint64_t epoch = 0;        // of the table: another one's versions don't compare
  std::vector<std::int64_t> ids;  // (rows,)
  std::vector<float> weights;     // (rows, dim)
};
RowsAtVersion rows_at_version(const Table& table);

/// What an index says of the queries of a SearchRequest.
struct IndexAnswer {
  const std::int64_t* positions = nullptr;  // (n, asked) in the index, -1 for none
  std::size_t asked = 0;
  const std::int64_t* lists = nullptr;  // (n, probed) lists looked at, -1 for none; null: all
  std::size_t probed = 0;
};

struct LiveState {
  std::uint64_t version = 0;   // as exact_search() returns it
  std::size_t changed = 0;     // rows written or removed since the index was built, about
  std::size_t unfolded = 0;    // of those written, in no list yet
  std::size_t logged = 0;      // writes since the last fold(), which every search goes through
  std::size_t everywhere = 0;  // rows that are candidates of every query
  std::size_t lacking = 0;     // queries for which the index named less than k rows that count, but has more
  double kept = 1.0;           // share of the rows named that are as they were
  bool outdated = false;       // the table was set to another state: the index knows nothing of it
};

/// Rows written since the index was built are of one of two kinds. Those written since the last fold() are
/// candidates of every query; fold() puts them into the index's lists, from where a query gets those of the
/// lists it looks at. A row of the index that was written or removed since counts as fresh, or for nothing.
/// The table must outlive this.
class LiveBase {
 public:
  /// ids: (rows,) in the order of the index; beyond the first `count` those that are not in it, candidates of
  /// every query. version, epoch: of the rows. lists: how many the index has, 0 for none
  LiveBase(const Table& table, std::span<const std::int64_t> ids, std::size_t count, std::uint64_t version,
           std::uint64_t epoch, std::size_t lists);
  ~LiveBase();
  LiveBase(const LiveBase&) = delete;
  LiveBase& operator=(const LiveBase&) = delete;

  std::size_t dim() const;
  std::size_t rows() const { return slots_.size(); }

  /// As exact_search(), among the rows the index names and the fresh ones. A row that the index names counts
  /// if it is as it was, not excluded and allowed. A query's positions are distinct, and so are its lists.
  LiveState search(const SearchRequest& request, const IndexAnswer& index, float* scores,
                   std::int64_t* ids) const;

  /// Rows written since the last fold(), as of `version` or newer.
  struct Unfolded {
    std::uint64_t version = 0;
    std::vector<std::uint32_t> slots;  // (rows,)
    std::vector<float> weights;        // (rows, dim)
  };
  Unfolded unfolded() const;
  std::size_t count_unfolded() const;
  /// Writes since the last fold(), repeats and removed rows included; more than that if the log doesn't tell.
  std::size_t count_logged() const;
  /// Rows that are candidates of every query.
  std::size_t count_everywhere() const;
  /// The table was set to another state.
  bool outdated() const;

  /// Put these rows into lists; list number `lists` is looked at for every query. One thread at a time.
  /// Throws std::invalid_argument, unchanged.
  ///   slots, lists: (rows,)
  void fold(std::span<const std::uint32_t> slots, std::span<const std::int64_t> lists, std::uint64_t version);

  /// Rows written after the index was built, counted one by one.
  std::size_t count_fresh() const;

  /// Bytes that this takes.
  std::size_t bytes() const;

 private:
  struct Folded;
  class Search;

  std::shared_ptr<const Folded> folded() const;

  const RowStore& store_;
  const std::size_t count_, lists_;
  const std::uint64_t version_, epoch_;
  std::vector<std::uint32_t> slots_;  // by position
  mutable std::mutex mutex_;          // of folded_ itself, not of what it points to
  std::shared_ptr<const Folded> folded_;
};

}  // namespace fastinc
