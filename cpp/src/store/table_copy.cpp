#include "store/table_copy.h"

#include <algorithm>
#include <numeric>
#include <thread>

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

TableCopy::TableCopy(const RowStore& store)
    : store_(store), floats_(store.state_shape().floats(store.dim())) {}

void TableCopy::start_again(std::uint64_t epoch) {
  state_ = {};
  removed_.clear();
  epoch_ = epoch;
  started_ = true;
}

void TableCopy::grow(std::size_t slots) {
  if (slots <= state_.ids.size()) return;
  state_.ids.resize(slots);
  state_.row_versions.resize(slots);
  state_.weights.resize(slots * store_.dim());
  state_.state.resize(slots * floats_);
}

void TableCopy::read(Slot slot) {
  state_.row_versions[slot] =
      read_row(store_, slot, floats_, &state_.ids[slot], state_.weights.data() + slot * store_.dim(),
               state_.state.data() + slot * floats_);
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
  const bool follows = started_ && epoch_ == epoch &&
                       store_.changes().written_since(state_.version, until, written) &&
                       store_.changes().removed_since(state_.version, until, removed);
  if (!follows) {
    start_again(epoch);
    written.resize(store_.slot_count());
    std::iota(written.begin(), written.end(), Slot{0});
    removed.clear();
  } else {
    std::sort(written.begin(), written.end());
    written.erase(std::unique(written.begin(), written.end()), written.end());
  }
  grow(written.empty() ? 0 : std::size_t{written.back()} + 1);
  note_removed(removed);
  parallel_ranges(written.size(), store_.dim() + floats_,
                  [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
                    for (std::size_t i = begin; i < end; ++i) read(written[i]);
                  });
  if (!removed_.empty()) {
    for (const Slot slot : written) {
      if (state_.row_versions[slot] == 0) continue;
      if (const auto at = removed_.find(state_.ids[slot]); at != removed_.end()) at->second = slot;
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
  const Bounds* const bounds = store_.bounds();
  if (bounds == nullptr) return;
  if (bounds->counts_uses()) {
    state_.frequencies.resize(state_.ids.size());
    for (Slot slot = 0; slot < state_.ids.size(); ++slot) state_.frequencies[slot] = bounds->frequency(slot);
  }
  if (bounds->sketch() != nullptr) {
    state_.sightings = bounds->sketch()->counters();
    state_.sightings_counted = bounds->sketch()->additions();
  }
}

bool TableCopy::is_kept(std::size_t slot) const {
  if (state_.row_versions[slot] == 0) return false;
  const auto at = removed_.find(state_.ids[slot]);
  return at == removed_.end() || at->second == slot;
}

TableState TableCopy::take() {
  const std::size_t dim = store_.dim();
  std::size_t kept = 0;
  for (std::size_t slot = 0; slot < state_.ids.size(); ++slot) {
    if (!is_kept(slot)) continue;
    if (kept != slot) {
      state_.ids[kept] = state_.ids[slot];
      state_.row_versions[kept] = state_.row_versions[slot];
      std::copy_n(state_.weights.data() + slot * dim, dim, state_.weights.data() + kept * dim);
      std::copy_n(state_.state.data() + slot * floats_, floats_, state_.state.data() + kept * floats_);
      if (!state_.frequencies.empty()) state_.frequencies[kept] = state_.frequencies[slot];
    }
    ++kept;
  }
  state_.ids.resize(kept);
  state_.row_versions.resize(kept);
  state_.weights.resize(kept * dim);
  state_.state.resize(kept * floats_);
  if (!state_.frequencies.empty()) state_.frequencies.resize(kept);
  return std::move(state_);
}

}  // namespace fastinc
