#include "learn/anchors.h"

#include <algorithm>
#include <atomic>
#include <numeric>
#include <string>

#include "cpu/threads.h"
#include "cpu/update.h"
#include "learn/require.h"
#include "store/row_store.h"

namespace fastinc {

void Anchors::count_change() noexcept {
  static std::atomic<std::uint64_t> last{0};
  changes_ = ++last;
}

Anchors::Anchors(const RowStore& store, std::size_t count) : dim_(store.dim()), places_(count) {
  count_change();
  std::iota(places_.begin(), places_.end(), 0u);
  values_.resize(count * dim_);
  parallel_ranges(count, dim_, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    for (std::size_t j = begin; j < end; ++j) {
      std::copy_n(store.weights(static_cast<Slot>(j)), dim_, values_.data() + j * dim_);
    }
  });
}

Anchors::Anchors(const AnchorState& state, std::size_t dim, std::size_t count) : dim_(dim) {
  require(state.values.size() % dim == 0 && state.values.size() / dim == state.rows.size(),
          "recommender state: " + std::to_string(state.values.size()) + " values of " +
              std::to_string(state.rows.size()) + " anchors");
  check_finite(state.values.data(), state.rows.size(), dim, "recommender state: anchors");
  for (const std::uint32_t row : state.rows) {
    require(row < count,
            "recommender state: an anchor of row " + std::to_string(row) + " of " + std::to_string(count));
  }
  reserve(state.rows);
  set(state.rows, state.values.data());
}

void Anchors::reserve(std::span<const std::uint32_t> rows) {
  const auto grow = [](auto& column, std::size_t size) {
    if (column.capacity() < size) column.reserve(std::max(size, 2 * column.capacity()));
  };
  std::size_t most = places_.size(), fresh = 0;
  for (const std::uint32_t row : rows) {
    most = std::max(most, std::size_t{row} + 1);
    fresh += row >= places_.size() || places_[row] == Anchoring::kNone;
  }
  grow(places_, most);
  grow(values_, values_.size() + fresh * dim_);
}

void Anchors::set(std::span<const std::uint32_t> rows, const float* values) noexcept {
  count_change();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::size_t row = rows[i];
    if (row >= places_.size()) places_.resize(row + 1, Anchoring::kNone);
    if (places_[row] == Anchoring::kNone) {
      places_[row] = static_cast<std::uint32_t>(values_.size() / dim_);
      values_.resize(values_.size() + dim_);
    }
    std::copy_n(values + i * dim_, dim_, values_.data() + places_[row] * dim_);
  }
}

void Anchors::drop(std::size_t begin, std::size_t end) noexcept {
  end = std::min(end, places_.size());
  if (begin < end) count_change();
  for (std::size_t row = begin; row < end; ++row) places_[row] = Anchoring::kNone;
}

AnchorState Anchors::export_state() const {
  AnchorState state;
  state.values.reserve(values_.size());
  for (std::size_t row = 0; row < places_.size(); ++row) {
    if (places_[row] == Anchoring::kNone) continue;
    state.rows.push_back(static_cast<std::uint32_t>(row));
    const float* const anchor = values_.data() + places_[row] * dim_;
    state.values.insert(state.values.end(), anchor, anchor + dim_);
  }
  return state;
}

}  // namespace fastinc
