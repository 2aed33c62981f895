#include "store/row_store.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "fastinc/ops.h"
#include "fastinc/runtime.h"
#include "math/random.h"

namespace fastinc {
namespace {

constexpr std::size_t kPageBytes = std::size_t{64}
                                   << 20;  // of weights and state; only what is used takes room
constexpr std::size_t kMaxPages = std::size_t{1} << 22;
constexpr std::size_t kMaxDim = std::size_t{1} << 20;
constexpr std::size_t kRun = 16;  // ids in flight: their misses overlap, and their rows stay in the L1 cache

std::size_t checked_dim(std::size_t dim) {
  if (dim == 0 || dim > kMaxDim) {
    throw std::invalid_argument("dim = " + std::to_string(dim) + " must be from 1 to " +
                                std::to_string(kMaxDim));
  }
  return dim;
}

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

/// So that nobody can choose ids which collide. Not visible in anything a table returns.
std::uint64_t process_salt() {
  static const std::uint64_t salt = [] {
    std::random_device device;
    return std::uint64_t{device()} << 32 | device();
  }();
  return salt;
}

/// kNoSlot as the first, without a branch.
Slot some_slot(Slot slot) {
  return slot & (Slot{0} - (slot != kNoSlot));
}

/// Another thread writes the row: let it get on, for it may share our CPU.
void pause(unsigned attempt) {
  if (attempt > 16) std::this_thread::yield();
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
  rows_.code_pages = code_pages_.directory();
  rows_.code_stride = code_stride_for(dim);
  if (bounds.any()) {
    bounds_ = std::make_unique<Bounds>(bounds, base::mix_bits(init.seed), rows_.page_shift,
                                       max_pages_for(rows_.page_shift));
  }
}

// --- any thread

std::pair<std::int64_t, std::uint64_t> RowStore::read_header(Slot slot) const {
  const RowHeader* const row = header(slot);
  for (unsigned attempt = 0;; ++attempt) {
    const std::uint64_t stamp = load_stamp(row);
    if ((stamp & kLive) == 0) return {0, 0};
    const std::int64_t id = load_id(row);
    // a row that is being written keeps its id, and its version until it is done
    if (is_unchanged(row, stamp) || is_unchanged(row, stamp ^ kWriting)) return {id, version_of(stamp)};
    pause(attempt);
  }
}

/// In turns: the slots that a block of ids most likely has, then their rows, run by run, then the few that
/// were others' rows. Each turn fetches ahead, and none has a branch that waits for memory: a wrong guess
/// would throw away what was begun after it. Index and rows in one loop would push each other's pages out of
/// the address cache.
///   fetch(slot); read(begin, n, slots, done); retry(at, hash) for what isn't done
template <class Fetch, class Read, class Retry>
void RowStore::for_each_run(std::span<const std::int64_t> ids, Fetch fetch, Read read, Retry retry) const {
  if (slot_count() == 0) {
    for (std::size_t i = 0; i < ids.size(); ++i) retry(i, index_.hash(ids[i]));
    return;
  }
  constexpr std::size_t kBlock = 256;
  std::uint64_t hashes[kBlock];
  Slot slots[kBlock];
  std::uint8_t done[kBlock];
  for (std::size_t begin = 0; begin < ids.size(); begin += kBlock) {
    const std::size_t n = std::min(kBlock, ids.size() - begin);
    for (std::size_t i = 0; i < n; ++i) {
      hashes[i] = index_.hash(ids[begin + i]);
      if (i < kRun) index_.prefetch(hashes[i]);
    }
    for (std::size_t i = 0; i < n; ++i) {
      if (i + kRun < n) index_.prefetch(hashes[i + kRun]);
      slots[i] = index_.guess(hashes[i]);
    }
    const auto fetch_run = [&](std::size_t at) {
      for (std::size_t i = at; i < std::min(at + kRun, n); ++i) fetch(some_slot(slots[i]));
    };
    fetch_run(0);
    for (std::size_t at = 0; at < n; at += kRun) {
      fetch_run(at + kRun);
      read(begin + at, std::min(kRun, n - at), slots + at, done + at);
    }
    std::uint16_t left[kBlock];
    std::size_t count = 0;
    for (std::size_t i = 0; i < n; ++i) {
      left[count] = static_cast<std::uint16_t>(i);
      count += !done[i];
    }
    for (std::size_t k = 0; k < count; ++k) retry(begin + left[k], hashes[left[k]]);
  }
}

void RowStore::find(std::span<const std::int64_t> ids, Slot* slots) const {
  constexpr std::size_t kFloatsEach = 64;  // two cache misses
  parallel_ranges(ids.size(), kFloatsEach, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    const auto mine = ids.subspan(begin, end - begin);
    const auto read = [&](std::size_t at, std::size_t n, const Slot* guesses, std::uint8_t* done) {
      for (std::size_t i = 0; i < n; ++i) {
        slots[begin + at + i] = guesses[i];
        done[i] = (guesses[i] != kNoSlot) & (id(some_slot(guesses[i])) == mine[at + i]);
      }
    };
    const auto retry = [&](std::size_t at, std::uint64_t hash) { slots[begin + at] = find(mine[at], hash); };
    for_each_run(mine, [&](Slot slot) { prefetch_id(slot); }, read, retry);
  });
}

/// False where the id has no row: out is what it would start with.
template <class T, class Kernel, class Start>
bool RowStore::read_one(std::int64_t id, std::uint64_t hash, Kernel kernel, Start start, T* out) const {
  for (unsigned attempt = 0;; ++attempt) {
    const Slot slot = find(id, hash);
    if (slot == kNoSlot) break;
    std::uint8_t done = 0;
    kernel(rows_, &slot, &id, 1, out, &done);
    if (done) return true;
    if ((load_stamp(header(slot)) & (kLive | kWriting)) == 0) break;  // being created, or just gone
    pause(attempt);
  }
  start(id, out);
  return false;
}

template <class T, class Kernel, class Start>
std::size_t RowStore::read_block(std::span<const std::int64_t> ids, Kernel kernel, Start start,
                                 std::size_t width, T* out) const {
  constexpr bool kCodes = std::is_same_v<T, std::uint8_t>;
  const auto fetch = [&](Slot slot) {
    if (!kCodes) return prefetch_row(slot);
    prefetch_id(slot);
    prefetch_lines(codes(slot), width);
  };
  std::size_t found = ids.size();
  const auto read = [&](std::size_t at, std::size_t n, const Slot* slots, std::uint8_t* done) {
    kernel(rows_, slots, ids.data() + at, n, out + at * width, done);
  };
  const auto retry = [&](std::size_t at, std::uint64_t hash) {
    found -= !read_one(ids[at], hash, kernel, start, out + at * width);
  };
  for_each_run(ids, fetch, read, retry);
  return found;
}

std::size_t RowStore::read_here(std::span<const std::int64_t> ids, float* out) const {
  const auto start = [&, fill = kernels().start_row](std::int64_t id, float* row) {
    fill(init_, id, row, dim());
  };
  return read_block(ids, kernels().read_rows, start, dim(), out);
}

std::size_t RowStore::read(std::span<const std::int64_t> ids, float* out) const {
  std::atomic<std::size_t> found{0};
  parallel_ranges(ids.size(), dim() + 32, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    found += read_here(ids.subspan(begin, end - begin), out + begin * dim());
  });
  return found;
}

