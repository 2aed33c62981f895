#include "search/live_search.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>
#include <utility>

#include "cpu/row_header.h"
#include "cpu/threads.h"
#include "fastinc/runtime.h"

namespace fastinc {
namespace {

constexpr std::size_t kChunk = 256;          // rows scanned at a time
constexpr std::size_t kRows = 64;            // rows scored at a time
constexpr std::size_t kQueries = 16;         // queries that share a look at a row's codes
constexpr std::size_t kMostHeld = 1u << 20;  // candidates of the queries answered together
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Those that hold a row, by their codes, which a search looks at anyway.
LoggedSlots live_slots(const RowStore& store, std::uint64_t since, std::uint64_t until) {
  LoggedSlots logged(store, since, until);
  for (const Slot slot : logged.slots) __builtin_prefetch(stamp_of(store.codes(slot)));
  std::erase_if(logged.slots, [&](Slot slot) { return !has_codes(store.codes(slot)); });
  return logged;
}

/// What a row must not rank below; any rank will do as long as there are fewer than k.
float worst(const std::vector<Candidate>& best, std::size_t found, std::size_t k) {
  return found < k ? -kInfinity : best[k - 1].rank;
}

std::vector<std::size_t> numbers_to(std::size_t n) {
  std::vector<std::size_t> numbers(n);
  std::iota(numbers.begin(), numbers.end(), std::size_t{0});
  return numbers;
}

}  // namespace

LoggedSlots::LoggedSlots(const RowStore& store, std::uint64_t since, std::uint64_t until) {
  if (since >= until) return;
  if (!store.changes().written_since(since, until, slots)) {
    const auto end = static_cast<Slot>(store.slot_count());
    for (Slot slot = 0; slot < end; ++slot) {
      if (store.row_version(slot) > since) slots.push_back(slot);
    }
    writes = end;
    return;
  }
  writes = slots.size();
  std::sort(slots.begin(), slots.end());
  slots.erase(std::unique(slots.begin(), slots.end()), slots.end());
}

SlotSet::SlotSet(std::span<const Slot> slots) : slots_(slots) {
  if (slots.empty()) return;
  const unsigned bits = std::min(static_cast<unsigned>(std::bit_width(slots.size())) + 6u, 26u);
  shift_ = 64 - bits;
  bits_.resize(std::size_t{1} << bits);
  for (const Slot slot : slots) bits_[place(slot)] = true;
}

LiveBase::Search::Search(const LiveBase& base, const SearchRequest& request, const IndexAnswer& index)
    : base_(base),
      store_(base.store_),
      kernel_(kernels()),
      request_(request),
      index_(index),
      folded_(base.folded()),  // before the version: it must not be of a newer one
      version_(store_.version()),
      logged_(live_slots(store_, folded_->version, version_)),
      unfolded_(logged_.slots),
      is_unfolded_(unfolded_),
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
          .logged = logged_.writes,
          .everywhere = unfolded_.size() + folded_->slots.size() - folded_->starts[base_.lists_],
          .lacking = lacking_,
          .kept = named_ > 0 ? static_cast<double>(kept_) / static_cast<double>(named_) : 1.0,
          .outdated = base_.outdated()};
}

void LiveBase::Search::run(float* scores, std::int64_t* ids) {
  const std::size_t n = request_.n;
  std::size_t longest = 0, all = 0;
  for (std::size_t q = 0; q < n; ++q) {
    const std::size_t count = fresh_count(q);
    longest = std::max(longest, count);
    all += count / 4 + index_.asked;  // codes are a quarter
  }
  const std::size_t k = std::min(request_.k, longest + index_.asked);
  const std::size_t parts =
      std::clamp<std::size_t>(threads_for(all * store_.dim()), 1, std::max<std::size_t>(n, 1));
  const std::size_t block = std::min(n, std::max<std::size_t>(kMostHeld / std::max<std::size_t>(k, 1), 1));
  std::vector<Worker> workers;
  for (std::size_t i = 0; i < parts; ++i)
    workers.push_back(make_worker(std::min(kQueries, block), longest, k));
  std::vector<Candidate> held(block * k);
  std::vector<std::size_t> found(block);
  for (std::size_t first = 0; first < n; first += block) {
    const std::size_t count = std::min(block, n - first);
    parallel_parts(count, parts, [&](std::size_t begin, std::size_t end, std::size_t part) noexcept {
      for (std::size_t at = begin; at < end; at += kQueries) {
        const std::size_t last = std::min(at + kQueries, end);
        answer(first + at, first + last, request_.k, workers[part]);
        for (std::size_t i = at; i < last; ++i) {
          const Answer& mine = workers[part].answers[i - at];
          std::copy_n(mine.best.data(), found[i] = mine.found, held.data() + i * k);
        }
      }
    });
    for (std::size_t i = 0; i < count; ++i) {
      Candidate* best = held.data() + i * k;
      std::size_t size = rows_.drop_repeats(best, found[i]);
      std::vector<Candidate> wider;
      if (size < found[i] && found[i] == request_.k) {
        wider = answer_wider(first + i, 2 * request_.k - size);
        best = wider.data();
        size = wider.size();
      }
      rows_.write(first + i, best, size, scores, ids);
    }
  }
  for (const Worker& worker : workers) {
    lacking_ += worker.lacking;
    named_ += worker.named_count;
    kept_ += worker.kept_count;
  }
}

