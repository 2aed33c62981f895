// The k best of int8 rows: integer inner products bound every score, and what may be among the best is scored
// as it should be.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "search/candidates.h"
#include "search/code_hits.h"
#include "search/code_queries.h"

namespace fastinc {

struct CodeSearchAnswer {
  std::size_t size = 0;
  bool is_whole = true;  // false where rows changed so that one left out may be better
};

/// A block of queries over all rows. Rows is what is searched:
///   std::size_t size() const, dim() const
///   CodeScan chunk(std::size_t at, std::size_t end) const;  // rows from `at` on that lie in one piece
///   bool is_filtered(std::size_t q) const; bool skips(std::size_t q, std::uint32_t row) const;
///   Scratch make_scratch() const;
///   std::size_t score(std::size_t q, std::uint32_t* rows, std::size_t n, Candidate* out, Scratch&) const;
///     leaves those rows that have a place, in any order, and returns how many; n is at most kScoredTogether
template <class Rows>
class CodeSearch {
 public:
  static constexpr std::size_t kScoredTogether = 64;

  /// Memory that a query takes, in hits.
  static std::size_t room_for(std::size_t k) { return 2 * k + kRoom + kChunk; }

  /// floors: none, or a rank for each query, below which rows don't count; thresholds then come from scores
  /// alone. Allocates all that scan() and answer() need.
  CodeSearch(const Kernels& kernel, const Rows& rows, const CodedQueries& coded, Metric metric, std::size_t k,
             std::span<const float> floors = {});

  void scan() noexcept {
    parallel_tasks(workers_.size(), [&](std::size_t w) noexcept { work(workers_[w]); });
  }

  /// The best of query q, best first, in held: (k,). Calls with different `share` may go on at once.
  CodeSearchAnswer answer(std::size_t q, std::size_t share, Candidate* held) noexcept;

  /// How many calls of answer() can go on at once, and are worth it.
  std::size_t shares() const { return shares_.size(); }

 private:
  static constexpr std::size_t kChunk = 256;   // rows between two looks at how many hits there are
  static constexpr std::size_t kRange = 4096;  // rows that a worker takes at a time
  static constexpr std::size_t kRoom = 512;    // hits beyond twice k before they are sorted out

  static constexpr Candidate kWorst{-std::numeric_limits<float>::infinity(),
                                    std::numeric_limits<std::int64_t>::max()};

  struct Worker {
    CodeHitStore hits;
    std::vector<CodeQuery> queries;
    std::vector<ScanLine> columns, dots;
    std::vector<std::int32_t> keys;
    std::vector<ScoredHit> scored;
    std::vector<Candidate> dropped;  // for each query the best that was scored and dropped
    std::vector<Candidate> candidates;
    typename Rows::Scratch scratch;
  };
  struct Share {
    CodeHitStore hits;
    std::vector<std::int32_t> keys;
    std::vector<std::uint32_t> order;
    typename Rows::Scratch scratch;
  };

  void work(Worker& worker) noexcept;
  void take_thresholds(Worker& worker) noexcept;
  void raise(CodeQuery& query, std::size_t q, float threshold) noexcept;
  void drop(Worker& worker, std::size_t q) noexcept;
  void make_room(Worker& worker, std::size_t q) noexcept;

