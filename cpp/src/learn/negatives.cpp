#include "learn/negatives.h"

#include <algorithm>

#include "math/random.h"

namespace fastinc {
namespace {

constexpr std::size_t kHistoryNotNegative = 100;  // the last items of a user are never negatives

}  // namespace

void Negatives::reserve(std::size_t items) {
  marks_.resize(items);
  drawn_.reserve(std::min(count_, items));
}

void Negatives::draw(std::size_t items, std::uint64_t draw) {
  drawn_.clear();
  if (items <= count_) {
    for (std::uint32_t j = 0; j < items; ++j) drawn_.push_back(j);
    return;
  }
  marks_.start();
  const std::uint64_t key = base::row_key(seed_, static_cast<std::int64_t>(draw));
  for (std::uint64_t n = 0; drawn_.size() < count_; ++n) {
    const std::uint64_t bits = base::random_bits(key, n) >> 32;
    const std::size_t j = static_cast<std::size_t>(bits * items >> 32);
    if (marks_.mark(j)) drawn_.push_back(static_cast<std::uint32_t>(j));
  }
}

void Negatives::append(const Histories& histories, std::int64_t user, std::int64_t item,
                       std::vector<std::uint32_t>& out) {
  marks_.start();
  marks_.mark(static_cast<std::size_t>(item));
  const std::size_t recent = std::min(histories.length(user), kHistoryNotNegative);
  for (std::size_t l = 0; l < recent; ++l) {
    marks_.mark(static_cast<std::size_t>(histories.recent(user, l).item));
  }
  for (const std::uint32_t j : drawn_) {
    if (!marks_.has(j)) out.push_back(j);
  }
}

}  // namespace fastinc
