#include "store/row_store.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "fastinc/ops.h"
#include "fastinc/runtime.h"
#include "fastinc/table.h"
#include "math/random.h"
#include "store/table_checks.h"
#include "store/table_copy.h"

namespace fastinc {
namespace {

constexpr std::size_t kPageBytes = std::size_t{64}
                                   << 20;  // of weights and state; only what is used takes room
constexpr std::size_t kMaxPages = std::size_t{1} << 22;

/// Header, weights, state; an even number of floats, for the next header is 8-byte aligned.
std::size_t stride_for(std::size_t dim, const StateShape& shape) {
  return (kHeaderFloats + dim + shape.floats(dim) + 1) / 2 * 2;
}

/// Stamp, codes, scale, bias, and room to the next stamp.
std::size_t code_stride_for(std::size_t dim) {
  constexpr std::size_t kAlign = sizeof(CodeStamp);
  return (kAlign + dim + kQuantizedTail + kAlign - 1) / kAlign * kAlign;
}

unsigned page_shift_for(std::size_t stride) {
  const std::size_t rows = std::max<std::size_t>(kPageBytes / (stride * sizeof(float)), 4);
  return static_cast<unsigned>(std::bit_width(rows) - 1);
}

std::size_t max_pages_for(unsigned page_shift) {
  return std::min(kMaxPages, (std::size_t{kNoSlot} >> page_shift) + 1);
}

}  // namespace

RowStore::RowStore(std::size_t dim, std::shared_ptr<Optimizer> optimizer, const Initializer& init,
                   const TableBounds& bounds)
    : optimizer_(std::move(optimizer)),
      init_(init),
      stride_(stride_for(checked_dim(dim), state_shape())),
      row_pages_(stride_, page_shift_for(stride_), max_pages_for(page_shift_for(stride_))),
      code_pages_(code_stride_for(dim), page_shift_for(stride_), max_pages_for(page_shift_for(stride_))),
      index_(process_salt()) {
  validate(init);
  validate(bounds);
  rows_.dim = dim;
  rows_.page_shift = page_shift_for(stride_);
  rows_.page_mask = (std::size_t{1} << rows_.page_shift) - 1;
  float* const* pages = row_pages_.directory();
  std::size_t offset = kHeaderFloats;
  rows_.weights = {pages, offset, stride_};
  offset += dim;
  for (int k = 0; k < state_shape().element_states; ++k, offset += dim) {
    rows_.element_state[k] = {pages, offset, stride_};
  }
  if (state_shape().row_states > 0) rows_.row_state = {pages, offset, stride_};
  rows_.is_table = true;
  if (bounds.any()) {
    bounds_ = std::make_unique<Bounds>(bounds, base::mix_bits(init.seed), rows_.page_shift,
                                       max_pages_for(rows_.page_shift));
  }
}

// --- any thread

RowStore::Bytes RowStore::bytes() const {
  const std::size_t slots = slot_count(), state = state_shape().floats(dim());
  const std::size_t code_bytes = has_codes() ? dim() + kQuantizedTail : 0;
  const std::size_t stamp_bytes = has_codes() ? code_stride_for(dim()) - code_bytes : 0;
  return {.weights = slots * dim() * sizeof(float),
          .state = slots * state * sizeof(float),
          .codes = slots * code_bytes,
          .headers = slots * ((stride_ - dim() - state) * sizeof(float) + stamp_bytes) +
                     free_bytes_.load(std::memory_order_relaxed),
          .index = index_.bytes(),
          .change_log = changes_.bytes(),
          .eviction = bounds_ ? bounds_->eviction_bytes(slots) : 0,
          .admission = bounds_ ? bounds_->admission_bytes() : 0};
}

// --- writers

void RowStore::reserve_pages(std::size_t new_rows) {
  reserve_slots(slot_count_ + (new_rows > free_.size() ? new_rows - free_.size() : 0));
}

void RowStore::reserve_slots(std::size_t wanted) {
  if (wanted > max_pages_for(rows_.page_shift) << rows_.page_shift || wanted >= kNoSlot) {
    throw std::length_error("table: more than " + std::to_string(kNoSlot) + " rows");
  }
  while (row_pages_.rows() < wanted) row_pages_.add_page();
  while (rows_.has_codes() && code_pages_.rows() < wanted) code_pages_.add_page();
  if (bounds_) bounds_->reserve(wanted);
}

void RowStore::reserve_commit(std::size_t written, std::size_t removed) {
  changes_.reserve(written, removed, size());
}

Slot RowStore::take_slot() {
  if (free_.empty()) {
    const auto slot = static_cast<Slot>(slot_count_.load(std::memory_order_relaxed));
    slot_count_.store(std::size_t{slot} + 1, std::memory_order_release);
    return slot;
  }
  const Slot slot = free_.back();
  free_.pop_back();
  return slot;
}

void RowStore::create(std::span<const std::int64_t> ids, Slot* slots, std::uint64_t version) {
  const std::size_t n = ids.size();
  const auto unknown = static_cast<std::size_t>(std::count(slots, slots + n, kNoSlot));
  const bool full =
      bounds_ && bounds_->config().max_rows > 0 && size() + unknown > bounds_->config().max_rows;
  if (unknown > 0) {
    created_.clear();
    created_.reserve(unknown);
    evicted_.reserve(most_expired_ + unknown);
    reserve_free(most_expired_ + (full ? unknown : 0) + 1);
    if (full) bounds_->reserve_batch(n);
    reserve_pages(full ? std::max(bounds_->config().max_rows, size()) - size() : unknown);
  }
  if (bounds_ && (full || bounds_->counts_uses())) touch(slots, n, version);
  if (unknown == 0) return;
  insert_unknown(ids, slots, version);
  // nothing below allocates
  const auto start = kernels().start_row;
  const float fresh = initial_state(optimizer_->params());
  parallel_ranges(created_.size(), dim() * 8, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    for (std::size_t i = begin; i < end; ++i) {
      const Slot slot = created_[i];
      start(init_, id(slot), weights(slot), dim());
      std::fill_n(state(slot), state_shape().floats(dim()), fresh);
    }
  });
  counters.inserts += created_.size();
}

