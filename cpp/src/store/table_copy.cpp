#include "store/table_copy.h"

#include <algorithm>
#include <numeric>
#include <thread>
#include <utility>

#include "cpu/threads.h"
#include "store/bounds.h"

namespace fastinc {
namespace {

constexpr std::size_t kFew = 4096;       // rows that writers may wait for
constexpr std::size_t kMostRounds = 16;  // where writers are as fast as the copy, it gets no nearer

/// A row and its state, whole. Returns its version, or 0 where the slot holds none.
FASTINC_RACES std::uint64_t read_row(const RowStore& store, Slot slot, std::size_t floats, std::int64_t* id,
                                     float* weights, float* state) {
  const RowHeader* const header = store.header(slot);
  const std::size_t dim = store.dim();
  for (unsigned attempt = 0;; ++attempt) {
    const std::uint64_t stamp = load_stamp(header);
    if ((stamp & (kLive | kWriting)) == 0) return 0;
    if ((stamp & kWriting) == 0) {
      *id = load_id(header);
      const float* const from = store.weights(slot);
      for (std::size_t i = 0; i < dim; ++i) weights[i] = from[i];
      for (std::size_t i = 0; i < floats; ++i) state[i] = from[dim + i];
      if (is_unchanged(header, stamp)) return version_of(stamp);
    }
    if (attempt > 16) std::this_thread::yield();
  }
}

}  // namespace

TableCopy::TableCopy(const RowStore& store, const std::optional<TableMark>& since, bool removes)
    : store_(store), floats_(store.state_shape().floats(store.dim())), removes_(removes) {
  if (!since) return;
  started_ = true;
  whole_ = false;
  epoch_ = since->epoch;
  state_.version = since->version;
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
  state_ = {};
  slots_.clear();
  places_ = {};
  removed_.clear();
  epoch_ = epoch;
  started_ = whole_ = true;
}

/// What happened after the copy's version. False where the log doesn't reach back that far.
bool TableCopy::list_changed(std::uint64_t until, std::vector<Slot>& written,
                             std::vector<std::int64_t>& removed) const {
  if (state_.version > until) return false;
  if (removes_ && !store_.changes().removed_since(state_.version, until, removed)) return false;
  if (store_.changes().written_since(state_.version, until, written)) {
    std::sort(written.begin(), written.end());
    written.erase(std::unique(written.begin(), written.end()), written.end());
    return true;
  }
  for (Slot slot = 0, end = static_cast<Slot>(store_.slot_count()); slot < end; ++slot) {
    if (store_.read_header(slot).second > state_.version) written.push_back(slot);
  }
  // slots that lost their rows hold what removed_ tells of
  for (std::size_t place = 0; place < slots_.size(); ++place) written.push_back(slots_[place]);
  std::sort(written.begin(), written.end());
  written.erase(std::unique(written.begin(), written.end()), written.end());
  return true;
}

/// Every slot has a place, and the copy room for its row.
void TableCopy::make_room(std::span<const Slot> written) {
  if (!written.empty()) places_.grow(std::size_t{written.back()} + 1);
  for (const Slot slot : written) {
    if (places_[slot] != 0) continue;
    slots_.push_back(slot);
    places_[slot] = static_cast<std::uint32_t>(slots_.size());
  }
  state_.ids.resize(slots_.size());
  state_.row_versions.resize(slots_.size());
  state_.weights.resize(slots_.size() * store_.dim());
  state_.state.resize(slots_.size() * floats_);
}

void TableCopy::read(std::size_t place) {
  state_.row_versions[place] =
      read_row(store_, slots_[place], floats_, &state_.ids[place],
               state_.weights.data() + place * store_.dim(), state_.state.data() + place * floats_);
}

void TableCopy::note_removed(std::span<const std::int64_t> ids) {
  for (const std::int64_t id : ids) {
    const Slot slot = store_.find(id);
    const bool there =
        slot != kNoSlot && store_.read_header(slot).first == id && store_.row_version(slot) != 0;
    removed_[id] = there ? slot : kNoSlot;
  }
}

std::size_t TableCopy::catch_up() {
  const std::uint64_t epoch = store_.epoch(),
                      until = store_.version();  // in this order: versions are of an epoch
  std::vector<Slot> written;
  std::vector<std::int64_t> removed;
  if (!started_ || epoch_ != epoch || !list_changed(until, written, removed)) {
    start_again(epoch);
    written.resize(store_.slot_count());
    std::iota(written.begin(), written.end(), Slot{0});
    removed.clear();
  }
  make_room(written);
  note_removed(removed);
  parallel_ranges(written.size(), store_.dim() + floats_,
                  [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
                    for (std::size_t i = begin; i < end; ++i) read(places_[written[i]] - 1);
                  });
  if (!removed_.empty()) {
    for (const Slot slot : written) {
      const std::size_t place = places_[slot] - 1;
      if (state_.row_versions[place] == 0) continue;
      if (const auto at = removed_.find(state_.ids[place]); at != removed_.end()) at->second = slot;
    }
  }
  state_.version = until;
  if (store_.epoch() != epoch_) started_ = false;  // it was set to another state meanwhile
  return written.size();
}

void TableCopy::follow() {
  for (std::size_t round = 0; round < kMostRounds && catch_up() > kFew; ++round) {
  }
}

void TableCopy::finish() {
  catch_up();
  if (store_.bounds() != nullptr) finish_bounds();
}

void TableCopy::finish_bounds() {
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

bool TableCopy::is_kept(std::size_t place) const {
  if (state_.row_versions[place] == 0) return false;
  const auto at = removed_.find(state_.ids[place]);
  return at == removed_.end() || at->second == slots_[place];
}

namespace {

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

/// In slot order, without what isn't there any more.
void TableCopy::sort_rows() {
  std::vector<std::uint32_t> order;
  for (std::size_t place = 0; place < slots_.size(); ++place) {
    if (is_kept(place)) order.push_back(static_cast<std::uint32_t>(place));
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
  sort_rows();
  const bool in_order = whole_ && state_.free_slots.empty();  // they are 0, 1, ...
  if (store_.bounds() != nullptr && store_.bounds()->config().evicts() && !in_order) {
    state_.slots = std::move(slots_);
  }
  TableChange change;
  change.mark = {epoch_, state_.version};
  change.whole = whole_;
  for (const auto& [id, slot] : removed_) {
    if (!whole_ && slot == kNoSlot) change.removed.push_back(id);
  }
  std::sort(change.removed.begin(), change.removed.end());
  change.rows = std::move(state_);
  return change;
}

}  // namespace fastinc
