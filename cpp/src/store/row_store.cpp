#include "store/row_store.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "fastinc/ops.h"
#include "fastinc/runtime.h"

namespace fastinc {
namespace {

constexpr std::size_t kPageBytes = std::size_t{1} << 20;  // of weights and state
constexpr std::size_t kMaxRowsPerPage = 4096;
constexpr std::size_t kMaxDim = std::size_t{1} << 20;

unsigned page_shift_for(std::size_t row_bytes) {
  const std::size_t rows = std::clamp<std::size_t>(kPageBytes / row_bytes, 16, kMaxRowsPerPage);
  return static_cast<unsigned>(std::bit_width(rows) - 1);
}

/// Room for `more`, growing by half at least: exact growth would copy everything at every call.
template <class T>
void grow_vector(std::vector<T>& v, std::size_t more) {
  if (v.capacity() - v.size() < more) v.reserve(std::max(v.size() + more, v.size() + v.size() / 2));
}

template <class Map>
void grow_map(Map& map, std::size_t more) {
  if (map.size() + more > map.max_load()) map.reserve(map.size() + more);  // the map grows by powers of two
}

}  // namespace

RowStore::RowStore(std::size_t dim, std::shared_ptr<Optimizer> optimizer, const Initializer& init)
    : dim_(dim), optimizer_(std::move(optimizer)), init_(init) {
  if (dim == 0 || dim > kMaxDim) {
    throw std::invalid_argument("dim = " + std::to_string(dim) + " must be from 1 to " +
                                std::to_string(kMaxDim));
  }
  validate(init);
  stride_ = dim + state_shape().floats(dim);
  rows_.dim = dim;
  rows_.page_shift = page_shift_for(stride_ * sizeof(float));
  rows_.page_mask = rows_per_page() - 1;
}

void RowStore::point_rows_at_pages() {
  float* const* pages = float_pages_.data();
  rows_.weights = {pages, 0, stride_};
  std::size_t offset = dim_;
  for (int k = 0; k < state_shape().element_states; ++k, offset += dim_)
    rows_.element_state[k] = {pages, offset, stride_};
  if (state_shape().row_states > 0) rows_.row_state = {pages, offset, stride_};
  rows_.code_pages = code_pages_.data();
  rows_.version_pages = version_pages_.data();
}

void RowStore::add_page() {
  const std::size_t rows = rows_per_page();
  Page page;
  page.rows = std::make_unique_for_overwrite<float[]>(rows * stride_);
  page.codes = std::make_unique_for_overwrite<std::uint8_t[]>(rows * (dim_ + kQuantizedTail));
  page.ids = std::make_unique<std::int64_t[]>(rows);
  page.versions = std::make_unique<std::uint64_t[]>(rows);
  grow_vector(float_pages_, 1);
  grow_vector(code_pages_, 1);
  grow_vector(id_pages_, 1);
  grow_vector(version_pages_, 1);
  pages_.push_back(std::move(page));
  float_pages_.push_back(pages_.back().rows.get());
  code_pages_.push_back(pages_.back().codes.get());
  id_pages_.push_back(pages_.back().ids.get());
  version_pages_.push_back(pages_.back().versions.get());
  point_rows_at_pages();
}

void RowStore::reserve_rows(std::size_t new_rows) {
  grow_map(map_, new_rows);
  reserve_pages(new_rows);
}

void RowStore::reserve_pages(std::size_t new_rows) {
  const std::size_t fresh = new_rows > free_.size() ? new_rows - free_.size() : 0;
  if (slot_count_ + fresh >= kNoSlot) {
    throw std::length_error("table: more than " + std::to_string(kNoSlot) + " rows");
  }
  while (pages_.size() * rows_per_page() < slot_count_ + fresh) add_page();
}

Slot RowStore::take_slot() {
  if (free_.empty()) return static_cast<Slot>(slot_count_++);
  const Slot slot = free_.back();
  free_.pop_back();
  return slot;
}

void RowStore::find_or_create(std::span<const std::int64_t> ids, std::uint64_t version, Slot* slots) {
  const std::size_t n = ids.size();
  std::size_t unknown = 0;
  for (std::size_t i = 0; i < n; ++i) {
    slots[i] = find(ids[i]);
    unknown += slots[i] == kNoSlot;
  }
  if (unknown == 0) return;
  thread_local std::vector<std::size_t> created;  // where each new id occurs first
  created.clear();
  created.reserve(unknown);
  try {
    for (std::size_t i = 0; i < n; ++i) {
      if (slots[i] == kNoSlot && map_.try_emplace(ids[i], kNoSlot).second) created.push_back(i);
    }
    reserve_pages(created.size());
  } catch (...) {
    for (const std::size_t i : created) map_.erase(ids[i]);
    throw;
  }
  // nothing below allocates
  const auto start = kernels().start_row;
  const float fresh = initial_state(optimizer_->params());
  for (const std::size_t i : created) {
    const Slot slot = slots[i] = map_.find(ids[i])->second = take_slot();
    start(init_, ids[i], weights(slot), dim_);
    std::fill_n(state(slot), state_shape().floats(dim_), fresh);
    id_pages_[slot >> rows_.page_shift][slot & rows_.page_mask] = ids[i];
    version_pages_[slot >> rows_.page_shift][slot & rows_.page_mask] = version;
    removed_.erase(ids[i]);
  }
  counters.inserted += created.size();
  for (std::size_t i = 0; i < n; ++i) {
    if (slots[i] == kNoSlot) slots[i] = find(ids[i]);
  }
}

void RowStore::publish(std::span<const Slot> slots, std::uint64_t version) {
  const auto quantize = kernels().quantize_rows;
  parallel_ranges(slots.size(), dim_, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    for (std::size_t i = begin; i < end; ++i) {
      const Slot slot = slots[i];
      quantize(weights(slot), 1, dim_, codes(slot));
      version_pages_[slot >> rows_.page_shift][slot & rows_.page_mask] = version;
    }
  });
}

