#include "store/table_copy.h"

#include <algorithm>
#include <iterator>
#include <mutex>
#include <numeric>
#include <utility>

#include "store/bounds.h"

namespace fastinc {
namespace {

constexpr std::size_t kFew = 4096;  // rows that writers may wait for to be listed
constexpr std::size_t kMore = 4 * kFew;
constexpr std::size_t kMostRounds = 16;  // where writers are as fast as the list, it gets no nearer

template <class T>
FASTINC_RACES void copy_values(const T* from, std::size_t n, T* to) {
  for (std::size_t i = 0; i < n; ++i) to[i] = from[i];
}

/// Entries, of `width` values each, in this order; the others are dropped.
template <class T>
void gather(std::vector<T>& values, std::span<const std::uint32_t> order, std::size_t width, bool ascending) {
  if (ascending) {  // in its own memory: an entry only moves to the front
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (order[i] != i) std::copy_n(values.data() + order[i] * width, width, values.data() + i * width);
    }
    values.resize(order.size() * width);
    return;
  }
  std::vector<T> out(order.size() * width);
  for (std::size_t i = 0; i < order.size(); ++i) {
    std::copy_n(values.data() + order[i] * width, width, out.data() + i * width);
  }
  values = std::move(out);
}

}  // namespace

TableCopy::TableCopy(const RowStore& store, const std::optional<TableMark>& since, bool removes)
    : store_(store),
      floats_(store.state_shape().floats(store.dim())),
      removes_(removes),
      row_(store.dim() + floats_) {
  if (!since) return;
  started_ = true;
  whole_ = false;
  epoch_ = since->epoch;
  state_.version = since->version;
}

TableCopy::~TableCopy() {
  end();
}

/// Writers need not keep anything any more.
void TableCopy::end() {
  if (!installed_) return;
  const std::unique_lock lock(store_.mutex);
  store_.forget_copy(this);
  installed_ = false;
}

void TableCopy::Places::grow(std::size_t slots) {
  if (slots <= slots_) return;
  const std::size_t room = std::max(slots, 2 * slots_);
  LazyMemory larger(room * sizeof(std::uint32_t));
  const auto* const from = static_cast<const std::uint32_t*>(memory_.data());
  auto* const to = static_cast<std::uint32_t*>(larger.data());
  for (std::size_t slot = 0; slot < slots_; ++slot) {
    if (from[slot] != 0) to[slot] = from[slot];
  }
  memory_ = std::move(larger);
  slots_ = room;
}

void TableCopy::start_again(std::uint64_t epoch) {
  slots_.clear();
  removed_.clear();
  places_ = {};
  epoch_ = epoch;
  started_ = whole_ = true;
}

/// What was written and removed after the list's version. False where the log doesn't reach back that far.
bool TableCopy::list_changed(std::uint64_t until, std::vector<Slot>& written) {
  if (state_.version > until) return false;
  if (removes_ && !store_.changes().removed_since(state_.version, until, removed_)) return false;
  if (store_.changes().written_since(state_.version, until, written)) return true;
  for (Slot slot = 0, end = static_cast<Slot>(store_.slot_count()); slot < end; ++slot) {
    if (store_.read_header(slot).second > state_.version) written.push_back(slot);
  }
  return true;
}