/// The ids' entries and slots; rows are not live yet.
void RowStore::insert_unknown(std::span<const std::int64_t> ids, Slot* slots, std::uint64_t version) {
  const std::size_t max_rows = bounds_ ? bounds_->config().max_rows : 0;
  try {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (slots[i] != kNoSlot) continue;
      const std::uint64_t hash = index_.hash(ids[i]);
      slots[i] = find(ids[i], hash);  // made by a repeat before
      if (slots[i] != kNoSlot) continue;
      if (max_rows > 0 && size() >= max_rows) {
        // there is one: the batch's own rows, which stay, are no more than max_rows
        const auto victim = bounds_->next_victim(*this, version);
        if (!victim) throw std::runtime_error("table: no row can be given up for a new one");
        evict(*victim, version);
      }
      const Slot slot = slots[i] = take_slot();
      created_.push_back(slot);
      // a free row's stamp is not live: no reader looks further
      __atomic_store_n(&header(slot)->id, ids[i], __ATOMIC_RELAXED);
      index_.insert(hash, slot, *this);
      size_.store(size() + 1, std::memory_order_release);
    }
  } catch (...) {
    if (bounds_) bounds_->end_batch();
    while (!created_.empty()) {
      const Slot slot = created_.back();
      created_.pop_back();
      index_.erase(index_.hash(id(slot)), slot);  // does nothing where it isn't in yet
      if (std::size_t{slot} + 1 == slot_count_) {
        slot_count_ = slot;
      } else {
        free_.push_back(slot);  // where it came from: there is room
      }
    }
    size_ = index_.size();
    throw;
  }
  if (!bounds_) return;
  bounds_->end_batch();
  for (const Slot slot : created_) bounds_->note_insert(slot, version);  // none is a victim of its own batch
}