std::size_t RowStore::remove(std::span<const std::int64_t> ids, std::uint64_t version) {
  std::size_t known = 0;
  for (const std::int64_t id : ids) known += find(id) != kNoSlot;
  if (known == 0) return 0;
  grow_map(removed_, known);  // nothing below allocates
  grow_vector(free_, known);
  std::size_t gone = 0;
  for (const std::int64_t id : ids) {
    const auto it = map_.find(id);
    if (it == map_.end()) continue;
    const Slot slot = it->second;
    version_pages_[slot >> rows_.page_shift][slot & rows_.page_mask] = 0;
    free_.push_back(slot);
    map_.erase(it);
    removed_[id] = version;
    ++gone;
  }
  counters.removed += gone;
  return gone;
}

void RowStore::clear() {
  map_.clear();
  removed_.clear();
  free_.clear();
  pages_.clear();
  float_pages_.clear();
  code_pages_.clear();
  id_pages_.clear();
  version_pages_.clear();
  slot_count_ = 0;
  version_ = 0;
  counters = {};
}

RowStore::Bytes RowStore::bytes() const {
  const std::size_t slots = pages_.size() * rows_per_page();
  // boost's flat map: 15 entries and 16 bytes of metadata a group, 0.875 maximum load
  const auto map_bytes = [](const auto& map, std::size_t entry) { return map.bucket_count() * (entry + 1); };
  return {.weights = slots * dim_ * sizeof(float),
          .state = slots * state_shape().floats(dim_) * sizeof(float),
          .codes = slots * (dim_ + kQuantizedTail),
          .ids = slots * sizeof(std::int64_t) + free_.capacity() * sizeof(Slot),
          .versions = slots * sizeof(std::uint64_t),
          .map = map_bytes(map_, sizeof(std::pair<std::int64_t, Slot>)),
          .removed = map_bytes(removed_, sizeof(std::pair<std::int64_t, std::uint64_t>))};
}

}  // namespace fastinc
