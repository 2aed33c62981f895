#include "fastinc/table.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <numeric>
#include <stdexcept>

#include "cpu/kernels.h"
#include "cpu/pool.h"
#include "cpu/threads.h"
#include "cpu/update.h"
#include "fastinc/runtime.h"
#include "store/repeats.h"
#include "store/row_store.h"
#include "store/table_checks.h"

namespace fastinc {
namespace {

constexpr std::size_t kPoolBlock = 32;  // rows copied whole before they are added

void take_turn(RowStore& store, WriteTurn& turn) {
  if (!turn.owns_lock()) turn = WriteTurn(store.mutex);
}

void count_lookups(const RowStore& store, std::size_t n, std::size_t found) {
  store.counters.hits.fetch_add(found, std::memory_order_relaxed);
  if (found < n) store.counters.misses.fetch_add(n - found, std::memory_order_relaxed);
}

}  // namespace

Table::Table(std::size_t dim, std::shared_ptr<Optimizer> optimizer, const Initializer& init,
             const TableBounds& bounds)
    : store_(std::make_unique<RowStore>(dim, std::move(optimizer), init, bounds)) {}
Table::~Table() = default;

std::size_t Table::dim() const {
  return store_->dim();
}

std::size_t Table::size() const {
  return store_->size();
}

std::size_t Table::state_floats() const {
  return store_->state_shape().floats(store_->dim());
}

std::uint64_t Table::version() const {
  return store_->version();
}

Initializer Table::initializer() const {
  return store_->initializer();
}

TableBounds Table::bounds() const {
  return store_->bounds() != nullptr ? store_->bounds()->config() : TableBounds{};
}

RowStore& Table::store() {
  return *store_;
}
const RowStore& Table::store() const {
  return *store_;
}

void Table::lookup(std::span<const std::int64_t> ids, float* out) const {
  count_lookups(*store_, ids.size(), store_->read(ids, out));
}

bool Table::has_codes() const {
  return store_->has_codes();
}

void Table::keep_codes() const {
  if (store_->has_codes()) return;
  const WriteTurn turn(store_->mutex);
  store_->keep_codes();
}

void Table::lookup_quantized(std::span<const std::int64_t> ids, std::uint8_t* out) const {
  keep_codes();
  count_lookups(*store_, ids.size(), store_->read_codes(ids, out));
}

void Table::pool(std::span<const std::int64_t> ids, std::span<const std::int64_t> offsets, PoolMode mode,
                 const float* weights, float* out) const {
  const std::size_t n = ids.size(), bags = offsets.size();
  check_bags(n, offsets);
  check_sample_weights(weights, n, mode, "weights");
  const RowStore& store = *store_;
  const std::size_t dim = store.dim();
  const auto add = kernels().add_scaled;
  const std::size_t floats_a_bag = dim * (n / (bags > 0 ? bags : 1) + 1);
  const std::size_t parts = parts_for(bags * floats_a_bag);
  std::vector<float> rows(kPoolBlock * dim * parts);
  std::atomic<std::size_t> found{0};
  parallel_parts(bags, parts, [&](std::size_t begin, std::size_t end, std::size_t part) noexcept {
    if (begin == end) return;
    const auto position = [&](std::size_t b) { return b < bags ? static_cast<std::size_t>(offsets[b]) : n; };
    float* const block = rows.data() + part * kPoolBlock * dim;
    std::fill_n(out + begin * dim, (end - begin) * dim, 0.0f);
    std::size_t bag = begin, mine = 0;
    for (std::size_t at = position(begin); at < position(end); at += kPoolBlock) {
      const std::size_t size = std::min(kPoolBlock, position(end) - at);
      mine += store.read_here(ids.subspan(at, size), block);
      for (std::size_t i = at; i < at + size; ++i) {
        while (i >= position(bag + 1)) ++bag;  // empty bags stay zero
        add(out + bag * dim, block + (i - at) * dim, weights != nullptr ? weights[i] : 1.0f, dim);
      }
    }
    found += mine;
    for (std::size_t b = begin; mode == PoolMode::kMean && b < end; ++b) {
      const auto count = static_cast<float>(position(b + 1) - position(b));
      for (std::size_t i = 0; count > 0.0f && i < dim; ++i) out[b * dim + i] /= count;
    }
  });
  count_lookups(store, n, found);
}

WriteTurn Table::try_write() {
  return WriteTurn(store_->mutex, std::try_to_lock);
}

namespace {

/// What a batch of these ids may need is there.
void begin_batch(RowStore& store, std::span<const std::int64_t> ids) {
  constexpr std::size_t kExpireAtLeast = 1024, kExpireAnId = 4;
  if (store.bounds() != nullptr) store.bounds()->check_fits(ids);
  const std::size_t expire = store.reserve_expire(kExpireAtLeast + kExpireAnId * ids.size(), ids.size());
  store.reserve_commit(ids.size(), expire + (store.bounds() != nullptr ? ids.size() : 0));
}

/// Leave out gradients of ids that haven't been seen often enough.
void refuse_rare(Bounds& bounds, CleanBatch<std::int64_t>& batch, std::vector<Slot>& slots, std::size_t dim) {
  const auto kept = bounds.admit(batch.ids, slots.data());
  if (!kept) return;
  std::vector<std::int64_t> ids(kept->size());
  std::vector<float> grads(kept->size() * dim);
  for (std::size_t i = 0; i < kept->size(); ++i) {
    const std::size_t from = (*kept)[i];
    ids[i] = batch.ids[from];
    slots[i] = slots[from];
    std::copy_n(batch.grads + from * dim, dim, grads.data() + i * dim);
  }
  slots.resize(ids.size());
  batch.kept_ids = std::move(ids);
  batch.kept_grads = std::move(grads);
  batch.ids = batch.kept_ids;
  batch.grads = batch.kept_grads.data();
}

/// Rows that a batch has given up are told of, whether it comes to its end or not.
class EvictionGuard {
 public:
  EvictionGuard(RowStore& store, std::uint64_t version) : store_(store), version_(version) {}
  ~EvictionGuard() {
    if (store_.unfinished()) store_.commit_unfinished(version_);
  }
  EvictionGuard(const EvictionGuard&) = delete;
  EvictionGuard& operator=(const EvictionGuard&) = delete;