std::size_t TableCopy::list() {
  const std::uint64_t epoch = store_.epoch(),
                      until = store_.version();  // in this order: versions are of an epoch
  std::vector<Slot> written;
  if (!started_ || epoch_ != epoch || (!whole_ && !list_changed(until, written))) start_again(epoch);
  if (whole_) {                                     // every slot there is
    const std::size_t count = store_.slot_count();  // once: it may fall meanwhile
    written.resize(count - std::min(count, slots_.size()));
    std::iota(written.begin(), written.end(), static_cast<Slot>(slots_.size()));
  }
  if (!written.empty()) places_.grow(std::size_t{*std::max_element(written.begin(), written.end())} + 1);
  for (const Slot slot : written) {
    if (places_[slot] != 0) continue;
    slots_.push_back(slot);
    places_[slot] = static_cast<std::uint32_t>(slots_.size());
  }
  state_.version = until;
  if (store_.epoch() != epoch_) started_ = false;  // it was set to another state meanwhile
  make_room(slots_.size());
  // Zeroed, so there: a writer that keeps a row finds its memory.
  state_.ids.resize(slots_.size());
  state_.row_versions.resize(slots_.size());
  state_.weights.resize(slots_.size() * store_.dim());
  state_.state.resize(slots_.size() * floats_);
  return written.size();
}

void TableCopy::prepare() {
  for (std::size_t round = 0; round < kMostRounds && list() > kFew; ++round) {
  }
  slots_.reserve(slots_.size() + kMore);
}

/// And for some more: nothing is to move while writers wait.
void TableCopy::make_room(std::size_t rows) {
  const auto grow = [&](auto& values, std::size_t width) {
    if (rows * width <= values.capacity()) return;
    values.reserve((rows + kMore) * width);
    advise_huge_pages(values.data(), values.capacity() * sizeof(values[0]));
  };
  grow(state_.ids, 1);
  grow(state_.row_versions, 1);
  grow(state_.weights, store_.dim());
  grow(state_.state, floats_);
}

void TableCopy::begin() {
  list();
  if (store_.bounds() != nullptr) begin_bounds();
  store_.note_copy(this);
  installed_ = true;
}

void TableCopy::begin_bounds() {
  const Bounds& bounds = *store_.bounds();
  if (bounds.counts_uses()) {
    state_.frequencies.resize(slots_.size());
    for (std::size_t i = 0; i < slots_.size(); ++i) state_.frequencies[i] = bounds.frequency(slots_[i]);
  }
  if (bounds.sketch() != nullptr) {
    state_.sightings = bounds.sketch()->counters();
    state_.sightings_counted = bounds.sketch()->additions();
  }
  if (bounds.config().evicts()) {
    state_.free_slots.assign(store_.free_slots().begin(), store_.free_slots().end());
  }
}

void TableCopy::keep(std::span<const Slot> slots) noexcept {
  constexpr std::size_t kAhead = 8, kLine = 64;
  const auto prefetch = [](const float* values, std::size_t n) {
    const char* const from = reinterpret_cast<const char*>(values);
    for (std::size_t i = 0; i < n * sizeof(float); i += kLine) __builtin_prefetch(from + i, 1);
  };
  const auto place_of = [&](std::size_t i) -> std::size_t {
    return i < slots.size() && slots[i] < places_.size() ? places_[slots[i]] : 0;
  };
  const std::size_t dim = store_.dim();
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (i + 2 * kAhead < slots.size() && slots[i + 2 * kAhead] < places_.size()) {
      __builtin_prefetch(&places_[slots[i + 2 * kAhead]]);
      store_.prefetch_id(slots[i + 2 * kAhead]);
    }
    if (const std::size_t next = place_of(i + kAhead);
        next != 0 && version_of(load_stamp(store_.header(slots[i + kAhead]))) <= state_.version) {
      store_.prefetch_row(slots[i + kAhead]);
      prefetch(state_.weights.data() + (next - 1) * dim, dim);
      prefetch(state_.state.data() + (next - 1) * floats_, floats_);
    }
    keep(slots[i]);
  }
}

