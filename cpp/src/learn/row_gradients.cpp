#include "learn/row_gradients.h"

#include <algorithm>

namespace fastinc {

void RowGradients::reserve(std::size_t rows, std::size_t terms) {
  if (places_.size() < rows) places_.resize(rows);
  const std::size_t distinct = std::min(rows, terms);
  rows_.reserve(distinct);
  counts_.reserve(distinct);
  starts_.reserve(distinct + 1);
  added_.reserve(terms);
  if (terms_.size() < terms) terms_.resize(terms);
}

void RowGradients::start() {
  rows_.clear();
  counts_.clear();
  added_.clear();
  if (++group_ == 0) {  // wrapped: old places could look new
    std::fill(places_.begin(), places_.end(), Place{});
    group_ = 1;
  }
}

void RowGradients::finish() {
  starts_.assign(1, 0);
  for (const std::uint32_t count : counts_) starts_.push_back(starts_.back() + count);
  std::copy_n(starts_.begin(), counts_.size(), counts_.begin());  // where the next term of each goes
  for (const Added& one : added_) terms_[counts_[one.index]++] = one.term;
}

std::size_t RowGradients::bytes() const {
  return places_.capacity() * sizeof(Place) +
         (rows_.capacity() + counts_.capacity() + starts_.capacity()) * sizeof(std::uint32_t) +
         added_.capacity() * sizeof(Added) + terms_.capacity() * sizeof(GradientTerm);
}

}  // namespace fastinc
