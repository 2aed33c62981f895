// What searches share: the order of candidates, the k best of them, and scores beyond float32.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cstddef>
#include <cstdint>

#include "fastinc/exact_search.h"
#include "math/scalar.h"

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

inline float saturate(double x) {
  constexpr double kLargest = FLT_MAX;
  return static_cast<float>(x > kLargest ? kLargest : (x < -kLargest ? -kLargest : x));
}

/// The rare score that float32 arithmetic can't reach.
inline float precise_score(Metric metric, const float* q, const float* x, std::size_t dim) {
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
  constexpr double kNone = 1e-80;  // codes can't tell rows shorter than 1e-40 from zero
  if (qq == 0.0 || xx < kNone) return 0.0f;
  return saturate(ip / (base::square_root(qq) * base::square_root(xx)));
}

}  // namespace fastinc