/// An id that moved to another slot meanwhile may have been met in both, in the place of another row.
std::vector<Candidate> LiveBase::Search::answer_wider(std::size_t q, std::size_t k) const {
  const std::size_t longest = fresh_count(q);
  for (;;) {
    Worker worker = make_worker(1, longest, k);
    answer(q, q + 1, k, worker);
    std::vector<Candidate>& best = worker.answers[0].best;
    const std::size_t found = worker.answers[0].found, size = rows_.drop_repeats(best.data(), found);
    best.resize(size);
    if (size >= request_.k || found < k) return std::move(best);
    k += found - size;
  }
}

template <class Add>
void LiveBase::Search::for_each_folded(std::size_t q, Add add) const {
  const auto add_list = [&](std::size_t which) {
    const auto first = folded_->slots.begin();
    add(first + static_cast<std::ptrdiff_t>(folded_->starts[which]),
        first + static_cast<std::ptrdiff_t>(folded_->starts[which + 1]));
  };
  if (folded_->slots.empty()) return;
  if (index_.lists == nullptr) {
    for (std::size_t which = 0; which < base_.lists_; ++which) add_list(which);
  } else {
    for (std::size_t i = 0; i < index_.probed; ++i) {
      const std::int64_t which = index_.lists[q * index_.probed + i];
      if (which >= 0) add_list(static_cast<std::size_t>(which));
    }
  }
  add_list(base_.lists_);
}

std::size_t LiveBase::Search::fresh_count(std::size_t q) const {
  std::size_t count = unfolded_.size() + base_.slots_.size() - base_.count_;
  for_each_folded(q, [&](auto begin, auto end) { count += static_cast<std::size_t>(end - begin); });
  return count;
}

/// With all the memory that answers take: nothing is allocated from then on. longest: fresh_count() at most
LiveBase::Search::Worker LiveBase::Search::make_worker(std::size_t together, std::size_t longest,
                                                       std::size_t k) const {
  const std::size_t most = longest + index_.asked;  // what is named is a candidate, or fresh
  Worker worker;
  worker.answers.resize(together);
  for (Answer& mine : worker.answers) {
    mine.own.reserve(most);
    mine.possible.reserve(most);
    mine.best.resize(std::min(k, most) + kRows);
  }
  worker.named.reserve(index_.asked);
  worker.codes.resize(kChunk);
  worker.queries.resize(together);
  worker.columns.resize(code_groups(store_.dim()));
  worker.dots.resize(together);
  worker.hits = CodeHitStore(together * kChunk);
  worker.scratch = codes_.make_scratch();
  return worker;
}

/// Queries [begin, end), into the worker's answers.
void LiveBase::Search::answer(std::size_t begin, std::size_t end, std::size_t k,
                              Worker& worker) const noexcept {
  for (std::size_t q = begin; q < end; ++q) {
    Answer& mine = worker.answers[q - begin];
    mine.own.clear();
    mine.possible.clear();
    mine.found = 0;
    const std::size_t unchanged = list_named(q, worker, mine);
    const bool has_more = index_.asked > 0 && index_.positions[(q + 1) * index_.asked - 1] >= 0;
    worker.lacking += has_more && unchanged < request_.k;
    for (std::size_t at = 0; at < worker.named.size(); at += kRows) {
      score(q, k, worker.named.data() + at, std::min(kRows, worker.named.size() - at), mine, worker.scratch);
    }
    list_own(q, mine);
  }
  find_possible(begin, end, k, worker);
  for (std::size_t q = begin; q < end; ++q) {
    score_possible(q, k, worker.answers[q - begin], worker.scratch);
  }
}

/// Slots of what the index names and is as it was; returns how many of them count. Those that are written
/// during the search are with the fresh ones, which they may be among as well.
std::size_t LiveBase::Search::list_named(std::size_t q, Worker& worker, Answer& mine) const {
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
      mine.own.push_back(slot);
      continue;
    }
    worker.named[kept++] = slot;
    unchanged += !filter_.refuses(q, store_.id(slot));
  }
  worker.named_count += worker.named.size();
  worker.kept_count += kept;
  worker.named.resize(kept);
  return unchanged;
}

