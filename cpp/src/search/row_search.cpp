#include "search/row_search.h"

#include <algorithm>
#include <cfloat>
#include <span>

#include "cpu/threads.h"
#include "store/repeats.h"

namespace fastinc {
namespace {

constexpr std::size_t kQueryBlock = 64;     // queries answered in one pass over the rows
constexpr std::size_t kMaxHeld = 1u << 22;  // candidates held at once, by all threads

std::size_t own_count(const SlotLists& lists, std::size_t first, std::size_t last) {
  return lists.own == nullptr ? 0 : lists.own->starts[last] - lists.own->starts[first];
}

}  // namespace

void RowSearch::select(std::size_t q, const Block& block, Best& best) const {
  for (std::size_t j = 0; j < block.size; ++j) {
    const float rank = block.ranks[j];
    if (rank != rank) continue;  // a row that isn't a number has no place in the order
    if (best.full() && rank < best.heap[0].rank) continue;
    if (!filter_.refuses(q, block.ids[j])) best.offer({rank, block.ids[j]});
  }
}

/// Offer slots [begin, end) (of `slots`, or of the table where that is null) to queries [first, last).
/// rows: (block rows, dim) to copy rows to
void RowSearch::scan(const Slot* slots, std::size_t begin, std::size_t end, std::size_t first,
                     std::size_t last, Best* best, float* rows) const {
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
void RowSearch::answer(const SlotLists& lists, std::size_t first, std::size_t last, std::size_t threads,
                       Best* best) {
  const std::size_t n = last - first, count = lists.shared_count;
  const std::size_t parts = std::min(n, threads_for(own_count(lists, first, last) * store_.dim()));
  const std::size_t block_floats = scores_.block_rows() * store_.dim();
  row_copies_.resize(std::max(threads, parts) * block_floats);
  parallel_tasks(threads, [&](std::size_t t) noexcept {
    scan(lists.shared, count * t / threads, count * (t + 1) / threads, first, last, best + t * n,
         row_copies_.data() + t * block_floats);
  });
  for (std::size_t t = 1; t < threads; ++t) {
    for (std::size_t q = 0; q < n; ++q) {
      const Best& other = best[t * n + q];
      for (std::size_t i = 0; i < other.size; ++i) best[q].offer(other.heap[i]);
    }
  }
  if (lists.own == nullptr) return;
  parallel_tasks(parts, [&](std::size_t part) noexcept {
    for (std::size_t q = first + n * part / parts; q < first + n * (part + 1) / parts; ++q) {
      const std::span<const Slot> list = lists.own->of(q);
      scan(list.data(), 0, list.size(), q, q + 1, best + (q - first),
           row_copies_.data() + part * block_floats);
    }
  });
}

void RowSearch::run(const SlotLists& lists, std::size_t first, std::size_t last, float* scores,
                    std::int64_t* ids) {
  std::size_t longest = 0;
  for (std::size_t q = first; q < last; ++q) longest = std::max(longest, own_count(lists, q, q + 1));
  const std::size_t capacity = std::min(k_, lists.shared_count + longest);
  const std::size_t queries = std::min(kQueryBlock, last - first);
  const std::size_t threads = std::min(std::max<std::size_t>(lists.shared_count, 1),
                                       threads_for(lists.shared_count * store_.dim() * queries));
  const std::size_t block =
      std::clamp<std::size_t>(kMaxHeld / (std::max<std::size_t>(capacity, 1) * threads), 1, kQueryBlock);
  std::vector<Candidate> held(std::min(block, queries) * threads * capacity);
  std::vector<Best> best;
  for (std::size_t begin = first; begin < last; begin += block) {
    const std::size_t end = std::min(begin + block, last);
    best.assign((end - begin) * threads, Best{});
    for (std::size_t i = 0; i < best.size(); ++i) best[i] = {held.data() + i * capacity, capacity, 0};
    if (capacity > 0) answer(lists, begin, end, threads, best.data());
    for (std::size_t q = begin; q < end; ++q) {
      Best& mine = best[q - begin];
      const std::size_t size = drop_repeats(mine.heap, mine.size);
      if (size == mine.size || mine.size < k_) {
        write(q, mine.heap, size, scores, ids);
        continue;
      }
      const std::vector<Candidate> wider = run_wider(lists, q, 2 * k_ - size);
      write(q, wider.data(), wider.size(), scores, ids);
    }
  }
}

/// An id that was met twice stood in the place of another row: once more, with room for both.
std::vector<Candidate> RowSearch::run_wider(const SlotLists& lists, std::size_t q, std::size_t k) {
  for (;;) {
    std::vector<Candidate> held(k);
    Best best{held.data(), k, 0};
    answer(lists, q, q + 1, 1, &best);
    const std::size_t size = drop_repeats(held.data(), best.size);
    held.resize(size);
    if (size >= k_ || best.size < k) return held;
    k += best.size - size;
  }
}

std::size_t RowSearch::drop_repeats(Candidate* best, std::size_t size) const {
  std::sort(best, best + size, better);
  const auto end = fastinc::drop_repeats(store_, version_, best, best + size,
                                         [](const Candidate& candidate) { return candidate.id; });
  return static_cast<std::size_t>(end - best);
}

void RowSearch::write(std::size_t q, const Candidate* best, std::size_t size, float* scores,
                      std::int64_t* ids) const {
  const float sign = metric_ == Metric::kL2 ? -1.0f : 1.0f;
  for (std::size_t i = 0; i < k_; ++i) {
    float& score = scores[q * k_ + i];
    score = sign * (i < size ? best[i].rank : -FLT_MAX);
    score += 0.0f;  // l2 turns 0 into -0: a distance prints as 0
    ids[q * k_ + i] = i < size ? best[i].id : -1;
  }
}

}  // namespace fastinc
