#include "fastinc/exact_search.h"

#include <algorithm>
#include <cfloat>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "cpu/update.h"
#include "fastinc/runtime.h"
#include "math/scalar.h"
#include "search/candidates.h"
#include "store/repeats.h"
#include "store/row_store.h"

namespace fastinc {
namespace {

constexpr std::size_t kRowBlock = 256;       // most rows scored for every query of a block
constexpr std::size_t kBlockFloats = 16384;  // their copies stay in the L2 cache
constexpr std::size_t kQueryBlock = 64;      // queries answered in one pass over the rows
constexpr std::size_t kMaxHeld = 1u << 22;   // candidates held at once, by all threads

/// Lists of ids or slots, each ascending and distinct: one for every query, or one a query.
template <class T>
struct Lists {
  std::vector<T> values;
  std::vector<std::size_t> starts;  // empty: one list for every query

  bool shared() const { return starts.empty(); }
  std::span<const T> of(std::size_t query) const {
    if (shared()) return values;
    return {values.data() + starts[query], starts[query + 1] - starts[query]};
  }
};

/// add(id, values) appends what stands for an id, if anything does.
template <class T, class Add>
Lists<T> make_lists(const IdLists& lists, Add add) {
  Lists<T> out;
  out.values.reserve(lists.ids.size());
  const auto add_list = [&](std::span<const std::int64_t> ids) {
    const auto first = static_cast<std::ptrdiff_t>(out.values.size());
    for (const std::int64_t id : ids) add(id, out.values);
    std::sort(out.values.begin() + first, out.values.end());
    out.values.erase(std::unique(out.values.begin() + first, out.values.end()), out.values.end());
  };
  if (lists.offsets.empty()) {
    add_list(lists.ids);
    return out;
  }
  out.starts.reserve(lists.offsets.size());
  out.starts.push_back(0);
  for (std::size_t i = 0; i + 1 < lists.offsets.size(); ++i) {
    const auto begin = static_cast<std::size_t>(lists.offsets[i]);
    add_list(lists.ids.subspan(begin, static_cast<std::size_t>(lists.offsets[i + 1]) - begin));
    out.starts.push_back(out.values.size());
  }
  return out;
}

/// Copy the rows of these slots, whole; slots that hold none are left out. Returns how many there are.
///   slots: (n,) in, kept first out; ids: (n,); rows: (n, dim)
std::size_t copy_rows(const RowStore& store, const Kernels& kernel, Slot* slots, std::size_t n,
                      std::int64_t* ids, float* rows) {
  std::uint8_t done[kRowBlock];
  std::size_t size = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const auto [id, version] = store.read_header(slots[i]);
    if (version == 0) continue;
    ids[size] = id;
    slots[size++] = slots[i];
  }
  kernel.read_rows(store.rows(), slots, ids, size, rows, done);
  for (std::size_t i = 0; i < size;) {
    if (done[i]) {
      ++i;
      continue;
    }
    // written meanwhile: its owner may be another by now, or nobody
    const auto [id, version] = store.read_header(slots[i]);
    ids[i] = id;
    if (version == 0) {
      --size;
      slots[i] = slots[size], ids[i] = ids[size], done[i] = done[size];
      std::copy_n(rows + size * store.dim(), store.dim(), rows + i * store.dim());
      continue;
    }
    kernel.read_rows(store.rows(), slots + i, ids + i, 1, rows + i * store.dim(), done + i);
    if (!done[i]) std::this_thread::yield();
  }
  return size;
}

/// Outside this range a float32 norm, or a product of two, may overflow or lose its digits.
bool is_safe(float squared_norm) {
  return squared_norm > 1e-30f && squared_norm < 1e30f;
}

/// One request. Rows may be written meanwhile: they are scored from copies.
class Search {
 public:
  Search(const RowStore& store, const SearchRequest& request);

  std::uint64_t version() const { return version_; }
  std::size_t fresh() const { return fresh_; }
  void run(float* scores, std::int64_t* ids, std::int64_t* found);

 private:
  struct Block {
    std::size_t size = 0;
    Slot slots[kRowBlock];
    std::int64_t ids[kRowBlock];
    float* rows = nullptr;   // (row_block_, dim)
    float norms[kRowBlock];  // cosine: 0 where the norm isn't safe
    float scores[kRowBlock];

    RowSet row_set(std::size_t dim) const {
      RowSet set;
      set.dim = dim;
      set.weights = {&rows, 0, dim};
      return set;
    }
  };

  const float* query(std::size_t q) const { return request_.queries + q * store_.dim(); }
  void choose_rows();
  void find_fresh(std::uint64_t since);
  void find_query_norms();
  void answer_queries(std::size_t first, std::size_t last, std::size_t threads, Best* best);
  void scan(const Slot* slots, std::size_t begin, std::size_t end, std::size_t first, std::size_t last,
            Best* best, float* rows) const;
  void load(const Slot* slots, std::size_t begin, std::size_t end, Block& block) const;
  void score(std::size_t q, Block& block) const;
  void select(std::size_t q, const Block& block, Best& best) const;
  void write(Best& best, float* scores, std::int64_t* ids) const;