/// What was folded, and what the index doesn't know.
void LiveBase::Search::list_own(std::size_t q, Answer& mine) const {
  for (std::size_t i = base_.count_; i < base_.slots_.size(); ++i) {
    const Slot slot = base_.slots_[i];
    const std::uint64_t version = slot == kNoSlot ? 0 : store_.row_version(slot);
    if (version > version_) mine.own.push_back(slot);
    if (version != 0 && version <= base_.version_) mine.possible.push_back({kInfinity, slot});
  }
  const auto doubtful = static_cast<std::ptrdiff_t>(mine.own.size());  // nearly always none
  for_each_folded(q, [&](auto begin, auto end) {
    const auto known = mine.own.begin() + doubtful;
    for (; begin != end; ++begin) {
      if (is_unfolded_.has(*begin)) continue;
      if (doubtful > 0 && std::find(mine.own.begin(), known, *begin) != known) continue;
      mine.own.push_back(*begin);
    }
  });
  const auto known = std::remove_if(mine.own.begin(), mine.own.begin() + doubtful,
                                    [&](Slot slot) { return is_unfolded_.has(slot); });
  mine.own.erase(known, mine.own.begin() + doubtful);
}

/// Of the fresh rows, those that may rank as high as the worst of k that are in the answer so far.
void LiveBase::Search::find_possible(std::size_t begin, std::size_t end, std::size_t k,
                                     Worker& worker) const {
  for (std::size_t i = 0; i < end - begin && !coded_; ++i) {
    Answer& mine = worker.answers[i];
    for (const Slot slot : unfolded_) mine.possible.push_back({kInfinity, slot});
    for (const Slot slot : mine.own) mine.possible.push_back({kInfinity, slot});
  }
  if (!coded_) return;
  for (std::size_t i = 0; i < end - begin; ++i) {
    const Answer& mine = worker.answers[i];
    worker.queries[i] = (*coded_)[begin + i];
    worker.queries[i].hits = worker.hits.at(i * kChunk);
    set_threshold(worker.queries[i], worst(mine.best, mine.found, k), score_rounding(store_.dim()));
  }
  scan(0, end - begin, [&](std::size_t i) { return unfolded_[i]; }, unfolded_.size(), worker);
  for (std::size_t i = 0; i < end - begin; ++i) {
    const std::vector<Slot>& own = worker.answers[i].own;
    scan(i, 1, [&](std::size_t j) { return own[j]; }, own.size(), worker);
  }
}

/// The codes of n slots, for `count` queries.
template <class SlotOf>
void LiveBase::Search::scan(std::size_t first, std::size_t count, SlotOf slot_of, std::size_t n,
                            Worker& worker) const {
  CodeScan scan{};
  scan.is_table = true;
  scan.dim = store_.dim();
  scan.metric = request_.metric;
  scan.queries = worker.queries.data() + first;
  scan.query_count = count;
  scan.gathered = worker.codes.data();
  scan.columns = reinterpret_cast<std::uint32_t*>(worker.columns.data());
  scan.dots = reinterpret_cast<std::int32_t*>(worker.dots.data());
  for (std::size_t at = 0; at < n; at += kChunk) {
    scan.n = std::min(kChunk, n - at);
    for (std::size_t i = 0; i < scan.n; ++i) worker.codes[i] = store_.codes(slot_of(at + i));
    for (std::size_t i = 0; i < count; ++i) scan.queries[i].found = 0;
    kernel_.scan_codes(scan);
    for (std::size_t i = 0; i < count; ++i) {
      const CodeQuery& query = scan.queries[i];
      for (std::size_t j = 0; j < query.found; ++j) {
        const float upper = query.hits.upper[j];
        worker.answers[first + i].possible.push_back(
            {upper == upper ? upper : kInfinity, slot_of(at + query.hits.rows[j])});
      }
    }
  }
}

/// The likeliest first: the sooner the worst of k is known, the fewer are left. Only scores that are in the
/// answer decide: bounds may be of rows that are other ones by now.
void LiveBase::Search::score_possible(std::size_t q, std::size_t k, Answer& mine,
                                      TableCodes::Scratch& scratch) const {
  std::vector<Possible>& possible = mine.possible;
  std::make_heap(possible.begin(), possible.end());
  for (;;) {
    Slot slots[kRows];
    std::size_t n = 0;
    while (n < kRows && !possible.empty() && possible.front().upper >= worst(mine.best, mine.found, k)) {
      slots[n++] = possible.front().slot;
      std::pop_heap(possible.begin(), possible.end());
      possible.pop_back();
    }
    if (n == 0) return;
    score(q, k, slots, n, mine, scratch);
  }
}

/// Add these rows, kRows at most, to the k best.
void LiveBase::Search::score(std::size_t q, std::size_t k, Slot* slots, std::size_t n, Answer& mine,
                             TableCodes::Scratch& scratch) const {
  Candidate scored[kRows];
  const std::size_t placed = codes_.score(q, slots, n, scored, scratch), before = mine.found;
  for (std::size_t i = 0; i < placed; ++i) {
    if (before < k || better(scored[i], mine.best[k - 1])) mine.best[mine.found++] = scored[i];
  }
  if (mine.found == before || mine.found < k) return;
  const auto first = mine.best.begin(), last = first + static_cast<std::ptrdiff_t>(mine.found);
  if (before == k) {
    std::sort(first + static_cast<std::ptrdiff_t>(k), last, better);
    std::inplace_merge(first, first + static_cast<std::ptrdiff_t>(k), last, better);
  } else {
    std::sort(first, last, better);
  }
  mine.found = k;
}

}  // namespace fastinc
