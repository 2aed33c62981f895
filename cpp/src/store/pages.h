// Arrays that grow without moving: pages of rows, each mapped whole and touched row by row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "store/lazy_memory.h"

namespace fastinc {

/// The directory is made for as many pages as there can be, so that readers need no lock to find a page.
template <class T>
class Pages {
 public:
  /// stride: of a row, in T. Throws std::bad_alloc.
  Pages(std::size_t stride, unsigned page_shift, std::size_t max_pages)
      : stride_(stride), page_shift_(page_shift), directory_(max_pages * sizeof(T*)) {
    pages_.reserve(16);
  }

  T* const* directory() const { return static_cast<T* const*>(directory_.data()); }
  std::size_t rows() const { return pages_.size() << page_shift_; }

  /// Throws std::bad_alloc, unchanged.
  void add_page() {
    pages_.push_back(LazyMemory((stride_ << page_shift_) * sizeof(T), !pages_.empty()));
    static_cast<T**>(directory_.data())[pages_.size() - 1] = static_cast<T*>(pages_.back().data());
  }

  T* at(std::size_t row) const {
    return directory()[row >> page_shift_] + (row & ((std::size_t{1} << page_shift_) - 1)) * stride_;
  }

 private:
  std::size_t stride_;
  unsigned page_shift_;
  LazyMemory directory_;
  std::vector<LazyMemory> pages_;
};

}  // namespace fastinc
