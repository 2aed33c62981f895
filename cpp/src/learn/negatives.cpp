#include "learn/negatives.h"

#include <cmath>

#include "math/random.h"

namespace fastinc {

std::size_t NegativeSampler::draw(std::size_t items, std::uint64_t draw, std::uint32_t target,
                                  std::span<const std::uint32_t> recent, Marks& marks,
                                  std::uint32_t* out) const {
  marks.start();
  std::size_t available = items - marks.mark(target);
  for (const std::uint32_t item : recent) available -= marks.mark(item);
  std::size_t n = 0;
  if (available <= count_) {
    for (std::uint32_t j = 0; j < items; ++j) {
      if (!marks.has(j)) out[n++] = j;
    }
    return n;
  }
  const std::uint64_t key = base::row_key(seed_, static_cast<std::int64_t>(draw));
  for (std::uint64_t i = 0; n < count_; ++i) {
    const std::uint64_t bits = base::random_bits(key, i) >> 32;
    const auto j = static_cast<std::uint32_t>(bits * items >> 32);
    if (marks.mark(j)) out[n++] = j;
  }
  return n;
}

std::size_t keep_hard(double deviations, std::uint32_t* rows, float* scores, std::size_t n) {
  constexpr std::size_t kLanes = 8;  // sums in a fixed order, and none waits for the one before it
  double sums[kLanes] = {}, squares[kLanes] = {};
  for (std::size_t j = 0; j < n; ++j) {
    const double x = static_cast<double>(scores[j]);
    sums[j % kLanes] += x;
    squares[j % kLanes] += x * x;
  }
  double sum = 0.0, square = 0.0;
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    sum += sums[lane];
    square += squares[lane];
  }
  const double mean = sum / static_cast<double>(n);
  const double variance = square / static_cast<double>(n) - mean * mean;
  const auto bar = static_cast<float>(mean + deviations * std::sqrt(variance > 0.0 ? variance : 0.0));
  std::size_t kept = 0;
  float best = -HUGE_VALF;
  for (std::size_t j = 0; j < n; ++j) best = scores[j] > best ? scores[j] : best;
  for (std::size_t j = 0; j < n; ++j) {
    if (!(scores[j] >= bar || scores[j] == best)) continue;  // rounding may put the bar above all
    rows[kept] = rows[j];
    scores[kept++] = scores[j];
  }
  return kept;
}

}  // namespace fastinc
