// A table's state, whole or since a mark, out and in.
#include <algorithm>
#include <mutex>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpu/threads.h"
#include "fastinc/table.h"
#include "store/row_store.h"
#include "store/table_checks.h"
#include "store/table_copy.h"

namespace fastinc {
namespace {

std::size_t sketch_width(const RowStore& store) {
  const bool has_sketch = store.bounds() != nullptr && store.bounds()->sketch() != nullptr;
  return has_sketch ? store.bounds()->sketch()->width() : 0;
}

/// Rows that have their slots, as they are in a state.
void set_rows(RowStore& store, const TableStateView& in, std::span<const Slot> slots,
              const std::uint64_t* version) {
  const std::size_t dim = store.dim(), floats = store.state_shape().floats(dim);
  parallel_ranges(slots.size(), dim, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    for (std::size_t i = begin; i < end; ++i) {
      store.set_row(slots[i], in.weights.data() + i * dim, in.state.data() + i * floats,
                    version != nullptr ? *version : in.row_versions[i]);
    }
  });
  if (Bounds* const bounds = store.bounds(); bounds != nullptr) {
    for (std::size_t i = 0; i < in.frequencies.size(); ++i)
      bounds->set_frequency(slots[i], in.frequencies[i]);
  }
}

/// The slots that ids have or get.
std::vector<Slot> slots_for(RowStore& store, const TableStateView& in, std::uint64_t version) {
  if (!in.slots.empty() || !in.free_slots.empty()) {
    store.place(in.ids, in.slots, in.free_slots, version);
    return {in.slots.begin(), in.slots.end()};
  }
  std::vector<Slot> slots(in.ids.size());
  store.find(in.ids, slots.data());
  store.create(in.ids, slots.data(), version);
  return slots;
}

/// The rows are what they are to be: versions begin anew.
void restart(RowStore& store, const TableStateView& in) {
  store.restart(in.version);  // rows have keys of their own now
  if (sketch_width(store) > 0) store.bounds()->sketch()->restore(in.sightings, in.sightings_counted);
}

}  // namespace

TableState Table::export_state() const {
  return export_change({}).rows;
}

TableMark Table::mark() const {
  const std::uint64_t epoch = store_->epoch();  // first: versions are of an epoch
  return {epoch, store_->version()};
}

TableChange Table::export_change(const std::optional<TableMark>& since) const {
  TableCopy copy(*store_, since);
  copy.prepare();
  {
    const std::unique_lock lock(store_->mutex);  // writers wait for the last few rows to be listed
    copy.begin();
  }
  copy.copy();
  return copy.take();
}

void Table::import_state(const TableStateView& in) {
  RowStore& store = *store_;
  check_state(in, store.dim(), store.state_shape().floats(store.dim()), bounds(), sketch_width(store));
  std::vector<Slot> slots(in.slots.begin(), in.slots.end());
  if (slots.empty()) {
    slots.resize(in.ids.size());
    std::iota(slots.begin(), slots.end(), Slot{0});
  }
  const WriteTurn turn(store.mutex);
  store.reserve_rows(in.ids.size());
  store.clear(in.version);
  store.place(in.ids, slots, in.free_slots, in.version);
  set_rows(store, in, slots, nullptr);
  restart(store, in);
  store.counters.inserts = store.counters.removes = store.counters.evictions = store.counters.skipped = 0;
  store.counters.hits = store.counters.misses = 0;
}

namespace {

/// Rows whose slots others get, or nobody, are in the change.
void check_places(const RowStore& store, const TableChange& change) {
  std::vector<std::int64_t> leaving = change.rows.ids;
  leaving.insert(leaving.end(), change.removed.begin(), change.removed.end());
  std::sort(leaving.begin(), leaving.end());
  for (const auto* const some : {&change.rows.slots, &change.rows.free_slots}) {
    for (const Slot slot : *some) {
      if (slot >= store.slot_count() || store.row_version(slot) == 0) continue;
      if (!std::binary_search(leaving.begin(), leaving.end(), store.id(slot))) {
        throw std::invalid_argument("table change: slot " + std::to_string(slot) + " is row " +
                                    std::to_string(store.id(slot)) + "'s, which stays");
      }
    }
  }
}

/// A change of this table alone, not of one in another state. Where slots are told of they tell.
void check_follows(const RowStore& store, const TableChange& change) {
  const TableState& in = change.rows;
  const auto refuse = [](const std::string& why) {
    throw std::invalid_argument("table change: not of a table in this one's state: " + why);
  };
  if (in.version < store.version()) {
    refuse("version " + std::to_string(in.version) + " is before " + std::to_string(store.version()));
  }
  if (in.slots.empty() && in.free_slots.empty()) return;
  check_places(store, change);
  const auto known = [&](std::int64_t id) { return store.find(id) != kNoSlot; };
  std::size_t size = store.size(), slots = store.slot_count();
  size -= static_cast<std::size_t>(std::count_if(change.removed.begin(), change.removed.end(), known));
  size += in.ids.size() - static_cast<std::size_t>(std::count_if(in.ids.begin(), in.ids.end(), known));
  for (const auto* some : {&in.slots, &in.free_slots}) {
    for (const Slot slot : *some) slots = std::max(slots, std::size_t{slot} + 1);
  }
  if (size + in.free_slots.size() != slots) {
    refuse(std::to_string(size) + " rows and " + std::to_string(in.free_slots.size()) +
           " free slots aren't " + std::to_string(slots));
  }
}

}  // namespace

void Table::check(const TableChange& change, Versions versions) const {
  const RowStore& store = *store_;
  check_change(change, store.dim(), store.state_shape().floats(store.dim()), bounds(), sketch_width(store));
  if (versions == Versions::kKeep) check_follows(store, change);
}

void Table::apply(const TableChange& change, Versions versions) {
  RowStore& store = *store_;
  const TableState& in = change.rows;
  const WriteTurn turn(store.mutex);
  check(change, versions);
  store.reserve_rows(in.ids.size());
  if (versions == Versions::kKeep) {
    store.remove(change.removed, in.version);
    set_rows(store, in, slots_for(store, in, in.version), nullptr);
    restart(store, in);
    return;
  }
  // Rows stay where they are: slots are of the other table. It evicts, this one need not.
  const std::uint64_t version = store.version() + 1;
  store.reserve_commit(in.ids.size(), change.removed.size());
  std::vector<Slot> slots(in.ids.size());
  const std::vector<std::int64_t> gone = store.remove(change.removed, version);
  try {
    store.find(in.ids, slots.data());
    store.create(in.ids, slots.data(),
                 version);  // none is evicted: there is room where the other table had it
  } catch (...) {
    store.commit(version, {}, gone);
    throw;
  }
  set_rows(store, in, slots, &version);
  if (sketch_width(store) > 0) store.bounds()->sketch()->restore(in.sightings, in.sightings_counted);
  store.commit(version, slots, gone);
}

}  // namespace fastinc
