#include "store/bounds.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <stdexcept>
#include <string>

#include "fastinc/runtime.h"
#include "store/row_store.h"
#include "store/table_checks.h"

namespace fastinc {
namespace {

constexpr std::uint32_t kMostCounted = 255;

/// The store's rows as Victims wants to see them. Rows of the batch at hand that are new are not live yet.
struct KeyedRows {
  const RowStore& store;
  const Bounds& bounds;

  std::size_t slot_count() const noexcept { return store.slot_count(); }
  bool key(Slot slot, EvictionKey& key) const noexcept {
    const std::uint64_t version = store.row_version(slot);
    if (version == 0) return false;
    key = {bounds.frequency(slot), version};
    return true;
  }
};

}  // namespace

void validate(const TableBounds& bounds) {
  const auto require = [](bool holds, const std::string& message) {
    if (!holds) throw std::invalid_argument(message);
  };
  require(bounds.max_rows < kNoSlot,
          "max_rows = " + std::to_string(bounds.max_rows) + " must be below " + std::to_string(kNoSlot));
  require(std::isfinite(bounds.ttl) && bounds.ttl >= 0.0,
          "ttl = " + number_text(bounds.ttl) + " must be finite and >= 0");
  require(bounds.eviction == Eviction::kNone || bounds.max_rows > 0,
          "eviction by use needs max_rows: a table without a limit gives up no row");
  require(bounds.eviction != Eviction::kLfu || bounds.ttl == 0.0,
          "ttl goes by time, and eviction by use doesn't");
  require(bounds.max_rows == 0 || bounds.eviction != Eviction::kNone || bounds.ttl > 0.0,
          "max_rows = " + std::to_string(bounds.max_rows) + " needs a rule of eviction");
  require(bounds.min_count >= 1 && bounds.min_count <= kMostCounted,
          "min_count = " + std::to_string(bounds.min_count) + " must be from 1 to " +
              std::to_string(kMostCounted));
  require(bounds.min_count <= 1 || bounds.sketch_width >= 8 * std::size_t{bounds.min_count},
          "sketch_width = " + std::to_string(bounds.sketch_width) + " must be at least 8 * min_count = " +
              std::to_string(8 * std::size_t{bounds.min_count}) + ": counters fade before they reach it");
  require(bounds.sketch_width >= 64 && bounds.sketch_width <= std::size_t{1} << 38,
          "sketch_width = " + std::to_string(bounds.sketch_width) + " must be from 64 to 2^38");
}

Bounds::Bounds(const TableBounds& config, std::uint64_t salt, unsigned page_shift, std::size_t max_pages)
    : config_(config), moments_(config.ttl, config.clock) {
  moments_.reserve();
  if (config.min_count > 1) sketch_ = std::make_unique<CountMin>(config.sketch_width, salt);
  if (counts_uses()) frequencies_ = std::make_unique<Pages<std::uint32_t>>(1, page_shift, max_pages);
}

void Bounds::check_fits(std::span<const std::int64_t> ids) const {
  if (config_.max_rows == 0 || ids.size() <= config_.max_rows) return;
  std::vector<std::int64_t> distinct(ids.begin(), ids.end());
  std::sort(distinct.begin(), distinct.end());
  const auto end = std::unique(distinct.begin(), distinct.end());
  const auto count = static_cast<std::size_t>(end - distinct.begin());
  if (count > config_.max_rows) refuse_batch(count, config_.max_rows);
}

void Bounds::reserve(std::size_t slot_count) {
  if (frequencies_) {
    while (frequencies_->rows() < slot_count) frequencies_->add_page();
  }
  if (!config_.evicts() || slot_count <= prepared_) return;
  const std::size_t slots = std::bit_ceil(slot_count);
  victims_.prepare(slots);
  prepared_ = slots;
  victim_bytes_ = victims_.bytes() + own_.capacity() * sizeof(own_[0]);
}

std::optional<std::vector<std::uint32_t>> Bounds::admit(std::span<const std::int64_t> ids,
                                                        const Slot* slots) {
  if (!sketch_) return std::nullopt;
  std::vector<std::uint32_t> kept;
  kept.reserve(ids.size());
  // All sightings of the batch count for each of its ids, so that an id is admitted with all its gradients.
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (slots[i] == kNoSlot) sketch_->add(ids[i]);
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (slots[i] != kNoSlot || sketch_->estimate(ids[i]) >= config_.min_count) {
      kept.push_back(static_cast<std::uint32_t>(i));
    }
  }
  if (kept.size() == ids.size()) return std::nullopt;
  refused_ += ids.size() - kept.size();
  return kept;
}

std::optional<Slot> Bounds::next_victim(const RowStore& store, std::uint64_t version) noexcept {
  for (;;) {
    const std::optional<Slot> victim = victims_.next(KeyedRows{store, *this});
    if (!victim || store.row_version(*victim) != version) return victim;
    own_.push_back({*victim, {frequency(*victim), version}});
  }
}

void Bounds::end_batch() noexcept {
  for (const auto& [slot, key] : own_) victims_.note_insert(slot, key);
  own_.clear();
}

std::optional<Slot> Bounds::next_expired(const RowStore& store) noexcept {
  const std::uint64_t last = moments_.last_expired();
  if (last == 0) return std::nullopt;
  return victims_.next(KeyedRows{store, *this}, EvictionKey{0, last});
}

void Bounds::note_insert(Slot slot, std::uint64_t version) noexcept {
  if (counts_uses()) set_frequency(slot, 1);
  if (config_.evicts()) victims_.note_insert(slot, {frequency(slot), version});
}

void Bounds::note_use(Slot slot) noexcept {
  if (counts_uses() && frequency(slot) != ~std::uint32_t{0}) set_frequency(slot, frequency(slot) + 1);
}

void Bounds::note_time(std::uint64_t version) noexcept {
  moments_.note(version);
}

void Bounds::restart(std::uint64_t version) {
  victims_.clear();
  moments_.clear();
  note_time(version);
  if (sketch_) sketch_->clear();
  refused_ = 0;
}

std::size_t Bounds::eviction_bytes(std::size_t slot_count) const {
  return victim_bytes_.load(std::memory_order_relaxed) + moments_.bytes() +
         (counts_uses() ? slot_count * sizeof(std::uint32_t) : 0);
}

}  // namespace fastinc
