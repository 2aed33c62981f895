#include "learn/row_gradients.h"

#include <algorithm>

namespace fastinc {

void RowGradients::reserve(std::size_t rows, std::size_t terms) {
  const auto grow = [](auto& column, std::size_t size) {
    if (column.size() < size) column.resize(size);
  };
  const std::size_t distinct = std::min(rows, terms);
  grow(places_, rows);
  grow(rows_, distinct);
  grow(counts_, distinct);
  grow(starts_, distinct + 1);
  grow(added_, terms);
  grow(terms_, terms);
}

void RowGradients::start() {
  row_count_ = term_count_ = 0;
  if (++group_ == 0) {  // wrapped: old places could look new
    std::fill(places_.begin(), places_.end(), Place{});
    group_ = 1;
  }
}

void RowGradients::finish() {
  std::uint32_t start = 0;
  for (std::size_t j = 0; j < row_count_; ++j) {
    starts_[j] = start;
    start += counts_[j];
    counts_[j] = starts_[j];  // where the next term of each goes
  }
  starts_[row_count_] = start;
  for (std::size_t i = 0; i < term_count_; ++i) terms_[counts_[added_[i].index]++] = added_[i].term;
}

std::size_t RowGradients::bytes() const {
  return places_.capacity() * sizeof(Place) +
         (rows_.capacity() + counts_.capacity() + starts_.capacity()) * sizeof(std::uint32_t) +
         added_.capacity() * sizeof(Added) + terms_.capacity() * sizeof(GradientTerm);
}

}  // namespace fastinc
