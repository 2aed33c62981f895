// A set of small integers that is emptied in constant time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastinc {

/// mark(i) tells whether i was unmarked since start().
class Marks {
 public:
  void resize(std::size_t n) {
    if (stamps_.size() < n) stamps_.resize(n, 0);
  }
  void start() {
    if (++now_ == 0) {  // wrapped: old stamps could look new
      stamps_.assign(stamps_.size(), 0);
      now_ = 1;
    }
  }
  bool has(std::size_t i) const { return stamps_[i] == now_; }
  bool mark(std::size_t i) {
    const bool unmarked = !has(i);
    stamps_[i] = now_;
    return unmarked;
  }
  std::size_t bytes() const { return stamps_.capacity() * sizeof(std::uint32_t); }

 private:
  std::vector<std::uint32_t> stamps_;
  std::uint32_t now_ = 1;
};

}  // namespace fastinc