/// Known rows of a batch are used, and too new to be given up, from its beginning.
void RowStore::touch(const Slot* slots, std::size_t n, std::uint64_t version) noexcept {
  preserve({slots, n});
  for (std::size_t i = 0; i < n; ++i) {
    if (slots[i] == kNoSlot) continue;
    RowHeader* const row = header(slots[i]);
    const std::uint64_t stamp = load_stamp(row);
    if (version_of(stamp) == version) continue;
    end_write(row, next_stamp(begin_write(row), version));
    bounds_->note_use(slots[i]);
    unfinished_ = true;
  }
}

std::size_t RowStore::reserve_expire(std::size_t most, std::size_t others) {
  constexpr std::size_t kMostKept = 1 << 16;  // capacity, after many rows went at once
  if (evicted_.capacity() > kMostKept) evicted_ = {};
  evicted_.clear();
  most_expired_ = bounds_ && bounds_->config().ttl > 0.0 ? std::min(most, size() + others) : 0;
  if (most_expired_ == 0) return 0;
  evicted_.reserve(most_expired_ + others);
  reserve_free(most_expired_ + others + 1);
  return most_expired_;
}

void RowStore::expire(std::uint64_t version) noexcept {
  for (std::size_t n = 0; n < most_expired_; ++n) {
    const auto slot = bounds_->next_expired(*this);
    if (!slot) break;
    evict(*slot, version);
  }
}

void RowStore::evict(Slot slot, std::uint64_t version) noexcept {
  unfinished_ = true;
  evicted_.push_back(id(slot));
  free_slot(slot, version);
  size_.store(size() - 1, std::memory_order_release);
  counters.evictions.fetch_add(1, std::memory_order_relaxed);
}

/// By half at least: exact growth would copy at every call.
void RowStore::reserve_free(std::size_t more) {
  if (free_.capacity() - free_.size() >= more) return;
  free_.reserve(std::max(free_.size() + more, free_.size() + free_.size() / 2));
  free_bytes_ = free_.capacity() * sizeof(Slot);
}

void RowStore::keep_codes() {
  if (rows_.has_codes()) return;
  while (code_pages_.rows() < row_pages_.rows()) code_pages_.add_page();
  rows_.code_pages = code_pages_.directory();
  rows_.code_stride = code_stride_for(dim());
  parallel_ranges(slot_count(), dim(), [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    for (std::size_t i = begin; i < end; ++i) {
      const auto slot = static_cast<Slot>(i);
      if ((load_stamp(header(slot)) & kLive) != 0) quantize(kernels(), slot);
    }
  });
  has_codes_.store(true, std::memory_order_release);
}

void RowStore::quantize(const Kernels& kernel, Slot slot) {
  if (!rows_.has_codes()) return;
  std::uint8_t* const q = codes(slot);
  const CodeStamp stamp = begin_codes(q);
  kernel.quantize_rows(weights(slot), 1, dim(), q);
  end_codes(q, stamp, true);
}

/// Nobody's row any more.
void RowStore::retire(Slot slot, std::uint64_t version) {
  preserve({&slot, 1});
  RowHeader* const row = header(slot);
  end_write(row, next_stamp(begin_write(row), version) & ~kLive);
  if (rows_.has_codes()) end_codes(codes(slot), begin_codes(codes(slot)), false);
}

void RowStore::set_row(Slot slot, const float* from, const float* from_state, std::uint64_t version) {
  preserve({&slot, 1});
  RowHeader* const row = header(slot);
  const std::uint64_t stamp = begin_write(row);
  std::copy_n(from, dim(), weights(slot));
  const std::size_t floats = state_shape().floats(dim());
  if (from_state != nullptr) {
    std::copy_n(from_state, floats, state(slot));
  } else {
    std::fill_n(state(slot), floats, initial_state(optimizer_->params()));
  }
  quantize(kernels(), slot);
  end_write(row, next_stamp(stamp, version));
}

