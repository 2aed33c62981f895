#include "learn/negatives.h"

#include <algorithm>
#include <cmath>

#include "cpu/kernels.h"
#include "math/random.h"

namespace fastinc {

NegativeSampler::Draw NegativeSampler::draw(std::span<const std::uint32_t> items, std::uint64_t draw,
                                            std::uint32_t target, std::span<const std::uint32_t> recent,
                                            const RecentItems& last, Marks& marks, std::uint32_t* out) const {
  marks.start();
  std::size_t available = items.size() - marks.mark(target);
  for (const std::uint32_t item : recent) available -= marks.mark(item);
  std::size_t n = 0;
  if (available <= count_) {
    for (const std::uint32_t j : items) {
      if (!marks.has(j)) out[n++] = j;
    }
    return {n, 0, 0};
  }
  const std::uint64_t key = base::row_key(seed_, static_cast<std::int64_t>(draw));
  const auto take = [&](std::uint32_t j) {
    if (n < count_ && marks.mark(j)) out[n++] = j;
  };
  const auto one_of = [](const auto& from, std::uint64_t bits) { return from[bits * from.size() >> 32]; };
  if (popular_ > 0.0 && last.size() > 0) {
    const auto bar = static_cast<std::uint64_t>(popular_ * 0x1p32);
    std::uint64_t i = 0, mixed = 0;
    for (; n < count_; ++i) {
      const std::uint64_t bits = base::random_bits(key, i), low = bits & 0xffffffffu;
      const bool is_mixed = i < 4 * count_;  // where few are popular, uniform draws fill up
      mixed += is_mixed;
      take(is_mixed && low < bar ? one_of(last, bits >> 32) : one_of(items, bits >> 32));
    }
    return {n, mixed, i - mixed};
  }
  std::uint64_t i = 0;
  for (; n + 2 <= count_; ++i) {  // whether one is new is no branch: repeats can't be foretold
    const std::uint64_t bits = base::random_bits(key, i);
    out[n] = one_of(items, bits >> 32);
    n += marks.mark(out[n]);
    out[n] = one_of(items, bits & 0xffffffffu);
    n += marks.mark(out[n]);
  }
  for (; n < count_; ++i) {
    const std::uint64_t bits = base::random_bits(key, i);
    take(one_of(items, bits >> 32));
    take(one_of(items, bits & 0xffffffffu));
  }
  return {n, 0, n};
}

void NegativeSampler::correct(std::size_t items, const RecentItems& last, const Draw& draw,
                              const std::uint32_t* drawn, float* scores) const {
  const auto others = static_cast<double>(items - 1);
  if (draw.mixed == 0) {
    const auto all = static_cast<float>(std::log(others / static_cast<double>(draw.n)));
    for (std::size_t j = 0; j < draw.n; ++j) scores[j] += all;
    return;
  }
  for (std::size_t j = 0; j < draw.n; ++j) {
    const double q = popular_ * last.share(drawn[j]) + (1.0 - popular_) / others;
    const double missed = static_cast<double>(draw.mixed) * std::log1p(-std::min(q, 0.999)) +
                          static_cast<double>(draw.uniform) * std::log1p(-1.0 / (others + 1.0));
    scores[j] -= static_cast<float>(std::log(-std::expm1(missed)));
  }
}

std::size_t keep_hard(double deviations, std::uint32_t* rows, float* scores, std::size_t n) {
  const Kernels& kernel = kernels();
  const auto count = static_cast<double>(n);
  const double mean = static_cast<double>(kernel.sum(scores, n)) / count;
  const double variance = static_cast<double>(kernel.dot(scores, scores, n)) / count - mean * mean;
  const auto bar = static_cast<float>(mean + deviations * std::sqrt(variance > 0.0 ? variance : 0.0));
  // Rounding, or a bar that none can reach, leave the best.
  const float lowest = std::min(bar, *std::max_element(scores, scores + n));
  std::size_t kept = 0;
  for (std::size_t j = 0; j < n; ++j) {
    rows[kept] = rows[j];
    scores[kept] = scores[j];
    kept += scores[j] >= lowest;
  }
  return kept;
}

}  // namespace fastinc
