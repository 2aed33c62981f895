// Some of the items 0, 1, 2, ..., by code: the k-th of them, in logarithmic time.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastinc {

/// A Fenwick tree of ones (Fenwick 1994): what is at k depends on which items are in it alone, not on what
/// went before.
class NewItems {
 public:
  /// How many are in it.
  std::size_t size() const { return size_; }

  /// The k-th of them in order, k < size().
  std::uint32_t operator[](std::size_t k) const {
    std::size_t item = 0;
    auto rest = static_cast<std::uint32_t>(k);
    for (std::size_t step = std::bit_floor(counts_.size()); step > 0; step /= 2) {
      if (item + step > counts_.size() || counts_[item + step - 1] > rest) continue;
      item += step;
      rest -= counts_[item - 1];
    }
    return static_cast<std::uint32_t>(item);
  }

  /// Room for so many items: push() can't fail then.
  void reserve(std::size_t items) { counts_.reserve(items); }
  /// The next item, which is in it or not.
  void push(bool is_in) {
    const std::size_t at = counts_.size() + 1;
    std::uint32_t count = is_in;
    for (std::size_t i = at - 1; i > at - lowest_bit(at); i -= lowest_bit(i)) count += counts_[i - 1];
    counts_.push_back(count);
    size_ += is_in;
  }
  /// One that is in it isn't any more.
  void erase(std::size_t item) {
    for (std::size_t i = item + 1; i <= counts_.size(); i += lowest_bit(i)) --counts_[i - 1];
    --size_;
  }

  std::size_t bytes() const { return counts_.capacity() * sizeof(std::uint32_t); }

 private:
  static std::size_t lowest_bit(std::size_t i) { return i & -i; }

  std::vector<std::uint32_t> counts_;  // at i - 1: of the items i - lowest_bit(i) .. i - 1
  std::size_t size_ = 0;
};

}  // namespace fastinc
