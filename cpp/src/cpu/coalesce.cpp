#include "cpu/coalesce.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <stdexcept>
#include <string>

#include "cpu/threads.h"

namespace fastinc {
namespace {

constexpr std::size_t kSmall = 2048;  // below this a comparison sort beats clearing the counters
constexpr unsigned kMaxDigitBits =
    12;  // 4,096 counters stay in L1; three passes of 11 were slower than two of 12
constexpr std::size_t kSortGrain = 16;  // floats of work one key counts as, for threads_for()

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

void Coalescer::reserve(std::size_t n) {
  keys_.reserve(n);
  starts_.reserve(n + 1);
  if (n <= kSmall) return;
  spare_.reserve(n);
  counts_.reserve((std::size_t{1} << kMaxDigitBits) * threads_for(n * kSortGrain));
}

template <class Row>
const Segments& Coalescer::group(std::span<const Row> rows, std::uint64_t num_rows) {
  const std::size_t n = rows.size();
  const unsigned position_bits = position_bits_for(n, num_rows);
  keys_.resize(n);
  for (std::size_t i = 0; i < n; ++i) keys_[i] = static_cast<std::uint64_t>(rows[i]) << position_bits | i;
  if (n <= kSmall) {
    std::sort(keys_.begin(), keys_.end());  // positions are part of the key: the order is the stable one
  } else {
    sort_keys(position_bits, position_bits + bits_for(num_rows));
  }
  starts_.clear();
  starts_.reserve(n + 1);
  std::uint64_t last = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint64_t row = keys_[i] >> position_bits;
    if (i == 0 || row != last) starts_.push_back(static_cast<std::uint32_t>(i));
    last = row;
  }
  const std::size_t count = starts_.size();
  starts_.push_back(static_cast<std::uint32_t>(n));
  segments_ = {keys_.data(), starts_.data(), count, position_bits};
  return segments_;
}

template const Segments& Coalescer::group(std::span<const std::int32_t>, std::uint64_t);
template const Segments& Coalescer::group(std::span<const std::int64_t>, std::uint64_t);
template const Segments& Coalescer::group(std::span<const std::uint32_t>, std::uint64_t);

// Least significant digit first; each thread counts and scatters a contiguous range, so every pass is stable.
void Coalescer::sort_keys(unsigned low_bit, unsigned high_bit) {
  const std::size_t n = keys_.size();
  const unsigned bits = high_bit - low_bit;
  const unsigned passes = (bits + kMaxDigitBits - 1) / kMaxDigitBits;
  const unsigned digit_bits = (bits + passes - 1) / passes;
  const std::size_t digits = std::size_t{1} << digit_bits;
  const std::size_t threads = threads_for(n * kSortGrain);
  spare_.resize(n);
  counts_.resize(digits * threads);
  for (unsigned pass = 0; pass < passes; ++pass) {
    const unsigned shift = low_bit + pass * digit_bits;
    const std::uint64_t* from = keys_.data();
    std::uint64_t* to = spare_.data();
    std::uint32_t* counts = counts_.data();
    const auto range = [&](std::size_t t) { return n * t / threads; };
    parallel_tasks(threads, [&](std::size_t t) noexcept {
      std::uint32_t* mine = counts + t * digits;
      std::fill(mine, mine + digits, 0u);
      for (std::size_t i = range(t); i < range(t + 1); ++i) ++mine[from[i] >> shift & (digits - 1)];
    });
    std::uint32_t total = 0;
    for (std::size_t d = 0; d < digits; ++d) {
      for (std::size_t t = 0; t < threads; ++t) {
        const std::uint32_t here = counts[t * digits + d];
        counts[t * digits + d] = total;
        total += here;
      }
    }
    parallel_tasks(threads, [&](std::size_t t) noexcept {
      std::uint32_t* mine = counts + t * digits;
      for (std::size_t i = range(t); i < range(t + 1); ++i)
        to[mine[from[i] >> shift & (digits - 1)]++] = from[i];
    });
    keys_.swap(spare_);
  }
}

}  // namespace fastinc