 private:
  RowStore& store_;
  const std::uint64_t version_;
};

}  // namespace

std::size_t Table::update(std::span<const std::int64_t> ids, const float* grads, NonFinite policy,
                          WriteTurn turn) {
  RowStore& store = *store_;
  CleanBatch<std::int64_t> batch = clean_batch(ids, grads, store.dim(), policy);
  const std::size_t n = batch.ids.size();
  position_bits_for(n, kNoSlot);
  if (n == 0) {
    store.counters.skipped += batch.skipped;
    return batch.skipped;
  }
  thread_local std::vector<Slot> slots, distinct;
  slots.resize(n);
  distinct.resize(n);
  take_turn(store, turn);
  const std::uint64_t version = store.version() + 1;
  const OptimizerParams params = store.optimizer().params();
  reserve_step(n, store.dim());
  const EvictionGuard guard(store, version);
  begin_batch(store, batch.ids);
  store.find(batch.ids, slots.data());
  store.preserve(slots);
  if (store.bounds() != nullptr) refuse_rare(*store.bounds(), batch, slots, store.dim());
  store.create(batch.ids, slots.data(), version);
  const std::size_t rows = step_rows(params, store.rows(), store.slot_count(), std::span<const Slot>(slots),
                                     batch.grads, version, distinct.data());
  store.expire(version);
  if (rows > 0 || store.unfinished()) {
    store.commit(version, std::span(distinct.data(), rows), store.evicted());
  }
  store.counters.skipped += batch.skipped;
  return batch.skipped;
}

void Table::load(std::span<const std::int64_t> ids, const float* vectors, WriteTurn turn) {
  RowStore& store = *store_;
  const std::size_t n = ids.size(), dim = store.dim();
  check_finite(vectors, n, dim, "vectors");
  if (n == 0) return;
  std::vector<Slot> slots(n);
  std::vector<std::size_t> order(n);
  take_turn(store, turn);
  const std::uint64_t version = store.version() + 1;
  const EvictionGuard guard(store, version);
  begin_batch(store, ids);
  store.find(ids, slots.data());
  store.create(ids, slots.data(), version);
  // The last of a row's vectors alone is written: two threads must not write one row.
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return slots[a] != slots[b] ? slots[a] < slots[b] : a > b; });
  const auto end = std::unique(order.begin(), order.end(),
                               [&](std::size_t a, std::size_t b) { return slots[a] == slots[b]; });
  order.erase(end, order.end());
  parallel_ranges(order.size(), dim, [&](std::size_t begin, std::size_t last, std::size_t) noexcept {
    for (std::size_t i = begin; i < last; ++i) {
      store.set_row(slots[order[i]], vectors + order[i] * dim, nullptr, version);
    }
  });
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = slots[order[i]];
  slots.assign(order.begin(), order.end());
  store.expire(version);
  store.commit(version, slots, store.evicted());
}

