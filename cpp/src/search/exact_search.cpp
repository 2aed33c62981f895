#include "fastinc/exact_search.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "cpu/update.h"
#include "fastinc/runtime.h"
#include "search/candidates.h"
#include "search/code_search.h"
#include "search/lists.h"
#include "search/row_scores.h"
#include "search/row_search.h"
#include "search/table_codes.h"
#include "store/row_store.h"

namespace fastinc {
namespace {

constexpr std::size_t kLeastScanned = 512;  // slots below which scanning codes gains nothing
constexpr std::size_t kAllowedShare = 16;   // of the slots: a list of fewer is scored row by row

/// One request.
class Search {
 public:
  Search(const RowStore& store, const SearchRequest& request);

  std::uint64_t version() const { return version_; }
  void run(float* scores, std::int64_t* ids);

 private:
  SlotLists allow(const IdLists& allowed);
  void filter_slots();
  void scan_codes(float* scores, std::int64_t* ids);
  void scan_codes(std::span<const std::size_t> numbers, std::span<const float> floors, float* scores,
                  std::int64_t* ids, std::vector<float>& reached);

  const RowStore& store_;
  const SearchRequest& request_;
  const Kernels& kernel_;
  const std::uint64_t version_;
  const std::size_t slots_;  // there were, when the search began
  const RowScores scores_;
  RowFilter filter_;
  RowSearch rows_;
  SlotLists lists_;
};

Search::Search(const RowStore& store, const SearchRequest& request)
    : store_(store),
      request_(request),
      kernel_(kernels()),
      version_(store.version()),
      slots_(store.slot_count()),
      scores_(store, kernel_, request.metric, request.queries, request.n),
      filter_(make_filter(request.exclude, request.allow)),
      rows_(store, scores_, filter_, request.metric, request.k, version_) {
  lists_.shared_count = slots_;
  if (request.allow) lists_ = allow(*request.allow);
}

/// Few rows are scored one by one; many are what a pass over all may leave. Their slots' rows may be others'
/// by now: ids say what is allowed.
SlotLists Search::allow(const IdLists& allowed) {
  filter_.allowed_slots = make_lists<Slot>(allowed, [&](std::int64_t id, std::vector<Slot>& out) {
    if (const Slot slot = store_.find(id); slot != kNoSlot) out.push_back(slot);
  });
  const Lists<Slot>& slots = filter_.allowed_slots;
  const std::size_t lists = slots.shared() ? 1 : request_.n;
  if (slots.values.size() > slots_ / kAllowedShare * lists) return {.shared_count = slots_};
  if (!slots.shared()) return {.own = &slots};
  return {.shared = slots.values.data(), .shared_count = slots.values.size()};
}

/// Most rows that are filtered out are known by their slots.
void Search::filter_slots() {
  filter_.excluded_slots = make_lists<Slot>(request_.exclude, [&](std::int64_t id, std::vector<Slot>& out) {
    if (const Slot slot = store_.find(id); slot != kNoSlot) out.push_back(slot);
  });
  if (!filter_.allowed || !filter_.allowed_slots.shared()) return;
  filter_.allowed_in.resize(slots_);
  for (const Slot slot : filter_.allowed_slots.values) {
    if (slot < slots_) filter_.allowed_in[slot] = true;
  }
}

/// Queries by the bounds that int8 rows give. reached: for each, the rank of its k-th row if rows changed so
/// that one left out may be better, else not a number.
void Search::scan_codes(std::span<const std::size_t> numbers, std::span<const float> floors, float* scores,
                        std::int64_t* ids, std::vector<float>& reached) {
  const std::size_t dim = store_.dim(), k = request_.k;
  std::vector<float> queries(numbers.size() * dim);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    std::copy_n(scores_.query(numbers[i]), dim, queries.data() + i * dim);
  }
  const CodedQueries coded(kernel_, queries.data(), numbers.size(), dim, request_.metric, true);
  TableCodes codes(store_, scores_, filter_, slots_);
  codes.set_queries(numbers);
  CodeSearch<TableCodes> search(kernel_, codes, coded, request_.metric, k, floors);
  std::vector<Candidate> held(k * numbers.size());
  std::vector<CodeSearchAnswer> answers(numbers.size());
  search.scan();
  parallel_parts(numbers.size(), search.shares(),
                 [&](std::size_t begin, std::size_t end, std::size_t share) noexcept {
                   for (std::size_t i = begin; i < end; ++i) {
                     answers[i] = search.answer(i, share, held.data() + i * k);
                   }
                 });
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    Candidate* const best = held.data() + i * k;
    const std::size_t met = answers[i].size;
    const float last = met == k ? best[k - 1].rank : -std::numeric_limits<float>::infinity();
    const std::size_t size = rows_.drop_repeats(best, met);
    reached[i] = answers[i].is_whole && size == met ? std::numeric_limits<float>::quiet_NaN() : last;
    rows_.write(numbers[i], best, size, scores, ids);
  }
}

void Search::scan_codes(float* scores, std::int64_t* ids) {
  const std::size_t block = queries_together<TableCodes>(request_.k);
  std::vector<std::size_t> numbers;
  std::vector<float> reached, floors;
  for (std::size_t first = 0; first < request_.n; first += block) {
    numbers.resize(std::min(block, request_.n - first));
    std::iota(numbers.begin(), numbers.end(), first);
    floors.clear();
    // A row's codes may lag behind its weights while a learner is at work on it: what the rows at hand score
    // then, and not their bounds, tells which others may be as good.
    for (int attempt = 0; attempt < 2 && !numbers.empty(); ++attempt) {
      reached.resize(numbers.size());
      scan_codes(numbers, floors, scores, ids, reached);
      floors.clear();
      std::size_t left = 0;
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        if (reached[i] != reached[i]) continue;
        numbers[left++] = numbers[i];
        floors.push_back(reached[i]);
      }
      numbers.resize(left);
    }
    for (const std::size_t q : numbers) rows_.run(lists_, q, q + 1, scores, ids);
  }
}

void Search::run(float* scores, std::int64_t* ids) {
  const bool every_row = lists_.shared == nullptr && lists_.own == nullptr;
  const std::size_t most = request_.metric == Metric::kIp ? kMostScanDim : kMostSquaresDim;
  if (every_row && slots_ >= kLeastScanned && request_.k <= slots_ / 4 && store_.dim() <= most) {
    filter_slots();
    scan_codes(scores, ids);
  } else {
    rows_.run(lists_, 0, request_.n, scores, ids);
  }
}

}  // namespace

std::uint64_t exact_search(const Table& table, const SearchRequest& request, float* scores,
                           std::int64_t* ids) {
  check_request(request, table.dim());
  table.keep_codes();
  Search search(table.store(), request);
  search.run(scores, ids);
  return search.version();
}

}  // namespace fastinc