void RowStore::publish(std::span<const Slot> slots, std::uint64_t version) {
  const Kernels& kernel = kernels();
  parallel_ranges(slots.size(), dim(), [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    for (std::size_t i = begin; i < end; ++i) {
      RowHeader* const row = header(slots[i]);
      const std::uint64_t stamp = begin_write(row);
      quantize(kernel, slots[i]);
      end_write(row, next_stamp(stamp, version));
    }
  });
}

void RowStore::commit(std::uint64_t version, std::span<const Slot> written,
                      std::span<const std::int64_t> removed) noexcept {
  changes_.append(version, written, removed);
  finish(version);
}

void RowStore::commit_unfinished(std::uint64_t version) noexcept {
  changes_.append_unknown(version, evicted_);
  finish(version);
}

void RowStore::finish(std::uint64_t version) noexcept {
  evicted_.clear();
  unfinished_ = false;
  version_.store(version, std::memory_order_release);
  if (bounds_) bounds_->note_time(version);
}

/// The row is gone for readers; free_ has room.
void RowStore::free_slot(Slot slot, std::uint64_t version) noexcept {
  index_.erase(index_.hash(id(slot)), slot);
  retire(slot, version);
  free_.push_back(slot);
}

std::vector<std::int64_t> RowStore::remove(std::span<const std::int64_t> ids, std::uint64_t version) {
  std::vector<std::int64_t> gone;
  std::vector<Slot> slots(ids.size());
  find(ids, slots.data());
  const auto known = ids.size() - static_cast<std::size_t>(std::count(slots.begin(), slots.end(), kNoSlot));
  if (known == 0) return gone;
  reserve_commit(0, known);
  gone.reserve(known);
  reserve_free(known);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (slots[i] == kNoSlot || row_version(slots[i]) == 0) continue;  // unknown, or a repeat
    free_slot(slots[i], version);
    gone.push_back(ids[i]);
  }
  size_ -= gone.size();
  counters.removes += gone.size();
  return gone;
}

void RowStore::preserve_all(std::span<const Slot> slots) noexcept {
  for (TableCopy* const copy : copies_) {
    parallel_ranges(slots.size(), 2 * stride_, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
      copy->keep(slots.subspan(begin, end - begin));
    });
  }
}

void RowStore::place(std::span<const std::int64_t> ids, std::span<const Slot> slots,
                     std::span<const Slot> free_slots, std::uint64_t version) {
  std::size_t count = slot_count_;
  for (const Slot slot : slots) count = std::max(count, std::size_t{slot} + 1);
  for (const Slot slot : free_slots) count = std::max(count, std::size_t{slot} + 1);
  std::vector<Slot> free(free_slots.begin(), free_slots.end());
  reserve_slots(count);
  slot_count_.store(count, std::memory_order_release);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::uint64_t hash = index_.hash(ids[i]);
    const Slot before = find(ids[i], hash);
    if (before == slots[i]) continue;
    if (before != kNoSlot) {
      index_.erase(hash, before);
      retire(before, version);
    }
    if (row_version(slots[i]) != 0) {
      index_.erase(index_.hash(id(slots[i])), slots[i]);
      retire(slots[i], version);
    }
    __atomic_store_n(&header(slots[i])->id, ids[i], __ATOMIC_RELAXED);
    index_.insert(hash, slots[i], *this);
  }
  free_ = std::move(free);
  free_bytes_ = free_.capacity() * sizeof(Slot);
  size_.store(index_.size(), std::memory_order_release);
}

void RowStore::clear(std::uint64_t version) {
  for (TableCopy* const copy : copies_) copy->keep_all();
  epoch_.fetch_add(1, std::memory_order_acq_rel);
  index_.clear();
  for (Slot slot = 0; slot < slot_count(); ++slot) retire(slot, version);
  free_.clear();
  slot_count_ = 0;
  size_ = 0;
}

void RowStore::restart(std::uint64_t version) {
  changes_.reset(version);
  evicted_.clear();
  unfinished_ = false;
  version_ = version;
  epoch_.fetch_add(1, std::memory_order_acq_rel);  // again: what was read in between is of no state
  if (bounds_) bounds_->restart(version);
}

}  // namespace fastinc
