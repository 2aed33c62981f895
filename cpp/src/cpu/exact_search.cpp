#include "fastinc/exact_search.h"

#include <algorithm>
#include <cfloat>
#include <shared_mutex>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "cpu/update.h"
#include "fastinc/runtime.h"
#include "math/scalar.h"
#include "store/row_store.h"

namespace fastinc {
namespace {

using ReadLock = std::shared_lock<SharedMutex>;

constexpr std::size_t kRowBlock = 256;   // rows scored for every query of a block while they are in the cache
constexpr std::size_t kQueryBlock = 64;  // queries answered in one pass over the rows
constexpr std::size_t kMaxHeld = 1u << 22;  // candidates held at once, by all threads
constexpr std::uint64_t kNever = ~std::uint64_t{0};

/// rank is the score, negated where small is good: larger is better.
struct Candidate {
  float rank;
  std::int64_t id;
};

/// A total order, so the k best are the same ones however the rows are shared out.
bool better(const Candidate& a, const Candidate& b) {
  return a.rank > b.rank || (a.rank == b.rank && a.id < b.id);
}

/// The best `capacity` candidates offered, as a heap with the worst on top.
struct Best {
  Candidate* heap = nullptr;
  std::size_t capacity = 0;
  std::size_t size = 0;

  bool full() const { return size == capacity; }
  bool wants(const Candidate& c) const { return !full() || better(c, heap[0]); }
  void offer(const Candidate& c) {
    if (!wants(c)) return;
    if (full()) {
      std::pop_heap(heap, heap + size, better);
      --size;
    }
    heap[size++] = c;
    std::push_heap(heap, heap + size, better);
  }
};

/// IdLists as slots: ascending, distinct, only those that hold a row.
struct SlotLists {
  std::vector<Slot> slots;
  std::vector<std::size_t> starts;  // empty: one list for every query

  bool shared() const { return starts.empty(); }
  std::span<const Slot> of(std::size_t query) const {
    if (shared()) return slots;
    return {slots.data() + starts[query], starts[query + 1] - starts[query]};
  }
};

void sort_distinct(std::vector<Slot>& slots, std::size_t first) {
  const auto begin = slots.begin() + static_cast<std::ptrdiff_t>(first);
  std::sort(begin, slots.end());
  slots.erase(std::unique(begin, slots.end()), slots.end());
}

/// Rows written after `newest` are left out.
SlotLists find_slots(const RowStore& store, const IdLists& lists, std::uint64_t newest) {
  SlotLists out;
  out.slots.reserve(lists.ids.size());
  const auto add = [&](std::span<const std::int64_t> ids) {
    const std::size_t first = out.slots.size();
    for (const std::int64_t id : ids) {
      const Slot slot = store.find(id);
      if (slot != kNoSlot && store.row_version(slot) <= newest) out.slots.push_back(slot);
    }
    sort_distinct(out.slots, first);
  };
  if (lists.offsets.empty()) {
    add(lists.ids);
    return out;
  }
  out.starts.reserve(lists.offsets.size());
  out.starts.push_back(0);
  for (std::size_t i = 0; i + 1 < lists.offsets.size(); ++i) {
    const auto begin = static_cast<std::size_t>(lists.offsets[i]);
    add(lists.ids.subspan(begin, static_cast<std::size_t>(lists.offsets[i + 1]) - begin));
    out.starts.push_back(out.slots.size());
  }
  return out;
}

/// Outside this range a float32 norm, or a product of two, may overflow or lose its digits.
bool is_safe(float squared_norm) {
  return squared_norm > 1e-30f && squared_norm < 1e30f;
}

float saturate(double x) {
  constexpr double kLargest = FLT_MAX;
  return static_cast<float>(x > kLargest ? kLargest : (x < -kLargest ? -kLargest : x));
}

/// The rare score that float32 arithmetic can't reach.
float precise_score(Metric metric, const float* q, const float* x, std::size_t dim) {
  double ip = 0.0, qq = 0.0, xx = 0.0, distance = 0.0;
  for (std::size_t i = 0; i < dim; ++i) {
    const double a = q[i], b = x[i];
    ip += a * b;
    qq += a * a;
    xx += b * b;
    distance += (a - b) * (a - b);
  }
  if (metric == Metric::kL2) return saturate(distance);
  if (metric == Metric::kIp) return saturate(ip);
  return qq > 0.0 && xx > 0.0 ? saturate(ip / (base::square_root(qq) * base::square_root(xx))) : 0.0f;
}

/// One request, while the store's lock is held.
class Search {
 public:
  Search(const RowStore& store, const SearchRequest& request);

  std::size_t fresh() const { return fresh_; }
  void run(float* scores, std::int64_t* ids, std::int64_t* found);

