#include "search/live_search.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "cpu/threads.h"
#include "fastinc/runtime.h"

namespace fastinc {
namespace {

constexpr std::size_t kChunk = 256;          // rows scanned at a time
constexpr std::size_t kTogether = 64;        // rows scored at a time
constexpr std::size_t kMostHeld = 1u << 20;  // candidates of the queries answered together

std::vector<std::size_t> numbers_to(std::size_t n) {
  std::vector<std::size_t> numbers(n);
  std::iota(numbers.begin(), numbers.end(), std::size_t{0});
  return numbers;
}

}  // namespace

std::vector<Slot> logged_slots(const RowStore& store, std::uint64_t since, std::uint64_t until) {
  std::vector<Slot> slots;
  if (since >= until) return slots;
  if (!store.changes().written_since(since, until, slots)) {
    for (Slot slot = 0, end = static_cast<Slot>(store.slot_count()); slot < end; ++slot) {
      if (store.row_version(slot) > since) slots.push_back(slot);
    }
    return slots;
  }
  std::sort(slots.begin(), slots.end());
  slots.erase(std::unique(slots.begin(), slots.end()), slots.end());
  return slots;
}

LiveBase::Search::Search(const LiveBase& base, const SearchRequest& request, const IndexAnswer& index)
    : base_(base),
      store_(base.store_),
      kernel_(kernels()),
      request_(request),
      index_(index),
      folded_(base.folded()),  // before the version: it must not be of a newer one
      version_(store_.version()),
      unfolded_(logged_slots(store_, folded_->version, version_)),
      filter_(make_filter(request.exclude, request.allow)),
      scores_(store_, kernel_, request.metric, request.queries, request.n),
      rows_(store_, scores_, filter_, request.metric, request.k, version_),
      numbers_(numbers_to(request.n)),
      codes_(store_, scores_, filter_, 0) {
  codes_.set_queries(numbers_);
  const std::size_t dim = store_.dim(), most = request.metric == Metric::kIp ? kMostScanDim : kMostSquaresDim;
  if (dim > most || (unfolded_.empty() && folded_->slots.empty())) return;
  coded_.emplace(kernel_, request.queries, request.n, dim, request.metric, true);
}

LiveState LiveBase::Search::state() const {
  const std::size_t fresh = folded_->slots.size() + unfolded_.size(), rows = store_.size();
  const std::size_t unchanged = rows > fresh ? rows - fresh : 0, all = base_.slots_.size();
  return {.version = version_,
          .changed = std::max(fresh, all > unchanged ? all - unchanged : 0),
          .unfolded = unfolded_.size(),
          .everywhere = unfolded_.size() + folded_->slots.size() - folded_->starts[base_.lists_],
          .lacking = lacking_,
          .outdated = base_.outdated()};
}

void LiveBase::Search::run(float* scores, std::int64_t* ids) {
  std::vector<Worker> workers = make_workers();
  const std::size_t k = std::min(request_.k, workers.front().best.size());
  const std::size_t block =
      std::min(request_.n, std::max<std::size_t>(kMostHeld / std::max<std::size_t>(k, 1), 1));
  std::vector<Candidate> held(block * k);
  std::vector<std::size_t> found(block);
  for (std::size_t first = 0; first < request_.n; first += block) {
    const std::size_t n = std::min(block, request_.n - first);
    parallel_parts(n, workers.size(), [&](std::size_t begin, std::size_t end, std::size_t part) noexcept {
      Worker& worker = workers[part];
      for (std::size_t i = begin; i < end; ++i) {
        answer(first + i, worker);
        std::copy_n(worker.best.data(), found[i] = worker.found, held.data() + i * k);
      }
    });
    for (std::size_t i = 0; i < n; ++i) {
      Candidate* const best = held.data() + i * k;
      rows_.write(first + i, best, rows_.drop_repeats(best, found[i]), scores, ids);
    }
  }
  for (const Worker& worker : workers) lacking_ += worker.lacking;
}

template <class Add>
void LiveBase::Search::for_each_folded(std::size_t q, Add add) const {
  const auto add_list = [&](std::size_t which) {
    const auto first = folded_->slots.begin();
    add(first + static_cast<std::ptrdiff_t>(folded_->starts[which]),
        first + static_cast<std::ptrdiff_t>(folded_->starts[which + 1]));
  };
  if (folded_->slots.empty()) return;
  for (std::size_t i = 0; i < index_.probed; ++i) {
    const std::int64_t which = index_.lists[q * index_.probed + i];
    if (which >= 0) add_list(static_cast<std::size_t>(which));
  }
  for (std::size_t which = 0; index_.lists == nullptr && which < base_.lists_; ++which) add_list(which);
  add_list(base_.lists_);
}

std::size_t LiveBase::Search::folded_count(std::size_t q) const {
  std::size_t count = 0;
  for_each_folded(q, [&](auto begin, auto end) { count += static_cast<std::size_t>(end - begin); });
  return count;
}

/// With all the memory that answers take.
std::vector<LiveBase::Search::Worker> LiveBase::Search::make_workers() const {
  const std::size_t everyone = unfolded_.size() + base_.slots_.size() - base_.count_, asked = index_.asked;
  std::size_t longest = 0, all = 0;
  for (std::size_t q = 0; q < request_.n; ++q) {
    const std::size_t count = everyone + folded_count(q);
    longest = std::max(longest, count);
    all += count / 4 + asked;  // codes are a quarter
  }
  std::vector<Worker> workers(
      std::clamp<std::size_t>(threads_for(all * store_.dim()), 1, std::max<std::size_t>(request_.n, 1)));
  for (Worker& worker : workers) {
    worker.named.reserve(asked);
    worker.fresh.reserve(longest + asked);
    worker.codes.reserve(longest + asked);
    worker.possible.reserve(longest + asked);
    worker.taken.reserve(longest + asked);
    worker.best.resize(std::min(request_.k, longest + asked) + kTogether);
    worker.columns.resize(code_groups(store_.dim()));
    worker.hits = CodeHitStore(kChunk);
    worker.scratch = codes_.make_scratch();
  }
  return workers;
}

void LiveBase::Search::answer(std::size_t q, Worker& worker) const noexcept {
  worker.fresh.clear();
  const std::size_t unchanged = list_named(q, worker);
  const bool has_more = index_.asked > 0 && index_.positions[(q + 1) * index_.asked - 1] >= 0;
  worker.lacking += has_more && unchanged < request_.k;
  worker.found = 0;
  for (std::size_t at = 0; at < worker.named.size(); at += kTogether) {
    score(q, worker.named.data() + at, std::min(kTogether, worker.named.size() - at), worker);
  }
  list_fresh(q, worker);
  find_possible(q, worker);
  score_possible(q, worker);
}

/// Slots of what the index names and is as it was; returns how many of them count. Those that are written
/// during the search are with the fresh ones, which they may be among as well.
std::size_t LiveBase::Search::list_named(std::size_t q, Worker& worker) const {
  const std::int64_t* const positions = index_.positions + q * index_.asked;
  worker.named.clear();
  for (std::size_t i = 0; i < index_.asked; ++i) {
    if (positions[i] < 0) continue;
    const Slot slot = base_.slots_[static_cast<std::size_t>(positions[i])];
    if (slot == kNoSlot) continue;
    store_.prefetch_id(slot);
    worker.named.push_back(slot);
  }
  std::size_t kept = 0, unchanged = 0;
  for (const Slot slot : worker.named) {
    const std::uint64_t version = store_.row_version(slot);
    if (version == 0 || is_listed(version)) continue;
    if (version > base_.version_) {
      worker.fresh.push_back(slot);
      continue;
    }
    worker.named[kept++] = slot;
    unchanged += !filter_.refuses(q, store_.id(slot));
  }
  worker.named.resize(kept);
  return unchanged;
}

/// What was written since the index was built, and what it doesn't know.
void LiveBase::Search::list_fresh(std::size_t q, Worker& worker) const {
  std::vector<Slot>& fresh = worker.fresh;
  fresh.insert(fresh.end(), unfolded_.begin(), unfolded_.end());
  for_each_folded(q, [&](auto begin, auto end) { fresh.insert(fresh.end(), begin, end); });
  for (std::size_t i = base_.count_; i < base_.slots_.size(); ++i) {
    if (base_.slots_[i] != kNoSlot && !is_listed(store_.row_version(base_.slots_[i])))
      fresh.push_back(base_.slots_[i]);
  }
}

/// Of worker.fresh, those that may rank as high as the worst of k that are in the answer so far.
void LiveBase::Search::find_possible(std::size_t q, Worker& worker) const {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  worker.possible.clear();
  if (!coded_) {
    for (const Slot slot : worker.fresh) worker.possible.push_back({kInfinity, slot});
    return;
  }
  worker.codes.clear();
  for (const Slot slot : worker.fresh) worker.codes.push_back(store_.codes(slot));
  CodeQuery query = (*coded_)[q];
  query.hits = worker.hits.at(0);
  set_threshold(query, worst(worker), score_rounding(store_.dim()));
  CodeScan scan{};
  scan.is_table = true;
  scan.dim = store_.dim();
  scan.metric = request_.metric;
  scan.queries = &query;
  scan.query_count = 1;
  scan.columns = reinterpret_cast<std::uint32_t*>(worker.columns.data());
  scan.dots = worker.dots.values;
  for (std::size_t at = 0; at < worker.fresh.size(); at += kChunk) {
    scan.gathered = worker.codes.data() + at;
    scan.n = std::min(kChunk, worker.fresh.size() - at);
    scan.first_row = static_cast<std::uint32_t>(at);
    query.found = 0;
    kernel_.scan_codes(scan);
    for (std::size_t i = 0; i < query.found; ++i) {
      const float upper = query.hits.upper[i];
      worker.possible.push_back({upper == upper ? upper : kInfinity, worker.fresh[query.hits.rows[i]]});
    }
  }
}

/// The likeliest first: the sooner the worst of k is known, the fewer are left. Only scores that are in the
/// answer decide: bounds may be of rows that are other ones by now.
void LiveBase::Search::score_possible(std::size_t q, Worker& worker) const {
  std::vector<Possible>& possible = worker.possible;
  std::vector<Slot>& taken = worker.taken;
  taken.clear();
  std::make_heap(possible.begin(), possible.end());
  while (!possible.empty() && possible.front().upper >= worst(worker)) {
    const std::size_t before = taken.size();
    while (taken.size() < before + kTogether && !possible.empty() &&
           possible.front().upper >= worst(worker)) {
      const Slot slot = possible.front().slot;
      std::pop_heap(possible.begin(), possible.end());
      possible.pop_back();
      const auto old = taken.begin() + static_cast<std::ptrdiff_t>(before);
      const bool again =
          std::binary_search(taken.begin(), old, slot) || std::find(old, taken.end(), slot) != taken.end();
      if (!again) taken.push_back(slot);  // one may be in two lists
    }
    Slot slots[kTogether];
    const std::size_t n = taken.size() - before;
    std::copy_n(taken.data() + before, n, slots);
    score(q, slots, n, worker);
    const auto middle = taken.begin() + static_cast<std::ptrdiff_t>(before);
    std::sort(middle, taken.end());
    std::inplace_merge(taken.begin(), middle, taken.end());
  }
}

/// What a row must not rank below; any rank will do as long as there are fewer than k.
float LiveBase::Search::worst(const Worker& worker) const {
  return worker.found < request_.k ? -std::numeric_limits<float>::infinity()
                                   : worker.best[request_.k - 1].rank;
}

/// Add these rows, kTogether at most, to the k best.
void LiveBase::Search::score(std::size_t q, Slot* slots, std::size_t n, Worker& worker) const {
  Candidate scored[kTogether];
  const std::size_t placed = codes_.score(q, slots, n, scored, worker.scratch), k = request_.k,
                    before = worker.found;
  for (std::size_t i = 0; i < placed; ++i) {
    if (before < k || better(scored[i], worker.best[k - 1])) worker.best[worker.found++] = scored[i];
  }
  if (worker.found == before || worker.found < k) return;
  const auto first = worker.best.begin();
  std::sort(first, first + static_cast<std::ptrdiff_t>(worker.found), better);
  worker.found = k;
}

}  // namespace fastinc
