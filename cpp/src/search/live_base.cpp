#include "fastinc/live_base.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "cpu/kernels.h"
#include "fastinc/runtime.h"
#include "search/lists.h"
#include "search/live_search.h"
#include "search/row_scores.h"
#include "store/row_store.h"

namespace fastinc {

RowsAtVersion rows_at_version(const Table& table) {
  const RowStore& store = table.store();
  RowsAtVersion out;
  out.epoch = store.epoch();
  out.version = store.version();
  out.ids = table.ids();
  std::sort(out.ids.begin(), out.ids.end());
  out.ids.erase(std::unique(out.ids.begin(), out.ids.end()), out.ids.end());  // removed and back meanwhile
  out.weights.resize(out.ids.size() * store.dim());
  store.read(out.ids, out.weights.data());
  return out;
}

namespace {

/// Slots written at these versions that hold a row.
std::vector<Slot> written_slots(const RowStore& store, std::uint64_t since, std::uint64_t until) {
  std::vector<Slot> slots = std::move(LoggedSlots(store, since, until).slots);
  for (const Slot slot : slots) store.prefetch_id(slot);
  std::erase_if(slots, [&](Slot slot) { return store.row_version(slot) <= since; });
  return slots;
}

}  // namespace

LiveBase::LiveBase(const Table& table, std::span<const std::int64_t> ids, std::size_t count,
                   std::uint64_t version, std::uint64_t epoch, std::size_t lists)
    : store_(table.store()),
      count_(count),
      lists_(lists),
      version_(version),
      epoch_(epoch),
      slots_(ids.size()) {
  if (count > ids.size()) {
    throw std::invalid_argument("count = " + std::to_string(count) + " must be at most the number of ids, " +
                                std::to_string(ids.size()));
  }
  table.keep_codes();
  store_.find(ids, slots_.data());
  folded_ = std::make_shared<const Folded>(Folded{version, std::vector<std::size_t>(lists + 2), {}});
}

LiveBase::~LiveBase() = default;

std::size_t LiveBase::dim() const {
  return store_.dim();
}

std::shared_ptr<const LiveBase::Folded> LiveBase::folded() const {
  const std::lock_guard lock(mutex_);
  return folded_;
}

LiveState LiveBase::search(const SearchRequest& request, const IndexAnswer& index, float* scores,
                           std::int64_t* ids) const {
  check_request(request, store_.dim());
  const auto check = [&](const std::int64_t* values, std::size_t n, std::size_t end, const char* name) {
    for (std::size_t i = 0; i < n; ++i) {
      if (values[i] >= -1 && values[i] < static_cast<std::int64_t>(end)) continue;
      throw std::invalid_argument(std::string(name) + " = " + std::to_string(values[i]) +
                                  " must be from -1 to " + std::to_string(end) + " - 1");
    }
  };
  check(index.positions, request.n * index.asked, count_, "position");
  if (index.lists != nullptr) check(index.lists, request.n * index.probed, lists_, "list");
  Search search(*this, request, index);
  search.run(scores, ids);
  return search.state();
}

LiveBase::Unfolded LiveBase::unfolded() const {
  Unfolded out;
  out.version = store_.version();
  out.slots = written_slots(store_, folded()->version, out.version);
  const Kernels& kernel = kernels();
  RowScores::Block block;
  const RowScores rows(store_, kernel, Metric::kIp, nullptr, 0);
  std::vector<float> copies(rows.block_rows() * store_.dim());
  block.rows = copies.data();
  std::size_t size = 0;
  for (std::size_t at = 0; at < out.slots.size(); at += rows.block_rows()) {
    const std::size_t n = std::min(rows.block_rows(), out.slots.size() - at);
    std::copy_n(out.slots.data() + at, n, block.slots);
    rows.load(n, block);
    std::copy_n(block.slots, block.size, out.slots.data() + size);
    out.weights.insert(out.weights.end(), block.rows, block.rows + block.size * store_.dim());
    size += block.size;
  }
  out.slots.resize(size);
  return out;
}

std::size_t LiveBase::count_unfolded() const {
  return written_slots(store_, folded()->version, store_.version()).size();
}

std::size_t LiveBase::count_logged() const {
  return LoggedSlots(store_, folded()->version, store_.version()).writes;
}

std::size_t LiveBase::count_everywhere() const {
  const std::shared_ptr<const Folded> now = folded();
  return count_unfolded() + now->slots.size() - now->starts[lists_];
}

bool LiveBase::outdated() const {
  return store_.epoch() != epoch_;
}

void LiveBase::fold(std::span<const std::uint32_t> slots, std::span<const std::int64_t> lists,
                    std::uint64_t version) {
  if (slots.size() != lists.size()) {
    throw std::invalid_argument("lists has " + std::to_string(lists.size()) + " values; " +
                                std::to_string(slots.size()) + " slots need as many");
  }
  for (const std::int64_t list : lists) {
    if (list < 0 || list > static_cast<std::int64_t>(lists_)) {
      throw std::invalid_argument("list = " + std::to_string(list) + " must be from 0 to " +
                                  std::to_string(lists_));
    }
  }
  std::vector<Slot> written(slots.begin(), slots.end());
  std::sort(written.begin(), written.end());
  constexpr std::size_t kAhead = 16;
  if (!written.empty() && written.back() >= store_.slot_count()) {
    throw std::invalid_argument("slot = " + std::to_string(written.back()) + " must be less than " +
                                std::to_string(store_.slot_count()));
  }
  if (const auto twice = std::adjacent_find(written.begin(), written.end()); twice != written.end()) {
    throw std::invalid_argument("slot = " + std::to_string(*twice) + " occurs twice");
  }
  const std::shared_ptr<const Folded> old = folded();
  std::vector<bool> is_new(written.empty() ? 0 : std::size_t{written.back()} + 1);
  for (const Slot slot : slots) is_new[slot] = true;
  std::vector<std::pair<std::size_t, Slot>> entries(slots.size());
  for (std::size_t i = 0; i < slots.size(); ++i) entries[i] = {static_cast<std::size_t>(lists[i]), slots[i]};
  std::sort(entries.begin(), entries.end());
  Folded now{version, {0}, {}};
  now.starts.reserve(lists_ + 2);
  now.slots.reserve(old->slots.size() + slots.size());
  const std::vector<Slot>& before = old->slots;
  auto entry = entries.begin();
  for (std::size_t list = 0; list <= lists_; ++list) {
    for (std::size_t i = old->starts[list]; i < old->starts[list + 1]; ++i) {
      if (i + kAhead < before.size()) store_.prefetch_id(before[i + kAhead]);
      const bool replaced = before[i] < is_new.size() && is_new[before[i]];
      if (!replaced && store_.row_version(before[i]) != 0) now.slots.push_back(before[i]);
    }
    for (; entry != entries.end() && entry->first == list; ++entry) now.slots.push_back(entry->second);
    now.starts.push_back(now.slots.size());
  }
  auto made = std::make_shared<const Folded>(std::move(now));
  const std::lock_guard lock(mutex_);
  folded_ = std::move(made);
}

std::size_t LiveBase::count_fresh() const {
  std::size_t count = 0;
  for (Slot slot = 0, end = static_cast<Slot>(store_.slot_count()); slot < end; ++slot) {
    count += store_.row_version(slot) > version_;
  }
  return count;
}

std::size_t LiveBase::bytes() const {
  const std::shared_ptr<const Folded> now = folded();
  return slots_.capacity() * sizeof(Slot) + now->starts.capacity() * sizeof(std::size_t) +
         now->slots.capacity() * sizeof(Slot);
}

}  // namespace fastinc
