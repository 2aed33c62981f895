// Sets of small integers that are emptied in constant time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fastinc {

/// mark(i) tells whether i was unmarked since start().
class Marks {
 public:
  void resize(std::size_t n) { stamps_.resize(n, 0); }
  void start() {
    if (++now_ == 0) {  // wrapped: old stamps could look new
      stamps_.assign(stamps_.size(), 0);
      now_ = 1;
    }
  }
  bool mark(std::size_t i) {
    if (stamps_[i] == now_) return false;
    stamps_[i] = now_;
    return true;
  }

 private:
  std::vector<std::uint32_t> stamps_;
  std::uint32_t now_ = 1;
};

/// The distinct rows written since clear(). resize() makes room, so that add() can't fail.
class Touched {
 public:
  void resize(std::size_t n) {
    marks_.resize(n);
    rows_.reserve(n);
  }
  void add(std::size_t row) {
    if (marks_.mark(row)) rows_.push_back(static_cast<std::uint32_t>(row));
  }
  std::span<const std::uint32_t> rows() const { return rows_; }
  void clear() {
    rows_.clear();
    marks_.start();
  }

 private:
  Marks marks_;
  std::vector<std::uint32_t> rows_;
};

}  // namespace fastinc
