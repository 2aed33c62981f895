#include "fastinc/exact_search.h"

#include <algorithm>
#include <cfloat>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "cpu/update.h"
#include "fastinc/runtime.h"
#include "search/candidates.h"
#include "search/code_search.h"
#include "search/lists.h"
#include "search/row_scores.h"
#include "search/table_codes.h"
#include "store/repeats.h"
#include "store/row_store.h"

namespace fastinc {
namespace {

constexpr std::size_t kQueryBlock = 64;     // queries answered in one pass over float32 rows
constexpr std::size_t kMaxHeld = 1u << 22;  // candidates held at once, by all threads
constexpr std::size_t kLeastScanned = 512;  // slots below which scanning codes gains nothing
constexpr std::size_t kAllowedShare = 16;   // of the slots: a list of fewer is scored row by row

/// One request. Rows may be written meanwhile: they are scored from copies.
class Search {
 public:
  Search(const RowStore& store, const SearchRequest& request);

  std::uint64_t version() const { return version_; }
  std::size_t fresh() const { return fresh_; }
  void run(float* scores, std::int64_t* ids, std::int64_t* found);

 private:
  using Block = RowScores::Block;

  void choose_rows();
  void filter_slots();
  void find_fresh(std::uint64_t since);
  std::size_t longest_list() const;
  void count_found(std::int64_t* found) const;
  void scan_codes(float* scores, std::int64_t* ids);
  void scan_codes(std::span<const std::size_t> numbers, std::span<const float> floors, float* scores,
                  std::int64_t* ids, std::vector<float>& reached);
  void scan_rows(std::size_t first, std::size_t last, float* scores, std::int64_t* ids);
  void answer_queries(std::size_t first, std::size_t last, std::size_t threads, Best* best);
  void scan(const Slot* slots, std::size_t begin, std::size_t end, std::size_t first, std::size_t last,
            Best* best, float* rows) const;
  void select(std::size_t q, const Block& block, Best& best) const;
  std::size_t drop_repeats(Candidate* best, std::size_t size) const;
  void write(const Candidate* best, std::size_t size, float* scores, std::int64_t* ids) const;