  const RowStore& store_;
  const SearchRequest& request_;
  const Kernels& kernel_;
  const std::uint64_t version_;
  const std::size_t row_block_;
  Lists<std::int64_t> excluded_;
  Lists<Slot> only_;
  std::optional<Lists<std::int64_t>>
      allowed_;  // `only` without `since`: a slot's row may be another's by now
  std::vector<Slot> chosen_;
  bool every_row_ = false;
  std::size_t scanned_ = 0;  // slots scanned for every query
  std::size_t fresh_ = 0;
  std::vector<float> query_norms_, row_copies_;
};

Search::Search(const RowStore& store, const SearchRequest& request)
    : store_(store),
      request_(request),
      kernel_(kernels()),
      version_(store.version()),
      row_block_(std::clamp<std::size_t>(kBlockFloats / store.dim(), 16, kRowBlock)) {
  const auto keep = [](std::int64_t id, std::vector<std::int64_t>& out) { out.push_back(id); };
  excluded_ = make_lists<std::int64_t>(request.exclude, keep);
  if (request.only && !request.since) allowed_ = make_lists<std::int64_t>(*request.only, keep);
  choose_rows();
  if (request.metric == Metric::kCosine) find_query_norms();
}

void Search::choose_rows() {
  every_row_ = !request_.only && !request_.since;
  if (every_row_) {
    scanned_ = store_.slot_count();
    return;
  }
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

void Search::find_query_norms() {
  query_norms_.resize(request_.n);
  for (std::size_t q = 0; q < request_.n; ++q) {
    const float squared = kernel_.dot(query(q), query(q), store_.dim());
    query_norms_[q] = is_safe(squared) ? base::square_root(squared) : 0.0f;
  }
}

void Search::load(const Slot* slots, std::size_t begin, std::size_t end, Block& block) const {
  for (std::size_t i = begin; i < end; ++i) {
    block.slots[i - begin] = slots != nullptr ? slots[i] : static_cast<Slot>(i);
  }
  block.size = copy_rows(store_, kernel_, block.slots, end - begin, block.ids, block.rows);
  if (request_.metric != Metric::kCosine) return;
  kernel_.squared_norms(block.row_set(store_.dim()), nullptr, block.size, block.norms);
  for (std::size_t j = 0; j < block.size; ++j) {
    block.norms[j] = is_safe(block.norms[j]) ? base::square_root(block.norms[j]) : 0.0f;
  }
}

void Search::score(std::size_t q, Block& block) const {
  const Metric metric = request_.metric;
  const auto kernel = metric == Metric::kL2 ? kernel_.squared_distances : kernel_.score_rows;
  kernel(block.row_set(store_.dim()), nullptr, block.size, query(q), block.scores);
  for (std::size_t j = 0; j < block.size; ++j) {
    float& s = block.scores[j];
    bool good = s >= -FLT_MAX && s <= FLT_MAX;
    if (metric == Metric::kCosine) {
      const float norms = query_norms_[q] * block.norms[j];
      good = norms > 0.0f;
      s = good ? s / norms : s;
    }
    if (!good) s = precise_score(metric, query(q), block.rows + j * store_.dim(), store_.dim());
  }
}

void Search::select(std::size_t q, const Block& block, Best& best) const {
  const std::span<const std::int64_t> excluded = excluded_.of(q);
  const std::span<const std::int64_t> allowed = allowed_ ? allowed_->of(q) : excluded;
  const float sign = request_.metric == Metric::kL2 ? -1.0f : 1.0f;
  for (std::size_t j = 0; j < block.size; ++j) {
    const float rank = sign * block.scores[j];
    if (rank != rank) continue;  // a row that isn't a number has no place in the order
    if (best.full() && rank < best.heap[0].rank) continue;
    if (std::binary_search(excluded.begin(), excluded.end(), block.ids[j])) continue;
    if (allowed_ && !std::binary_search(allowed.begin(), allowed.end(), block.ids[j])) continue;
    best.offer({rank, block.ids[j]});
  }
}

/// Offer slots [begin, end) (of `slots`, or of the table where that is null) to queries [first, last).
/// rows: (row_block_, dim) to copy rows to
void Search::scan(const Slot* slots, std::size_t begin, std::size_t end, std::size_t first, std::size_t last,
                  Best* best, float* rows) const {
  Block block;
  block.rows = rows;
  for (std::size_t at = begin; at < end; at += row_block_) {
    load(slots, at, std::min(at + row_block_, end), block);
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
  const std::size_t lists = only_.shared() ? 0 : only_.starts[last] - only_.starts[first];
  const std::size_t parts = std::min(n, threads_for(lists * store_.dim()));
  const std::size_t block_floats = row_block_ * store_.dim();
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

void Search::write(Best& best, float* scores, std::int64_t* ids) const {
  const float sign = request_.metric == Metric::kL2 ? -1.0f : 1.0f;
  std::sort(best.heap, best.heap + best.size, better);
  const auto end = drop_repeats(store_, version_, best.heap, best.heap + best.size,
                                [](const Candidate& candidate) { return candidate.id; });
  best.size = static_cast<std::size_t>(end - best.heap);
  for (std::size_t i = 0; i < request_.k; ++i) {
    scores[i] = sign * (i < best.size ? best.heap[i].rank : -FLT_MAX);
    scores[i] += 0.0f;  // l2 turns 0 into -0: a distance prints as 0
    ids[i] = i < best.size ? best.heap[i].id : -1;
  }
}

void Search::run(float* scores, std::int64_t* ids, std::int64_t* found) {
  std::size_t longest = 0;
  for (std::size_t q = 0; q < request_.n; ++q) {
    const std::span<const Slot> list = only_.of(q);
    const std::span<const std::int64_t> excluded = excluded_.of(q);
    if (!only_.shared()) longest = std::max(longest, list.size());
    if (found == nullptr) continue;
    found[q] = std::count_if(list.begin(), list.end(), [&](Slot slot) {
      return !std::binary_search(excluded.begin(), excluded.end(), store_.id(slot));
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
