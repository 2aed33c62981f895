#include "learn/item_features.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "cpu/kernels.h"
#include "fastinc/runtime.h"
#include "learn/require.h"

namespace fastinc {

ItemFeatures::ItemFeatures(std::size_t numbers, std::size_t buckets) : numbers_(numbers), buckets_(buckets) {
  if (rows() == 0) return;
  first_rows_.resize(1 + numbers);
  std::iota(first_rows_.begin(), first_rows_.end(), 0u);
}
void ItemFeatures::check(const FeatureBatch& batch) const {
  const std::size_t n = batch.items.size();
  require(n == 0 || rows() > 0, "features: this model has no item_features");
  require(batch.numbers.size() == n * numbers_, "features: " + std::to_string(batch.numbers.size()) +
                                                    " numbers, not " + std::to_string(numbers_) +
                                                    " for each of " + std::to_string(n) + " items");
  for (std::size_t i = 0; i < batch.numbers.size(); ++i) {
    require(std::abs(batch.numbers[i]) <= kMost,
            "features: number " + std::to_string(i % numbers_) + " of item " + std::to_string(i / numbers_) +
                " = " + number_text(static_cast<double>(batch.numbers[i])) + " must be at most " +
                number_text(static_cast<double>(kMost)));
  }
  if (batch.offsets.empty()) {
    require(batch.buckets.empty(), "features: categories without offsets");
    return;
  }
  require(batch.offsets.size() == n + 1 && batch.offsets.front() == 0 &&
              std::is_sorted(batch.offsets.begin(), batch.offsets.end()) &&
              static_cast<std::size_t>(batch.offsets.back()) == batch.buckets.size(),
          "features: the offsets of categories don't fit the items");
  for (const std::int64_t bucket : batch.buckets) {
    require(bucket >= 0 && static_cast<std::size_t>(bucket) < buckets_,
            "features: bucket " + std::to_string(bucket) + " must be from 0 to " + std::to_string(buckets_) +
                " - 1");
  }
}

void ItemFeatures::reserve(const FeatureBatch& batch, std::size_t items) {
  const std::size_t n = batch.items.size(), count = items_.size() + n;
  const auto grow = [](auto& column, std::size_t size) {
    if (column.capacity() < size) column.reserve(std::max(size, 2 * column.capacity()));
  };
  grow(place_, items);
  if (rows() > 0) grow(given_, items);
  grow(items_, count);
  grow(stamps_, count);
  grow(categories_, count);
  grow(step_shares_, count);
  grow(values_, count * (1 + numbers_));
  reserved_.assign(n, {});
  for (std::size_t i = 0; i < n && !batch.offsets.empty(); ++i) {
    const auto at = [&](std::size_t j) { return batch.buckets.begin() + batch.offsets[j]; };
    for (auto bucket = at(i); bucket != at(i + 1); ++bucket) {
      reserved_[i].push_back(static_cast<std::uint32_t>(1 + numbers_) + static_cast<std::uint32_t>(*bucket));
    }
    if (reserved_[i].size() > ones_.size()) ones_.resize(reserved_[i].size(), 1.0f);
  }
}

void ItemFeatures::set(const FeatureBatch& batch) {
  ++changes_;
  for (std::size_t i = 0; i < batch.items.size(); ++i) {
    const auto item = static_cast<std::size_t>(batch.items[i]);
    if (item >= place_.size()) place_.resize(item + 1, kNone);
    if (place_[item] == kNone) {
      place_[item] = static_cast<std::uint32_t>(items_.size());
      items_.push_back(static_cast<std::uint32_t>(item));
      stamps_.push_back(0);
      categories_.emplace_back();
      step_shares_.push_back(0.0f);
      values_.push_back(1.0f);
      values_.resize(values_.size() + numbers_);
    }
    stamps_[place_[item]] = changes_;
    std::copy_n(batch.numbers.data() + i * numbers_, numbers_,
                values_.data() + place_[item] * (1 + numbers_) + 1);
    double squares = 1.0 + static_cast<double>(reserved_[i].size());
    for (std::size_t k = 0; k < numbers_; ++k) {
      const auto x = static_cast<double>(batch.numbers[i * numbers_ + k]);
      squares += x * x;
    }
    step_shares_[place_[item]] = static_cast<float>(1.0 / squares);
    categories_[place_[item]] = std::move(reserved_[i]);
  }
  reserved_ = {};
}

void ItemFeatures::give(std::span<const std::uint32_t> items) noexcept {
  if (rows() == 0) return;  // nothing starts from features
  for (const std::uint32_t item : items) {
    if (item >= given_.size()) given_.resize(item + std::size_t{1}, 0);
    given_[item] = 1;
  }
}

void ItemFeatures::gather(std::size_t item, Uses& uses) const {
  const std::size_t place = place_[item], n = 1 + numbers_;
  uses.rows.insert(uses.rows.end(), first_rows_.begin(), first_rows_.end());
  uses.weights.insert(uses.weights.end(), values_.begin() + static_cast<std::ptrdiff_t>(place * n),
                      values_.begin() + static_cast<std::ptrdiff_t>((place + 1) * n));
  for (const std::uint32_t row : categories_[place]) uses.add(row, 1.0f);
}

void ItemFeatures::map(std::size_t item, const RowSet& rows, float* out) const noexcept {
  const std::size_t place = place_[item], n = 1 + numbers_;
  std::fill_n(out, rows.dim, 0.0f);
  kernels().accumulate_rows(rows, first_rows_.data(), n, values_.data() + place * n, out);
  const std::vector<std::uint32_t>& categories = categories_[place];
  kernels().accumulate_rows(rows, categories.data(), categories.size(), ones_.data(), out);
}

void ItemFeatures::append_changed(std::uint64_t since, FeatureState& state) const {
  if (state.offsets.empty()) state.offsets.push_back(0);
  for (std::size_t i = 0; i < items_.size(); ++i) {
    if (stamps_[i] <= since) continue;
    state.items.push_back(items_[i]);
    const auto begin = values_.begin() + static_cast<std::ptrdiff_t>(i * (1 + numbers_) + 1);
    state.numbers.insert(state.numbers.end(), begin, begin + static_cast<std::ptrdiff_t>(numbers_));
    for (const std::uint32_t row : categories_[i]) {
      state.buckets.push_back(static_cast<std::int64_t>(row - 1 - numbers_));
    }
    state.offsets.push_back(static_cast<std::int64_t>(state.buckets.size()));
  }
}

std::vector<std::int64_t> ItemFeatures::given_items() const {
  std::vector<std::int64_t> items;
  for (std::size_t item = 0; item < given_.size(); ++item) {
    if (given_[item] != 0) items.push_back(static_cast<std::int64_t>(item));
  }
  return items;
}

std::size_t ItemFeatures::bytes() const {
  std::size_t bytes = (place_.capacity() + items_.capacity()) * sizeof(std::uint32_t) +
                      (values_.capacity() + step_shares_.capacity()) * sizeof(float) +
                      categories_.capacity() * sizeof(std::vector<std::uint32_t>);
  bytes += first_rows_.capacity() * sizeof(std::uint32_t) + ones_.capacity() * sizeof(float);
  bytes += given_.capacity() + stamps_.capacity() * sizeof(std::uint64_t);
  for (const std::vector<std::uint32_t>& categories : categories_) {
    bytes += categories.capacity() * sizeof(std::uint32_t);
  }
  return bytes;
}

}  // namespace fastinc