/// The row is the caller's to change, and hasn't been yet: what copy() may be writing here is the same.
FASTINC_RACES void TableCopy::keep(Slot slot) noexcept {
  if (slot >= places_.size() || places_[slot] == 0 || complete_.load(std::memory_order_relaxed)) return;
  const std::size_t place = places_[slot] - 1, dim = store_.dim();
  const std::uint64_t stamp = load_stamp(store_.header(slot));
  if ((stamp & kLive) == 0 || version_of(stamp) > state_.version) return;
  if (__atomic_load_n(&state_.row_versions[place], __ATOMIC_RELAXED) != 0) return;  // it's there
  const float* const from = store_.weights(slot);
  copy_values(from, dim, state_.weights.data() + place * dim);
  copy_values(from + dim, floats_, state_.state.data() + place * floats_);
  state_.ids[place] = load_id(store_.header(slot));
  __atomic_store_n(&state_.row_versions[place], version_of(stamp), __ATOMIC_RELEASE);
}

void TableCopy::keep_all() noexcept {
  if (complete_) return;
  for (const Slot slot : slots_) keep(slot);
  complete_.store(true, std::memory_order_release);
}

/// A row that is as it was at the beginning. One that isn't was kept by who changed it.
FASTINC_RACES void TableCopy::read(std::size_t place) {
  const Slot slot = slots_[place];
  const RowHeader* const header = store_.header(slot);
  const std::size_t dim = store_.dim();
  for (;;) {
    const std::uint64_t stamp = load_stamp(header);
    if ((stamp & kWriting) != 0 || (stamp & kLive) == 0 || version_of(stamp) > state_.version) return;
    const std::int64_t id = load_id(header);
    copy_values(static_cast<const float*>(store_.weights(slot)), row_.size(), row_.data());
    if (!is_unchanged(header, stamp)) continue;
    if (complete_.load(std::memory_order_acquire)) return;  // that version may be another epoch's
    copy_values(static_cast<const float*>(row_.data()), dim, state_.weights.data() + place * dim);
    copy_values(static_cast<const float*>(row_.data() + dim), floats_, state_.state.data() + place * floats_);
    state_.ids[place] = id;
    __atomic_store_n(&state_.row_versions[place], version_of(stamp), __ATOMIC_RELEASE);
    return;
  }
}

/// On this thread alone: the others are the writers'.
void TableCopy::copy() {
  for (std::size_t place = 0; place < slots_.size(); ++place) read(place);
}

/// In slot order, without slots that held no row.
void TableCopy::sort_rows() {
  std::vector<std::uint32_t> order;
  for (std::size_t place = 0; place < slots_.size(); ++place) {
    if (state_.row_versions[place] != 0) order.push_back(static_cast<std::uint32_t>(place));
  }
  const auto by_slot = [&](std::uint32_t a, std::uint32_t b) { return slots_[a] < slots_[b]; };
  const bool ascending = std::is_sorted(order.begin(), order.end(), by_slot);
  if (!ascending) std::sort(order.begin(), order.end(), by_slot);
  gather(slots_, order, 1, ascending);
  gather(state_.ids, order, 1, ascending);
  gather(state_.row_versions, order, 1, ascending);
  gather(state_.weights, order, store_.dim(), ascending);
  gather(state_.state, order, floats_, ascending);
  if (!state_.frequencies.empty()) gather(state_.frequencies, order, 1, ascending);
}

TableChange TableCopy::take() {
  end();
  sort_rows();
  const bool in_order = whole_ && state_.free_slots.empty();  // they are 0, 1, ...
  if (store_.bounds() != nullptr && store_.bounds()->config().evicts() && !in_order) {
    state_.slots = std::move(slots_);
  }
  TableChange change;
  change.mark = {epoch_, state_.version};
  change.whole = whole_;
  if (!whole_) {  // what came back was written since, and is among the rows
    std::vector<std::int64_t> there = state_.ids;
    std::sort(there.begin(), there.end());
    std::sort(removed_.begin(), removed_.end());
    removed_.erase(std::unique(removed_.begin(), removed_.end()), removed_.end());
    std::set_difference(removed_.begin(), removed_.end(), there.begin(), there.end(),
                        std::back_inserter(change.removed));
  }
  change.rows = std::move(state_);
  return change;
}

}  // namespace fastinc