  const Kernels& kernel_;
  const Rows& rows_;
  const Metric metric_;
  const std::size_t k_, limit_;
  const float rounding_;
  const bool bounds_decide_;
  std::vector<std::atomic<float>> thresholds_;  // the best that any worker knows
  std::vector<Worker> workers_;
  std::vector<Share> shares_;
  std::atomic<std::size_t> next_{0};
};

template <class Rows>
CodeSearch<Rows>::CodeSearch(const Kernels& kernel, const Rows& rows, const CodedQueries& coded,
                             Metric metric, std::size_t k, std::span<const float> floors)
    : kernel_(kernel),
      rows_(rows),
      metric_(metric),
      k_(k),
      limit_(std::min(rows.size(), 2 * k + kRoom)),
      rounding_(score_rounding(rows.dim())),
      bounds_decide_(floors.empty()),
      thresholds_(coded.size()) {
  const std::size_t count = coded.size(), room = limit_ + kChunk;
  const std::size_t threads = threads_for(rows.size() * rows.dim() / 4 * (count / 4 + 1));
  workers_.resize(std::min(threads, rows.size() / kRange + 1));
  for (Worker& worker : workers_) {
    worker.hits = CodeHitStore(count * room);
    worker.columns.resize(code_groups(rows.dim()));
    worker.dots.resize(count);
    worker.keys.resize(room);
    worker.scored.resize(room);
    worker.dropped.assign(count, kWorst);
    worker.candidates.resize(kScoredTogether);
    worker.scratch = rows.make_scratch();
    worker.queries.reserve(count);
    for (std::size_t q = 0; q < count; ++q) {
      worker.queries.push_back(coded[q]);
      worker.queries.back().hits = worker.hits.at(q * room);
      if (!floors.empty()) set_threshold(worker.queries.back(), floors[q], rounding_);
    }
  }
  for (std::size_t q = 0; q < count; ++q) {
    thresholds_[q].store(floors.empty() ? -std::numeric_limits<float>::infinity() : floors[q],
                         std::memory_order_relaxed);
  }
  const std::size_t most = workers_.size() * room;
  shares_.resize(std::min(count, threads_for(count * (2 * k + 64) * rows.dim())));
  for (Share& share : shares_) {
    share.hits = CodeHitStore(most);
    share.keys.resize(most);
    share.order.resize(most);
    share.scratch = rows.make_scratch();
  }
}

template <class Rows>
void CodeSearch<Rows>::work(Worker& worker) noexcept {
  for (;;) {
    const std::size_t begin = next_.fetch_add(kRange, std::memory_order_relaxed);
    if (begin >= rows_.size()) break;
    const std::size_t end = std::min(begin + kRange, rows_.size());
    for (std::size_t at = begin; at < end;) {
      take_thresholds(worker);
      CodeScan scan = rows_.chunk(at, std::min(at + kChunk, end));
      scan.metric = metric_;
      scan.queries = worker.queries.data();
      scan.query_count = worker.queries.size();
      scan.columns = reinterpret_cast<std::uint32_t*>(worker.columns.data());
      scan.dots = reinterpret_cast<std::int32_t*>(worker.dots.data());
      kernel_.scan_codes(scan);
      for (std::size_t q = 0; q < worker.queries.size(); ++q) {
        if (worker.queries[q].found > limit_) make_room(worker, q);
      }
      at += scan.n;
    }
  }
}

template <class Rows>
void CodeSearch<Rows>::take_thresholds(Worker& worker) noexcept {
  for (std::size_t q = 0; q < worker.queries.size(); ++q) {
    const float threshold = thresholds_[q].load(std::memory_order_relaxed);
    if (threshold > worker.queries[q].threshold) set_threshold(worker.queries[q], threshold, rounding_);
  }
}

template <class Rows>
void CodeSearch<Rows>::raise(CodeQuery& query, std::size_t q, float threshold) noexcept {
  if (!(threshold > query.threshold)) return;
  set_threshold(query, threshold, rounding_);
  float known = thresholds_[q].load(std::memory_order_relaxed);
  while (threshold > known &&
         !thresholds_[q].compare_exchange_weak(known, threshold, std::memory_order_relaxed)) {
  }
}

/// Drop hits that are filtered out, and those below what the k best are at least.
template <class Rows>
void CodeSearch<Rows>::drop(Worker& worker, std::size_t q) noexcept {
  CodeQuery& query = worker.queries[q];
  if (rows_.is_filtered(q)) {
    query.found = keep_hits(query.hits, query.found,
                            [&](std::size_t i) { return !rows_.skips(q, query.hits.rows[i]); });
  }
  if (bounds_decide_ && query.found >= k_) {
    raise(query, q, kth_largest(query.hits.lower, query.found, k_, worker.keys.data()));
  }
  query.found = keep_hits(query.hits, query.found,
                          [&](std::size_t i) { return !(query.hits.upper[i] < query.threshold); });
}

/// Where bounds leave too many, because scores are all but equal, the hits are scored and the k best kept.
template <class Rows>
void CodeSearch<Rows>::make_room(Worker& worker, std::size_t q) noexcept {
  CodeQuery& query = worker.queries[q];
  drop(worker, q);
  if (query.found <= k_ + kRoom / 2) return;
  std::size_t size = 0;
  for (std::size_t at = 0; at < query.found; at += kScoredTogether) {
    const std::size_t n = std::min(kScoredTogether, query.found - at);
    std::uint32_t* const rows = query.hits.rows + at;
    const std::size_t placed = rows_.score(q, rows, n, worker.candidates.data(), worker.scratch);
    for (std::size_t i = 0; i < placed; ++i) worker.scored[size++] = {worker.candidates[i], rows[i]};
  }
  const auto first = worker.scored.begin();
  if (size > k_) {
    std::nth_element(first, first + static_cast<std::ptrdiff_t>(k_ - 1),
                     first + static_cast<std::ptrdiff_t>(size),
                     [](const ScoredHit& a, const ScoredHit& b) { return better(a.candidate, b.candidate); });
    for (std::size_t i = k_; i < size; ++i) {
      if (better(worker.scored[i].candidate, worker.dropped[q]))
        worker.dropped[q] = worker.scored[i].candidate;
    }
    size = k_;
    raise(query, q, worker.scored[k_ - 1].candidate.rank);
  }
  for (std::size_t i = 0; i < size; ++i) {
    query.hits.rows[i] = worker.scored[i].row;
    query.hits.upper[i] = query.hits.lower[i] = worker.scored[i].candidate.rank;
  }
  query.found = size;
}

template <class Rows>
CodeSearchAnswer CodeSearch<Rows>::answer(std::size_t q, std::size_t which, Candidate* held) noexcept {
  Share& share = shares_[which];
  const CodeHits hits = share.hits.at(0);
  const auto wanted = [&](std::size_t i) { return !rows_.is_filtered(q) || !rows_.skips(q, hits.rows[i]); };
  std::size_t found = 0;
  for (const Worker& worker : workers_) {
    const CodeQuery& query = worker.queries[q];
    std::copy_n(query.hits.rows, query.found, hits.rows + found);
    std::copy_n(query.hits.upper, query.found, hits.upper + found);
    std::copy_n(query.hits.lower, query.found, hits.lower + found);
    found += query.found;
  }
  found = keep_hits(hits, found, wanted);
  float threshold = thresholds_[q].load(std::memory_order_relaxed);
  if (bounds_decide_ && found >= k_) {
    threshold = std::max(threshold, kth_largest(hits.lower, found, k_, share.keys.data()));
  }
  found = keep_hits(hits, found, [&](std::size_t i) { return !(hits.upper[i] < threshold); });
  const auto upper = [&](std::uint32_t i) {  // bounds that aren't numbers come first
    return std::isnan(hits.upper[i]) ? std::numeric_limits<float>::infinity() : hits.upper[i];
  };
  std::uint32_t* const order = share.order.data();
  for (std::size_t i = 0; i < found; ++i) order[i] = static_cast<std::uint32_t>(i);
  std::sort(order, order + found, [&](std::uint32_t a, std::uint32_t b) { return upper(a) > upper(b); });
  Best best{held, k_, 0};
  std::uint32_t rows[kScoredTogether];
  Candidate candidates[kScoredTogether];
  for (std::size_t at = 0; at < found;) {
    std::size_t n = 0;
    for (; n < kScoredTogether && at < found; ++n, ++at) {
      if (best.full() && upper(order[at]) < held[0].rank) {
        at = found;
        break;
      }
      rows[n] = hits.rows[order[at]];
    }
    const std::size_t placed = rows_.score(q, rows, n, candidates, share.scratch);
    for (std::size_t i = 0; i < placed; ++i) best.offer(candidates[i]);
  }
  const bool is_whole =
      threshold == kWorst.rank || (best.full() && held[0].rank >= threshold &&
                                   std::none_of(workers_.begin(), workers_.end(), [&](const Worker& worker) {
                                     return better(worker.dropped[q], held[0]);
                                   }));
  std::sort(held, held + best.size, better);
  return {best.size, is_whole};
}

/// How many queries one pass over the rows answers: as many as keep the memory for hits bounded.
template <class Rows>
std::size_t queries_together(std::size_t k) {
  constexpr std::size_t kMostQueries = 64, kMostHits = std::size_t{1} << 21;  // of a thread
  return std::clamp<std::size_t>(kMostHits / CodeSearch<Rows>::room_for(k), 1, kMostQueries);
}

}  // namespace fastinc