 private:
  struct Block {
    std::size_t size = 0;
    Slot slots[kRowBlock];
    float norms[kRowBlock];  // cosine: 0 where the norm isn't safe
    float scores[kRowBlock];
  };

  const float* query(std::size_t q) const { return request_.queries + q * store_.dim(); }
  void choose_rows();
  void find_query_norms();
  void answer_queries(std::size_t first, std::size_t last, std::size_t threads, Best* best);
  void scan(const Slot* slots, std::size_t begin, std::size_t end, std::size_t first, std::size_t last,
            Best* best) const;
  void load(const Slot* slots, std::size_t begin, std::size_t end, Block& block) const;
  void score(std::size_t q, Block& block) const;
  void select(std::size_t q, const Block& block, Best& best) const;
  void write(Best& best, float* scores, std::int64_t* ids) const;

  const RowStore& store_;
  const SearchRequest& request_;
  const Kernels& kernel_;
  SlotLists excluded_, only_;
  std::vector<Slot> chosen_;
  bool every_row_ = false;
  std::size_t scanned_ = 0;  // slots scanned for every query
  std::size_t fresh_ = 0;
  std::vector<float> query_norms_;
};

Search::Search(const RowStore& store, const SearchRequest& request)
    : store_(store), request_(request), kernel_(kernels()) {
  excluded_ = find_slots(store, request.exclude, kNever);
  choose_rows();
  if (request.metric == Metric::kCosine) find_query_norms();
}

void Search::choose_rows() {
  every_row_ = !request_.only && !request_.since;
  if (every_row_) {
    scanned_ = store_.slot_count();
    return;
  }
  if (request_.since) {
    for (Slot slot = 0; slot < store_.slot_count(); ++slot) {
      if (store_.row_version(slot) > *request_.since) chosen_.push_back(slot);
    }
  }
  fresh_ = chosen_.size();
  if (request_.only) only_ = find_slots(store_, *request_.only, request_.since.value_or(kNever));
  if (only_.shared()) {
    chosen_.insert(chosen_.end(), only_.slots.begin(), only_.slots.end());
    std::sort(chosen_.begin(), chosen_.end());
  }
  scanned_ = chosen_.size();
}

void Search::find_query_norms() {
  query_norms_.resize(request_.n);
  for (std::size_t q = 0; q < request_.n; ++q) {
    const float squared = kernel_.dot(query(q), query(q), store_.dim());
    query_norms_[q] = is_safe(squared) ? base::square_root(squared) : 0.0f;
  }
}

void Search::load(const Slot* slots, std::size_t begin, std::size_t end, Block& block) const {
  block.size = 0;
  for (std::size_t i = begin; i < end; ++i) {
    const Slot slot = slots != nullptr ? slots[i] : static_cast<Slot>(i);
    if (store_.row_version(slot) != 0) block.slots[block.size++] = slot;
  }
  if (request_.metric != Metric::kCosine) return;
  kernel_.squared_norms(store_.rows(), block.slots, block.size, block.norms);
  for (std::size_t j = 0; j < block.size; ++j) {
    block.norms[j] = is_safe(block.norms[j]) ? base::square_root(block.norms[j]) : 0.0f;
  }
}

void Search::score(std::size_t q, Block& block) const {
  const Metric metric = request_.metric;
  const auto kernel = metric == Metric::kL2 ? kernel_.squared_distances : kernel_.score_rows;
  kernel(store_.rows(), block.slots, block.size, query(q), block.scores);
  for (std::size_t j = 0; j < block.size; ++j) {
    float& s = block.scores[j];
    bool good = s >= -FLT_MAX && s <= FLT_MAX;
    if (metric == Metric::kCosine) {
      const float norms = query_norms_[q] * block.norms[j];
      good = norms > 0.0f;
      s = good ? s / norms : s;
    }
    if (!good) s = precise_score(metric, query(q), store_.weights(block.slots[j]), store_.dim());
  }
}

void Search::select(std::size_t q, const Block& block, Best& best) const {
  const std::span<const Slot> excluded = excluded_.of(q);
  const float sign = request_.metric == Metric::kL2 ? -1.0f : 1.0f;
  for (std::size_t j = 0; j < block.size; ++j) {
    const float rank = sign * block.scores[j];
    if (rank != rank) continue;  // a row that isn't a number has no place in the order
    if (best.full() && rank < best.heap[0].rank) continue;
    if (std::binary_search(excluded.begin(), excluded.end(), block.slots[j])) continue;
    best.offer({rank, store_.id(block.slots[j])});
  }
}

/// Offer slots [begin, end) (of `slots`, or of the table where that is null) to queries [first, last).
void Search::scan(const Slot* slots, std::size_t begin, std::size_t end, std::size_t first, std::size_t last,
                  Best* best) const {
  Block block;
  for (std::size_t at = begin; at < end; at += kRowBlock) {
    load(slots, at, std::min(at + kRowBlock, end), block);
    for (std::size_t q = first; q < last; ++q) {
      score(q, block);
      select(q, block, best[q - first]);
    }
  }
}

/// best: (threads, last - first); the answers are left in the first row.
void Search::answer_queries(std::size_t first, std::size_t last, std::size_t threads, Best* best) {
  const std::size_t n = last - first;
  const Slot* slots = every_row_ ? nullptr : chosen_.data();
  parallel_tasks(threads, [&](std::size_t t) noexcept {
    scan(slots, scanned_ * t / threads, scanned_ * (t + 1) / threads, first, last, best + t * n);
  });
  for (std::size_t t = 1; t < threads; ++t) {
    for (std::size_t q = 0; q < n; ++q) {
      const Best& other = best[t * n + q];
      for (std::size_t i = 0; i < other.size; ++i) best[q].offer(other.heap[i]);
    }
  }
  if (only_.shared()) return;
  const std::size_t lists = only_.starts[last] - only_.starts[first];
  const std::size_t parts = std::min(n, threads_for(lists * store_.dim()));
  parallel_tasks(parts, [&](std::size_t part) noexcept {
    for (std::size_t q = first + n * part / parts; q < first + n * (part + 1) / parts; ++q) {
      const std::span<const Slot> list = only_.of(q);
      scan(list.data(), 0, list.size(), q, q + 1, best + (q - first));
    }
  });
}

void Search::write(Best& best, float* scores, std::int64_t* ids) const {
  const float sign = request_.metric == Metric::kL2 ? -1.0f : 1.0f;
  std::sort(best.heap, best.heap + best.size, better);
  for (std::size_t i = 0; i < request_.k; ++i) {
    scores[i] = sign * (i < best.size ? best.heap[i].rank : -FLT_MAX);
    scores[i] += 0.0f;  // l2 turns 0 into -0: a distance prints as 0
    ids[i] = i < best.size ? best.heap[i].id : -1;
  }
}

void Search::run(float* scores, std::int64_t* ids, std::int64_t* found) {
  std::size_t longest = 0;
  for (std::size_t q = 0; q < request_.n; ++q) {
    const std::span<const Slot> list = only_.of(q), excluded = excluded_.of(q);
    if (!only_.shared()) longest = std::max(longest, list.size());
    if (found == nullptr) continue;
    found[q] = std::count_if(list.begin(), list.end(), [&](Slot slot) {
      return !std::binary_search(excluded.begin(), excluded.end(), slot);
    });
  }
  const std::size_t capacity = std::min(request_.k, scanned_ + longest);
  const std::size_t queries = std::min(kQueryBlock, request_.n);
  const std::size_t threads =
      std::min(std::max<std::size_t>(scanned_, 1), threads_for(scanned_ * store_.dim() * queries));
  const std::size_t block =
      std::clamp<std::size_t>(kMaxHeld / (std::max<std::size_t>(capacity, 1) * threads), 1, kQueryBlock);
  std::vector<Candidate> held(std::min(block, queries) * threads * capacity);
  std::vector<Best> best;
  for (std::size_t first = 0; first < request_.n; first += block) {
    const std::size_t last = std::min(first + block, request_.n);
    best.assign((last - first) * threads, Best{});
    for (std::size_t i = 0; i < best.size(); ++i) best[i] = {held.data() + i * capacity, capacity, 0};
    if (capacity > 0) answer_queries(first, last, threads, best.data());
    for (std::size_t q = first; q < last; ++q) {
      write(best[q - first], scores + q * request_.k, ids + q * request_.k);
    }
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
  const ReadLock lock(store.mutex);
  Search search(store, request);
  search.run(scores, ids, found);
  return {.version = store.version(), .rows = store.size(), .fresh = search.fresh()};
}

RowsAtVersion rows_at_version(const Table& table) {
  const RowStore& store = table.store();
  const std::size_t dim = store.dim();
  const ReadLock lock(store.mutex);
  std::vector<Slot> slots;
  slots.reserve(store.size());
  for (Slot slot = 0; slot < store.slot_count(); ++slot) {
    if (store.row_version(slot) != 0) slots.push_back(slot);
  }
  std::sort(slots.begin(), slots.end(), [&](Slot a, Slot b) { return store.id(a) < store.id(b); });
  RowsAtVersion out;
  out.version = store.version();
  out.ids.reserve(slots.size());
  out.weights.reserve(slots.size() * dim);
  for (const Slot slot : slots) {
    out.ids.push_back(store.id(slot));
    out.weights.insert(out.weights.end(), store.weights(slot), store.weights(slot) + dim);
  }
  return out;
}

}  // namespace fastinc
