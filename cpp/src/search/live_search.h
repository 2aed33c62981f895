// One request to a LiveBase.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cpu/kernels.h"
#include "fastinc/live_base.h"
#include "search/candidates.h"
#include "search/code_hits.h"
#include "search/code_queries.h"
#include "search/lists.h"
#include "search/row_scores.h"
#include "search/row_search.h"
#include "search/table_codes.h"
#include "store/row_store.h"

namespace fastinc {

/// Rows by list: those of list l are slots[starts[l]] .. slots[starts[l + 1] - 1].
struct LiveBase::Folded {
  std::uint64_t version;
  std::vector<std::size_t> starts;  // (lists + 2,)
  std::vector<Slot> slots;
};

/// Slots written at the versions (since, until], ascending and distinct. Some may hold no row any more.
struct LoggedSlots {
  std::vector<Slot> slots;
  std::size_t writes = 0;  // that were looked through
  LoggedSlots(const RowStore& store, std::uint64_t since, std::uint64_t until);
};

/// A set of slots that is quick to say no.
class SlotSet {
 public:
  /// slots: ascending and distinct; they must outlive this.
  explicit SlotSet(std::span<const Slot> slots);

  bool has(Slot slot) const {
    return !slots_.empty() && bits_[place(slot)] && std::binary_search(slots_.begin(), slots_.end(), slot);
  }

 private:
  std::size_t place(Slot slot) const { return slot * 0x9e3779b97f4a7c15u >> shift_; }

  std::span<const Slot> slots_;
  unsigned shift_ = 63;
  std::vector<bool> bits_;
};

/// What the index names is scored. Of the rows written since, those are scored that by the bounds of their
/// codes may be among the best then. Rows are named by their slots: whose they are by now is seen when they
/// are scored.
class LiveBase::Search {
 public:
  Search(const LiveBase& base, const SearchRequest& request, const IndexAnswer& index);

  LiveState state() const;
  /// scores, ids: (n, k)
  void run(float* scores, std::int64_t* ids);

 private:
  struct Possible {
    float upper;  // what it may rank at most
    Slot slot;
    bool operator<(const Possible& other) const { return upper < other.upper; }
  };
  /// Of a query on its way.
  struct Answer {
    std::vector<Slot> own;  // fresh rows that are candidates of this query, each once and none unfolded
    std::vector<Possible> possible;  // own and unfolded ones that may be among the best
    std::vector<Candidate> best;     // the `found` best so far; k of them are sorted
    std::size_t found = 0;
  };
  struct Worker {
    std::vector<Answer> answers;  // of queries that go on together
    std::vector<Slot> named;
    std::vector<const std::uint8_t*> codes;
    std::vector<CodeQuery> queries;
    std::vector<ScanLine> columns, dots;
    CodeHitStore hits;
    TableCodes::Scratch scratch;
    std::size_t lacking = 0, named_count = 0, kept_count = 0;
  };

  /// Whether a row of this version is among the folded and unfolded ones.
  bool is_listed(std::uint64_t version) const { return version > base_.version_ && version <= version_; }
  /// Rows that a query may have as candidates, beside those that the index names.
  std::size_t fresh_count(std::size_t q) const;
  template <class Add>
  void for_each_folded(std::size_t q, Add add) const;
  Worker make_worker(std::size_t together, std::size_t longest, std::size_t k) const;
  void answer(std::size_t begin, std::size_t end, std::size_t k, Worker& worker) const noexcept;
  std::size_t list_named(std::size_t q, Worker& worker, Answer& answer) const;
  void list_own(std::size_t q, Answer& answer) const;
  void find_possible(std::size_t begin, std::size_t end, std::size_t k, Worker& worker) const;
  template <class SlotOf>
  void scan(std::size_t first, std::size_t count, SlotOf slot_of, std::size_t n, Worker& worker) const;
  void score_possible(std::size_t q, std::size_t k, Answer& answer, TableCodes::Scratch& scratch) const;
  void score(std::size_t q, std::size_t k, Slot* slots, std::size_t n, Answer& answer,
             TableCodes::Scratch& scratch) const;
  std::vector<Candidate> answer_wider(std::size_t q, std::size_t k) const;

  const LiveBase& base_;
  const RowStore& store_;
  const Kernels& kernel_;
  const SearchRequest& request_;
  const IndexAnswer& index_;
  const std::shared_ptr<const Folded> folded_;
  const std::uint64_t version_;
  const LoggedSlots logged_;
  const std::vector<Slot>& unfolded_;
  const SlotSet is_unfolded_;
  const RowFilter filter_;
  const RowScores scores_;
  const RowSearch rows_;
  const std::vector<std::size_t> numbers_;
  TableCodes codes_;
  std::optional<CodedQueries> coded_;  // none where there is nothing to scan
  std::size_t lacking_ = 0, named_ = 0, kept_ = 0;
};

}  // namespace fastinc