std::size_t RowStore::read_codes(std::span<const std::int64_t> ids, std::uint8_t* out) const {
  const Kernels& kernel = kernels();
  const std::size_t width = dim() + kQuantizedTail;
  const std::size_t parts = parts_for(ids.size() * (dim() / 4 + 48));
  std::vector<float> unknown(dim() * parts);
  std::atomic<std::size_t> found{0};
  parallel_parts(ids.size(), parts, [&](std::size_t begin, std::size_t end, std::size_t part) noexcept {
    const auto start = [&](std::int64_t id, std::uint8_t* q) {
      float* const row = unknown.data() + part * dim();
      kernel.start_row(init_, id, row, dim());
      kernel.quantize_rows(row, 1, dim(), q);
    };
    found +=
        read_block(ids.subspan(begin, end - begin), kernel.read_codes, start, width, out + begin * width);
  });
  return found;
}

RowStore::Bytes RowStore::bytes() const {
  const std::size_t slots = slot_count(), state = state_shape().floats(dim());
  return {.weights = slots * dim() * sizeof(float),
          .state = slots * state * sizeof(float),
          .codes = slots * (dim() + kQuantizedTail),
          .headers = slots * ((stride_ - dim() - state) * sizeof(float) + rows_.code_stride - dim() -
                              kQuantizedTail) +
                     free_bytes_.load(std::memory_order_relaxed),
          .index = index_.bytes(),
          .change_log = changes_.bytes(),
          .eviction = bounds_ ? bounds_->eviction_bytes(slots) : 0,
          .admission = bounds_ ? bounds_->admission_bytes() : 0};
}

// --- writers

void RowStore::reserve_pages(std::size_t new_rows) {
  const std::size_t fresh = new_rows > free_.size() ? new_rows - free_.size() : 0;
  const std::size_t wanted = slot_count_ + fresh;
  if (wanted > max_pages_for(rows_.page_shift) << rows_.page_shift || wanted >= kNoSlot) {
    throw std::length_error("table: more than " + std::to_string(kNoSlot) + " rows");
  }
  while (row_pages_.rows() < wanted) row_pages_.add_page();
  while (code_pages_.rows() < wanted) code_pages_.add_page();
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

void RowStore::quantize(const Kernels& kernel, Slot slot) {
  std::uint8_t* const q = codes(slot);
  const CodeStamp stamp = begin_codes(q);
  kernel.quantize_rows(weights(slot), 1, dim(), q);
  end_codes(q, stamp, true);
}

/// Nobody's row any more.
void RowStore::retire(Slot slot, std::uint64_t version) {
  RowHeader* const row = header(slot);
  end_write(row, next_stamp(begin_write(row), version) & ~kLive);
  end_codes(codes(slot), begin_codes(codes(slot)), false);
}

void RowStore::set_row(Slot slot, const float* from, const float* from_state, std::uint64_t version) {
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

void RowStore::clear(std::uint64_t version) {
  epoch_.fetch_add(1, std::memory_order_acq_rel);
  index_.clear();
  for (Slot slot = 0; slot < slot_count(); ++slot) retire(slot, version);
  free_.clear();
  slot_count_ = 0;
  size_ = 0;
}

void RowStore::restart(std::uint64_t version) {
  changes_.reset(version);
  version_ = version;
  epoch_.fetch_add(1, std::memory_order_acq_rel);  // again: what was read in between is of no state
  if (bounds_) bounds_->restart(version);
}

}  // namespace fastinc
