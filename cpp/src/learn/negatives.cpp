#include "learn/negatives.h"

#include <algorithm>
#include <cmath>

#include "cpu/kernels.h"
#include "math/random.h"

namespace fastinc {

std::size_t NegativeSampler::draw(std::span<const std::uint32_t> items, std::uint64_t draw,
                                  std::uint32_t target, std::span<const std::uint32_t> recent, Marks& marks,
                                  std::uint32_t* out) const {
  marks.start();
  std::size_t available = items.size() - marks.mark(target);
  for (const std::uint32_t item : recent) available -= marks.mark(item);
  std::size_t n = 0;
  if (available <= count_) {
    for (const std::uint32_t j : items) {
      if (!marks.has(j)) out[n++] = j;
    }
    return n;
  }
  const std::uint64_t key = base::row_key(seed_, static_cast<std::int64_t>(draw));
  const auto take = [&](std::uint64_t bits) {
    const std::uint32_t j = items[bits * items.size() >> 32];
    if (n < count_ && marks.mark(j)) out[n++] = j;
  };
  for (std::uint64_t i = 0; n < count_; ++i) {
    const std::uint64_t bits = base::random_bits(key, i);
    take(bits >> 32);
    take(bits & 0xffffffffu);
  }
  return n;
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
