#include "cpu/coalesce.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "cpu/threads.h"

namespace fastinc {
namespace {

constexpr std::size_t kSmall = 64;  // below this a comparison sort beats clearing the counters
constexpr unsigned kMaxDigitBits =
    12;  // 4,096 counters stay in L1; more passes are slower than fewer, wider ones
constexpr unsigned kMaxPasses = 64 / kMaxDigitBits + 1;
constexpr unsigned kBlockBits = 8;  // rows are shared out in at most 256 blocks

/// Bits that number `count` things, at least 1.
unsigned bits_for(std::uint64_t count) {
  return count > 1 ? static_cast<unsigned>(std::bit_width(count - 1)) : 1u;
}

}  // namespace

unsigned position_bits_for(std::size_t n, std::uint64_t num_rows) {
  const unsigned position_bits = bits_for(n);
  // positions and starts are 32 bits, and the last start is n itself
  if (n > std::numeric_limits<std::uint32_t>::max() || position_bits + bits_for(num_rows) > 64) {
    throw std::invalid_argument("ids: a batch of " + std::to_string(n) + " over " + std::to_string(num_rows) +
                                " rows is too large for one call; split it");
  }
  return position_bits;
}

void Coalescer::reserve(std::size_t n, std::size_t max_parts) {
  keys_.reserve(n);
  spare_.reserve(n);
  starts_.reserve(n + max_parts);
  counts_.reserve(max_parts << kBlockBits);
  parts_.reserve(max_parts);
}

template <class Row>
std::size_t Coalescer::split(std::span<const Row> rows, std::uint64_t num_rows, std::size_t max_parts) {
  const std::size_t n = rows.size();
  position_bits_ = position_bits_for(n, num_rows);
  keys_.resize(n);
  parts_.clear();
  if (max_parts <= 1) {
    for (std::size_t i = 0; i < n; ++i) keys_[i] = static_cast<std::uint64_t>(rows[i]) << position_bits_ | i;
    parts_.push_back({0, n, 0, num_rows});
  } else {
    // Counting sort by block of rows; each thread takes a contiguous range of the batch, so the order is
    // kept.
    const unsigned row_bits = bits_for(num_rows);
    const unsigned shift = row_bits > kBlockBits ? row_bits - kBlockBits : 0;
    const std::size_t blocks = static_cast<std::size_t>((num_rows - 1) >> shift) + 1;
    counts_.assign(blocks * max_parts, 0);
    parallel_parts(n, max_parts, [&](std::size_t begin, std::size_t end, std::size_t t) noexcept {
      std::uint32_t* const mine = counts_.data() + t * blocks;
      for (std::size_t i = begin; i < end; ++i) ++mine[static_cast<std::uint64_t>(rows[i]) >> shift];
    });
    std::uint32_t total = 0;
    Part part{0, 0, 0, 0};
    for (std::size_t block = 0; block < blocks; ++block) {
      for (std::size_t t = 0; t < max_parts; ++t) {
        total += std::exchange(counts_[t * blocks + block], total);
      }
      part.rows = (std::uint64_t{block + 1} << shift) - part.first_row;
      part.end = total;
      if (total < n * (parts_.size() + 1) / max_parts) continue;
      parts_.push_back(part);
      if (total == n) break;  // later blocks are empty
      part = {total, total, std::uint64_t{block + 1} << shift, 0};
    }
    parallel_parts(n, max_parts, [&](std::size_t begin, std::size_t end, std::size_t t) noexcept {
      std::uint32_t* const next = counts_.data() + t * blocks;
      for (std::size_t i = begin; i < end; ++i) {
        const auto row = static_cast<std::uint64_t>(rows[i]);
        keys_[next[row >> shift]++] = row << position_bits_ | i;
      }
    });
  }
  spare_.resize(n);
  starts_.resize(n + parts_.size());
  return parts_.size();
}

template std::size_t Coalescer::split(std::span<const std::int32_t>, std::uint64_t, std::size_t);
template std::size_t Coalescer::split(std::span<const std::int64_t>, std::uint64_t, std::size_t);
template std::size_t Coalescer::split(std::span<const std::uint32_t>, std::uint64_t, std::size_t);

Segments Coalescer::sort(std::size_t number) noexcept {
  const Part& part = parts_[number];
  const std::size_t n = part.end - part.begin;
  std::uint64_t* const keys = keys_.data() + part.begin;
  if (n <= kSmall) {
    std::sort(keys, keys + n);  // positions are part of the key: the order is the stable one
  } else {
    sort_keys(part);
  }
  std::uint32_t* const starts = starts_.data() + part.begin + number;
  std::size_t count = 0;
  std::uint64_t last = ~std::uint64_t{0};
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint64_t row = keys[i] >> position_bits_;
    starts[count] = static_cast<std::uint32_t>(i);
    count += row != last;  // no branch: whether rows repeat can't be predicted
    last = row;
  }
  starts[count] = static_cast<std::uint32_t>(n);
  return {keys, starts, count, position_bits_};
}

// Least significant digit first.
void Coalescer::sort_keys(const Part& part) noexcept {
  const std::size_t n = part.end - part.begin;
  const unsigned bits = bits_for(part.rows);
  // A pass costs about as much for a counter as for a key.
  unsigned passes = 1;
  double best = 1e300;
  for (unsigned p = 1; p <= kMaxPasses; ++p) {
    const unsigned width = (bits + p - 1) / p;
    if (width > kMaxDigitBits) continue;
    const double cost = p * (static_cast<double>(n) + static_cast<double>(std::size_t{1} << width));
    if (cost < best) best = cost, passes = p;
  }
  const unsigned width = (bits + passes - 1) / passes;
  const std::size_t digits = std::size_t{1} << width;
  const std::uint64_t first = part.first_row << position_bits_;
  std::uint64_t *from = keys_.data() + part.begin, *to = spare_.data() + part.begin;
  std::uint32_t counts[std::size_t{1} << kMaxDigitBits];
  for (unsigned pass = 0; pass < passes; ++pass) {
    const unsigned shift = position_bits_ + pass * width;
    const auto digit = [=](std::uint64_t key) { return (key - first) >> shift & (digits - 1); };
    std::fill_n(counts, digits, 0u);
    for (std::size_t i = 0; i < n; ++i) ++counts[digit(from[i])];
    std::uint32_t total = 0;
    for (std::size_t d = 0; d < digits; ++d) total += std::exchange(counts[d], total);
    for (std::size_t i = 0; i < n; ++i) to[counts[digit(from[i])]++] = from[i];
    std::swap(from, to);
  }
  if (from != keys_.data() + part.begin) std::copy_n(from, n, to);
}

}  // namespace fastinc
