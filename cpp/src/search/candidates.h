// What searches share: the order of candidates, the k best of them, and scores beyond float32.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "fastinc/exact_search.h"
#include "math/precise_score.h"

namespace fastinc {

/// rank is the score, negated where small is good: larger is better.
struct Candidate {
  float rank;
  std::int64_t id;
};

/// A total order, so the k best are the same ones however the rows are shared out.
struct Better {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.rank > b.rank || (a.rank == b.rank && a.id < b.id);
  }
};
inline constexpr Better better;  // an object, not a function: sorts can inline it

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

using base::precise_score;
using base::saturate;

}  // namespace fastinc