std::size_t Table::expire() {
  RowStore& store = *store_;
  const WriteTurn turn(store.mutex);
  const std::uint64_t version = store.version() + 1;
  const EvictionGuard guard(store, version);
  store.reserve_commit(0, store.reserve_expire(store.size(), 0));
  store.expire(version);
  return store.evicted().size();
}

void Table::advance(WriteTurn turn) {
  take_turn(*store_, turn);
  store_->reserve_commit(0, 0);
  store_->commit(store_->version() + 1, {}, {});
}

std::size_t Table::remove(std::span<const std::int64_t> ids, WriteTurn turn) {
  take_turn(*store_, turn);
  const std::uint64_t version = store_->version() + 1;
  const std::vector<std::int64_t> gone = store_->remove(ids, version);
  if (!gone.empty()) store_->commit(version, {}, gone);
  return gone.size();
}

void Table::contains(std::span<const std::int64_t> ids, bool* out) const {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const Slot slot = store_->find(ids[i]);
    const auto [id, version] =
        slot == kNoSlot ? std::pair{ids[i], std::uint64_t{0}} : store_->read_header(slot);
    out[i] = id == ids[i] && version != 0;
  }
}

std::vector<std::int64_t> Table::ids() const {
  std::vector<std::int64_t> ids;
  const std::uint64_t since = store_->version();
  ids.reserve(store_->size());
  for (Slot slot = 0, end = static_cast<Slot>(store_->slot_count()); slot < end; ++slot) {
    const auto [id, version] = store_->read_header(slot);
    if (version != 0) ids.push_back(id);
  }
  drop_repeats(*store_, since, ids);
  return ids;
}

Changes Table::changes(std::uint64_t since) const {
  const RowStore& store = *store_;
  Changes changes{.version = store.version()};
  if (since > changes.version) {
    throw std::invalid_argument("since = " + std::to_string(since) + " is newer than the table's version " +
                                std::to_string(changes.version));
  }
  if (since == changes.version) return changes;
  std::vector<std::int64_t> removed;
  changes.reset = !store.changes().removed_since(since, changes.version, removed);
  const std::uint64_t after = changes.reset ? 0 : since;
  std::vector<Slot> slots;
  const bool logged = !changes.reset && store.changes().written_since(since, changes.version, slots);
  std::sort(slots.begin(), slots.end());
  slots.erase(std::unique(slots.begin(), slots.end()), slots.end());
  const std::size_t candidates = logged ? slots.size() : store.slot_count();
  for (std::size_t i = 0; i < candidates; ++i) {
    const auto [id, version] = store.read_header(logged ? slots[i] : static_cast<Slot>(i));
    if (version > after) changes.updated.push_back(id);
  }
  drop_repeats(store, changes.version, changes.updated);
  std::sort(removed.begin(), removed.end());
  removed.erase(std::unique(removed.begin(), removed.end()), removed.end());
  std::vector<std::int64_t> updated;
  if (!removed.empty()) updated = changes.updated;
  std::sort(updated.begin(), updated.end());
  for (const std::int64_t id : removed) {
    // One that came back is among the updated. The batch at work may be doing either: the next call tells.
    const Slot slot = store.find(id);
    const auto [there, version] = slot == kNoSlot ? std::pair{id, std::uint64_t{0}} : store.read_header(slot);
    const bool back = there == id && version != 0 && version <= changes.version;
    if (!back && !std::binary_search(updated.begin(), updated.end(), id)) changes.removed.push_back(id);
  }
  return changes;
}

std::vector<std::pair<std::string, std::size_t>> Table::memory_usage() const {
  const RowStore::Bytes b = store_->bytes();
  return {{"weights", b.weights},
          {"state", b.state},
          {"codes", b.codes},
          {"headers", b.headers},
          {"index", b.index},
          {"change_log", b.change_log},
          {"eviction", b.eviction},
          {"admission", b.admission},
          {"total",
           b.weights + b.state + b.codes + b.headers + b.index + b.change_log + b.eviction + b.admission}};
}

std::vector<std::pair<std::string, std::uint64_t>> Table::stats() const {
  const RowStore::Counters& counters = store_->counters;
  return {{"rows", store_->size()},
          {"slots", store_->slot_count()},
          {"version", store_->version()},
          {"hits", counters.hits},
          {"misses", counters.misses},
          {"inserts", counters.inserts},
          {"removes", counters.removes},
          {"evictions", counters.evictions},
          {"refused", store_->bounds() != nullptr ? store_->bounds()->refused() : 0},
          {"skipped_nonfinite", counters.skipped}};
}

double Table::load_factor() const {
  return store_->index().load();
}

}  // namespace fastinc