  const RowStore& store_;
  const SearchRequest& request_;
  const Kernels& kernel_;
  const std::uint64_t version_;
  const std::size_t slots_;  // there were, when the search began
  const RowScores scores_;
  RowFilter filter_;
  Lists<Slot> only_;
  std::vector<Slot> chosen_;
  bool every_row_ = false;
  std::size_t scanned_ = 0;  // slots scanned for every query
  std::size_t fresh_ = 0;
  std::vector<float> row_copies_;
};

Search::Search(const RowStore& store, const SearchRequest& request)
    : store_(store),
      request_(request),
      kernel_(kernels()),
      version_(store.version()),
      slots_(store.slot_count()),
      scores_(store, kernel_, request.metric, request.queries, request.n) {
  const auto keep = [](std::int64_t id, std::vector<std::int64_t>& out) { out.push_back(id); };
  filter_.excluded = make_lists<std::int64_t>(request.exclude, keep);
  // a slot's row may be another's by now: ids say what is allowed
  if (request.only && !request.since) filter_.allowed = make_lists<std::int64_t>(*request.only, keep);
  choose_rows();
}

void Search::choose_rows() {
  if (request_.since) find_fresh(*request_.since);
  fresh_ = chosen_.size();
  if (request_.only) {
    only_ = make_lists<Slot>(*request_.only, [&](std::int64_t id, std::vector<Slot>& out) {
      const Slot slot = store_.find(id);
      const auto fresh_end = chosen_.begin() + static_cast<std::ptrdiff_t>(fresh_);
      if (slot != kNoSlot && store_.row_version(slot) != 0 &&
          !std::binary_search(chosen_.begin(), fresh_end, slot)) {
        out.push_back(slot);
      }
    });
  }
  const bool few =
      only_.values.size() <= slots_ / kAllowedShare * std::max<std::size_t>(only_.starts.size(), 1);
  every_row_ = !request_.since && !(request_.only && few);
  if (every_row_) {
    scanned_ = slots_;
    return;
  }
  if (only_.shared()) {
    chosen_.insert(chosen_.end(), only_.values.begin(), only_.values.end());
    std::sort(chosen_.begin(), chosen_.end());
  }
  scanned_ = chosen_.size();
}

/// Slots written after `since`, ascending and distinct.
void Search::find_fresh(std::uint64_t since) {
  if (since >= version_) return;
  if (!store_.changes().written_since(since, version_, chosen_)) {
    for (Slot slot = 0, end = static_cast<Slot>(store_.slot_count()); slot < end; ++slot) {
      if (store_.row_version(slot) > since) chosen_.push_back(slot);
    }
    return;
  }
  std::sort(chosen_.begin(), chosen_.end());
  chosen_.erase(std::unique(chosen_.begin(), chosen_.end()), chosen_.end());
  std::erase_if(chosen_, [&](Slot slot) { return store_.row_version(slot) <= since; });  // removed since
}

/// Most rows that are filtered out are known by their slots.
void Search::filter_slots() {
  filter_.excluded_slots = make_lists<Slot>(request_.exclude, [&](std::int64_t id, std::vector<Slot>& out) {
    if (const Slot slot = store_.find(id); slot != kNoSlot) out.push_back(slot);
  });
  if (!filter_.allowed) return;
  filter_.allowed_slots = std::move(only_);
  only_ = {};
  if (!filter_.allowed_slots.shared()) return;
  filter_.allowed_in.resize(slots_);
  for (const Slot slot : filter_.allowed_slots.values) {
    if (slot < slots_) filter_.allowed_in[slot] = true;
  }
}

void Search::select(std::size_t q, const Block& block, Best& best) const {
  for (std::size_t j = 0; j < block.size; ++j) {
    const float rank = block.ranks[j];
    if (rank != rank) continue;  // a row that isn't a number has no place in the order
    if (best.full() && rank < best.heap[0].rank) continue;
    if (!filter_.refuses(q, block.ids[j])) best.offer({rank, block.ids[j]});
  }
}

/// Offer slots [begin, end) (of `slots`, or of the table where that is null) to queries [first, last).
/// rows: (block rows, dim) to copy rows to
void Search::scan(const Slot* slots, std::size_t begin, std::size_t end, std::size_t first, std::size_t last,
                  Best* best, float* rows) const {
  Block block;
  block.rows = rows;
  for (std::size_t at = begin; at < end; at += scores_.block_rows()) {
    const std::size_t n = std::min(scores_.block_rows(), end - at);
    if (slots == nullptr) {
      scores_.load(static_cast<Slot>(at), n, block);
    } else {
      std::copy_n(slots + at, n, block.slots);
      scores_.load(n, block);
    }
    for (std::size_t q = first; q < last; ++q) {
      scores_.score(q, block);
      select(q, block, best[q - first]);
    }
  }
}

/// best: (threads, last - first); the answers are left in the first row.
void Search::answer_queries(std::size_t first, std::size_t last, std::size_t threads, Best* best) {
  const std::size_t n = last - first;
  const Slot* slots = every_row_ ? nullptr : chosen_.data();
  const std::size_t lists = only_.shared() ? 0 : only_.starts[last] - only_.starts[first];
  const std::size_t parts = std::min(n, threads_for(lists * store_.dim()));
  const std::size_t block_floats = scores_.block_rows() * store_.dim();
  row_copies_.resize(std::max(threads, parts) * block_floats);
  parallel_tasks(threads, [&](std::size_t t) noexcept {
    scan(slots, scanned_ * t / threads, scanned_ * (t + 1) / threads, first, last, best + t * n,
         row_copies_.data() + t * block_floats);
  });
  for (std::size_t t = 1; t < threads; ++t) {
    for (std::size_t q = 0; q < n; ++q) {
      const Best& other = best[t * n + q];
      for (std::size_t i = 0; i < other.size; ++i) best[q].offer(other.heap[i]);
    }
  }
  if (only_.shared()) return;
  parallel_tasks(parts, [&](std::size_t part) noexcept {
    for (std::size_t q = first + n * part / parts; q < first + n * (part + 1) / parts; ++q) {
      const std::span<const Slot> list = only_.of(q);
      scan(list.data(), 0, list.size(), q, q + 1, best + (q - first),
           row_copies_.data() + part * block_floats);
    }
  });
}

/// Sorted, and an id that was met twice, because it went and came back meanwhile, named once. How many are
/// left.
std::size_t Search::drop_repeats(Candidate* best, std::size_t size) const {
  std::sort(best, best + size, better);
  const auto end = fastinc::drop_repeats(store_, version_, best, best + size,
                                         [](const Candidate& candidate) { return candidate.id; });
  return static_cast<std::size_t>(end - best);
}

void Search::write(const Candidate* best, std::size_t size, float* scores, std::int64_t* ids) const {
  const float sign = request_.metric == Metric::kL2 ? -1.0f : 1.0f;
  for (std::size_t i = 0; i < request_.k; ++i) {
    scores[i] = sign * (i < size ? best[i].rank : -FLT_MAX);
    scores[i] += 0.0f;  // l2 turns 0 into -0: a distance prints as 0
    ids[i] = i < size ? best[i].id : -1;
  }
}

std::size_t Search::longest_list() const {
  std::size_t longest = 0;
  for (std::size_t q = 0; !only_.shared() && q < request_.n; ++q)
    longest = std::max(longest, only_.of(q).size());
  return longest;
}

void Search::count_found(std::int64_t* found) const {
  for (std::size_t q = 0; q < request_.n; ++q) {
    const std::span<const Slot> list = only_.of(q);
    found[q] = std::count_if(list.begin(), list.end(),
                             [&](Slot slot) { return !filter_.excluded.has(q, store_.id(slot)); });
  }
}

/// Queries [first, last) by their float32 scores with every row there is to scan.
void Search::scan_rows(std::size_t first, std::size_t last, float* scores, std::int64_t* ids) {
  const std::size_t capacity = std::min(request_.k, scanned_ + longest_list());
  const std::size_t queries = std::min(kQueryBlock, last - first);
  const std::size_t threads =
      std::min(std::max<std::size_t>(scanned_, 1), threads_for(scanned_ * store_.dim() * queries));
  const std::size_t block =
      std::clamp<std::size_t>(kMaxHeld / (std::max<std::size_t>(capacity, 1) * threads), 1, kQueryBlock);
  std::vector<Candidate> held(std::min(block, queries) * threads * capacity);
  std::vector<Best> best;
  for (std::size_t begin = first; begin < last; begin += block) {
    const std::size_t end = std::min(begin + block, last);
    best.assign((end - begin) * threads, Best{});
    for (std::size_t i = 0; i < best.size(); ++i) best[i] = {held.data() + i * capacity, capacity, 0};
    if (capacity > 0) answer_queries(begin, end, threads, best.data());
    for (std::size_t q = begin; q < end; ++q) {
      Best& mine = best[q - begin];
      write(mine.heap, drop_repeats(mine.heap, mine.size), scores + q * request_.k, ids + q * request_.k);
    }
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
  TableCodes rows(store_, scores_, filter_, slots_);
  rows.set_queries(numbers);
  CodeSearch<TableCodes> search(kernel_, rows, coded, request_.metric, k, floors);
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
    const std::size_t size = drop_repeats(best, met);
    reached[i] = answers[i].is_whole && size == met ? std::numeric_limits<float>::quiet_NaN() : last;
    write(best, size, scores + numbers[i] * k, ids + numbers[i] * k);
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
    for (const std::size_t q : numbers) scan_rows(q, q + 1, scores, ids);
  }
}

void Search::run(float* scores, std::int64_t* ids, std::int64_t* found) {
  if (found != nullptr) count_found(found);
  if (every_row_) filter_slots();
  const std::size_t most = request_.metric == Metric::kIp ? kMostScanDim : kMostSquaresDim;
  if (every_row_ && slots_ >= kLeastScanned && request_.k <= slots_ / 4 && store_.dim() <= most) {
    scan_codes(scores, ids);
  } else {
    scan_rows(0, request_.n, scores, ids);
  }
}

void check_lists(const IdLists& lists, std::size_t n, const char* name) {
  if (lists.offsets.empty()) return;
  const auto require = [&](bool fits, std::size_t at, const std::string& wanted) {
    if (fits) return;
    throw std::invalid_argument(std::string(name) + "_offsets[" + std::to_string(at) +
                                "] = " + std::to_string(lists.offsets[at]) + " must be " + wanted);
  };
  if (lists.offsets.size() != n + 1) {
    throw std::invalid_argument(std::string(name) + "_offsets has " + std::to_string(lists.offsets.size()) +
                                " values; " + std::to_string(n) + " queries need " + std::to_string(n + 1));
  }
  require(lists.offsets[0] == 0, 0, "0");
  for (std::size_t i = 0; i < n; ++i) {
    require(lists.offsets[i + 1] >= lists.offsets[i], i + 1,
            "at least the one before it, " + std::to_string(lists.offsets[i]));
  }
  require(lists.offsets[n] == static_cast<std::int64_t>(lists.ids.size()), n,
          "the number of ids, " + std::to_string(lists.ids.size()));
}

}  // namespace

SearchedState exact_search(const Table& table, const SearchRequest& request, float* scores, std::int64_t* ids,
                           std::int64_t* found) {
  if (request.k < 1) throw std::invalid_argument("k = 0 must be at least 1");
  checked_multiply(request.n, request.k, "k");
  check_lists(request.exclude, request.n, "exclude");
  if (request.only) check_lists(*request.only, request.n, request.since ? "candidate" : "only");
  check_finite(request.queries, request.n, table.dim(), "queries");
  const RowStore& store = table.store();
  Search search(store, request);
  search.run(scores, ids, found);
  return {.version = search.version(), .rows = store.size(), .fresh = search.fresh()};
}

RowsAtVersion rows_at_version(const Table& table) {
  const RowStore& store = table.store();
  const std::size_t dim = store.dim();
  RowsAtVersion out;
  out.version = store.version();
  const std::vector<std::int64_t> ids = table.ids();
  std::vector<std::size_t> order(ids.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return ids[a] < ids[b]; });
  out.ids.resize(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) out.ids[i] = ids[order[i]];
  out.ids.erase(std::unique(out.ids.begin(), out.ids.end()), out.ids.end());  // removed and back meanwhile
  out.weights.resize(out.ids.size() * dim);
  store.read(out.ids, out.weights.data());
  return out;
}

}  // namespace fastinc
