// Updates, loads and removals.
#include <bit>
#include <cub/cub.cuh>
#include <limits>

#include "cpu/update.h"
#include "cuda/row_writes.h"
#include "cuda/table_store.h"
#include "fastinc/runtime.h"

namespace fastinc::cuda {
namespace {

/// New rows as they start: a warp a row. slots: (n,)
__global__ void start_rows(const __grid_constant__ DeviceRows rows, const __grid_constant__ Initializer init,
                           const std::uint32_t* __restrict__ slots, std::size_t n, float state) {
  for (std::size_t r = first_warp(); r < n; r += warp_count()) {
    const Slot slot = slots[r];
    write_start(init, rows.id(slot), rows.dim, rows.weights(slot));
    write_state(rows, slot, state);
  }
}

/// The last vector of each group: a warp a row.
template <unsigned Values>
__global__ void __launch_bounds__(kBlock)
    load_groups(const __grid_constant__ TableRows table, const __grid_constant__ Grouping g,
                const float* __restrict__ vectors, float state) {
  const std::uint32_t count = *g.count;
  for (std::size_t at = first_warp(); at < count; at += warp_count()) {
    const Group group = g.groups[at];
    const Slot slot = table.slot(g.rows[at]);
    const std::size_t dim = table.rows.dim;
    const float* const from = vectors + std::size_t{g.positions[group.first + group.count - 1]} * dim;
    const auto load = [&](std::size_t i) { return from[i]; };
    Held<Values> values(dim, load);
    float* const out = table.rows.weights(slot);
    values.for_each(dim, load, [&](unsigned, std::size_t i, float& x) { out[i] = x; });
    write_state(table.rows, slot, state);
    table.finish(g.rows[at], values, load);
  }
}

/// Rows of these slots are nobody's from now on. free: where their slots go, or nullptr
__global__ void retire_rows(const __grid_constant__ DeviceRows rows, const __grid_constant__ IndexView index,
                            const std::uint32_t* __restrict__ slots, std::size_t n,
                            const __grid_constant__ RemovedView removed, std::uint32_t* __restrict__ free) {
  for (std::size_t r = first_thread(); r < n; r += thread_count()) {
    const Slot slot = slots[r];
    const std::int64_t id = rows.id(slot);
    *find_entry(index, id, slot) = kGone;
    rows.version(slot) = 0;
    removed.ids[(removed.at + r) & removed.mask] = id;
    if (free != nullptr) free[r] = slot;
  }
}

__global__ void find_ids(const __grid_constant__ Batch b, const __grid_constant__ IndexView index,
                         const __grid_constant__ DeviceRows rows) {
  for (std::size_t i = first_thread(); i < b.n; i += thread_count()) {
    b.keys[i] = find_slot(index, rows, b.ids[i]);
    b.is_new[i] = 0;
  }
}

__global__ void mark_first(const __grid_constant__ Batch b) {
  const std::uint32_t count = *b.groups.count;
  for (std::size_t i = first_thread(); i < count; i += thread_count()) {
    b.is_new[b.groups.positions[b.groups.groups[i].first]] = 1;
  }
}

/// Slots of marked positions, in order.
__global__ void list_marked(const __grid_constant__ Batch b) {
  for (std::size_t i = first_thread(); i < b.n; i += thread_count()) {
    if (b.is_new[i] != 0) b.created[b.ranks[i] - 1] = b.keys[i];
    if (i == b.n - 1) b.report->found = b.ranks[i];
  }
}

constexpr std::uint32_t kAllFinite = ~std::uint32_t{0};  // for enter_batch()

/// The bits of the largest value of which surely_finite() says that all is well.
std::uint32_t finite_bits_for(std::size_t n, std::size_t dim) {
  std::uint32_t low = 0, high = 0x7f800000u;  // 0 is fine, infinity isn't
  while (high - low > 1) {
    const std::uint32_t middle = low + (high - low) / 2;
    (surely_finite(std::bit_cast<float>(middle), n, dim) ? low : high) = middle;
  }
  return low;
}

}  // namespace

/// Slots for the batch's new ids, in the place of other rows where the table is full.
void TableStore::make_rows(const Batch& batch, const BatchReport& report, const Plan& plan,
                           std::uint64_t version, cudaStream_t stream) {
  if (bounds_.evicts()) {
    touch_rows(batch, pages_.view(), counts_uses(), version, report.groups, stream);
  }
  NewSlots from{free_.data(), static_cast<std::uint32_t>(free_count_),
                static_cast<std::uint32_t>(slot_count_),
                static_cast<std::uint32_t>(report.created - plan.evicted), nullptr};
  if (plan.evicted > 0) {
    from.victims = choose_victims(batch, plan, version, stream);
    remove_rows(from.victims, plan.evicted, false, version, stream);
    counters_.evictions += plan.evicted;
  }
  if (report.entered > 0) {
    take_new(batch, index_.view(), pages_.view(), counts_uses(), from, stream);
  }
  index_.note_inserts(report.entered);
  free_count_ -= report.created - plan.evicted - plan.fresh;
  slot_count_ += plan.fresh;
  size_ += report.created;
  counters_.inserts += report.created;
}

/// The rows to give up for new ones; those of the batch itself, which are of this version by now, stay.
/// Waits, unless all rows are looked at anyway.
const std::uint32_t* TableStore::choose_victims(const Batch& batch, const Plan& plan, std::uint64_t version,
                                                cudaStream_t stream) {
  const Candidates rows = candidates(version - 1);
  if (victims_.size() >= plan.evicted) {
    victims_.refresh(rows, &batch.report->victims, stream);
    victims_.set_size(mailbox_->read(batch.report, stream).victims);
  }
  if (victims_.size() < plan.evicted) victims_.refill(rows, plan.chosen, selection_.data(), stream);
  return victims_.take(rows, plan.evicted, stream);
}

/// Takes rows that are over out; the batch is complete.
void TableStore::finish(const Batch& batch, const Plan& plan, std::uint64_t version, cudaStream_t stream) {
  if (plan.most_expired > 0) (void)expire_rows(plan, batch.report, version, stream);
  version_ = version;
  moments_.note(version);
}

/// What was reserved for is enough. Waits.
std::size_t TableStore::expire_rows(const Plan& plan, BatchReport* report, std::uint64_t version,
                                    cudaStream_t stream) {
  check(cudaMemsetAsync(report, 0, sizeof *report, stream), "cudaMemsetAsync");
  count_candidates(candidates(plan.last_expired), reinterpret_cast<unsigned long long*>(&report->expired),
                   stream);
  const std::size_t over = mailbox_->read(report, stream).expired;
  const std::size_t count = std::min(over, plan.most_expired);
  if (count == over) expired_through_ = plan.last_expired;
  if (count == 0) return 0;
  const std::uint32_t* const slots =
      select_rows(candidates(plan.last_expired), count, selection_.data(), stream);
  remove_rows(slots, count, true, version, stream);
  counters_.evictions += count;
  return count;
}

/// They were reserved for. frees: their slots may be given to others later, and aren't at once
void TableStore::remove_rows(const std::uint32_t* slots, std::size_t count, bool frees, std::uint64_t version,
                             cudaStream_t stream) {
  launch("retire_rows", retire_rows, blocks_for(count, kBlock), kBlock, stream, pages_.view(), index_.view(),
         slots, count, removed_.next(), frees ? free_.data() + free_count_ : nullptr);
  removed_.append(version, count);
  if (frees) free_count_ += count;
  size_ -= count;
}

/// Finds the batch's rows and plans what it does; unchanged where that is refused. Waits.
///   refuse(report): throws where the batch's values are none to go on with
template <class Refuse>
TableStore::Looked TableStore::look_at(const Batch& batch, std::uint32_t finite_bits, cudaStream_t stream,
                                       Refuse refuse) {
  const std::uint64_t last_expired = look_for_expired(batch.report, stream);
  enter_batch(batch, index_.view(), pages_.view(), finite_bits, stream);
  Looked looked;
  looked.report.entered = static_cast<std::uint32_t>(batch.n);  // at most
  try {
    looked.report = mailbox_->read(batch.report, stream);
    refuse(looked.report);
    if (looked.report.skipped < looked.report.groups) {
      looked.plan = plan(batch, looked.report, last_expired, stream);
    }
  } catch (...) {
    undo(batch, looked.report.entered, stream);
    throw;
  }
  return looked;
}

std::size_t TableStore::update(const std::int64_t* ids, std::size_t n, const float* grads, NonFinite policy,
                               cudaStream_t stream) {
  check_length(n);
  if (n == 0) return 0;
  const Turn turn(*this, stream);
  const OptimizerParams params = optimizer_->params();
  const bool skips = policy == NonFinite::kSkip;
  const Batch batch = begin_batch(ids, n, grads, stream);
  make_room(batch, stream);
  find_largest(grads, n * dim_, &batch.report->largest, stream);
  const auto [report, plan] =
      look_at(batch, skips ? finite_bits_for(n, dim_) : kAllFinite, stream, [&](const BatchReport& seen) {
        if (!skips && !surely_finite(std::bit_cast<float>(seen.largest), n, dim_)) {
          check_gradients(ids, n, grads, stream);
        }
      });
  counters_.skipped += report.skipped;
  if (report.skipped == report.groups) {
    undo(batch, report.entered, stream);
    return report.skipped;
  }
  const std::uint64_t version = version_ + 1;
  make_rows(batch, report, plan, version, stream);
  if (report.created > 0) {
    launch("start_rows", start_rows, blocks_for(report.created, kWarpsPerBlock), kBlock, stream,
           pages_.view(), init_, batch.created, report.created, initial_state(params));
  }
  Grouping groups = batch.groups;
  groups.n = report.groups;  // for as many warps
  update_by(params, TableRows{pages_.view(), batch.base, batch.slots, version}, groups,
            &batch.report->skipped, stream);
  finish(batch, plan, version, stream);
  return report.skipped;
}

void TableStore::load(const std::int64_t* ids, std::size_t n, const float* vectors, cudaStream_t stream) {
  check_length(n);
  if (n == 0) return;
  const Turn turn(*this, stream);
  const float state = initial_state(optimizer_->params());
  const Batch batch = begin_batch(ids, n, nullptr, stream);
  make_room(batch, stream);
  find_largest(vectors, n * dim_, &batch.report->largest, stream);
  const auto [report, plan] = look_at(batch, kAllFinite, stream, [&](const BatchReport& seen) {
    if (all_finite(seen.largest)) return;
    check_finite(to_host(vectors, n * dim_, stream).data(), n, dim_, "vectors");
  });
  const std::uint64_t version = version_ + 1;
  make_rows(batch, report, plan, version, stream);
  const TableRows rows{pages_.view(), batch.base, batch.slots, version};
  const unsigned blocks = blocks_for(report.groups, kWarpsPerBlock);
  for_width(dim_, [&](auto values) {
    launch("load_groups", load_groups<decltype(values)::value>, blocks, kBlock, stream, rows, batch.groups,
           vectors, state);
  });
  finish(batch, plan, version, stream);
}

std::size_t TableStore::remove(const std::int64_t* ids, std::size_t n, cudaStream_t stream) {
  check_length(n);
  if (n == 0) return 0;
  const Turn turn(*this, stream);
  const Batch batch = begin_batch(ids, n, nullptr, stream);
  if (size_ == 0) {
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");  // as where there are rows: ids were read
    return 0;
  }
  launch("find_ids", find_ids, blocks_for(n, kBlock), kBlock, stream, batch, index_.view(), pages_.view());
  group_by_row(static_cast<const std::uint32_t*>(batch.keys), slot_count_ + n, batch.groups, batch.grouping,
               stream);
  launch("mark_first", mark_first, blocks_for(n, kBlock), kBlock, stream, batch);
  std::size_t bytes = batch.cub_bytes;
  check(cub::DeviceScan::InclusiveSum(batch.cub, bytes, static_cast<const std::uint32_t*>(batch.is_new),
                                      batch.ranks, n, stream),
        "cub::DeviceScan::InclusiveSum");
  launch("list_marked", list_marked, blocks_for(n, kBlock), kBlock, stream, batch);
  const std::size_t gone = mailbox_->read(batch.report, stream).found;
  if (gone == 0) return 0;
  reserve_removal(gone, gone, 0, stream);
  remove_rows(batch.created, gone, true, version_ + 1, stream);
  counters_.removes += gone;
  ++version_;
  moments_.note(version_);
  return gone;
}

void TableStore::advance() {
  const Turn turn(*this, nullptr);
  ++version_;
  moments_.note(version_);
}

std::size_t TableStore::expire() {
  const cudaStream_t stream = nullptr;
  const Turn turn(*this, stream);
  reserve_bytes(scratch_, sizeof(BatchReport), "a call");
  auto* const report = reinterpret_cast<BatchReport*>(scratch_.data());
  check(cudaMemsetAsync(report, 0, sizeof *report, stream), "cudaMemsetAsync");
  Plan plan;
  plan.last_expired = look_for_expired(report, stream);
  if (plan.last_expired == 0) return 0;
  plan.most_expired = mailbox_->read(report, stream).expired;
  reserve_removal(plan.most_expired, plan.most_expired, plan.most_expired, stream);
  const std::size_t gone = expire_rows(plan, report, version_ + 1, stream);
  if (gone == 0) return 0;
  ++version_;
  moments_.note(version_);
  return gone;
}

}  // namespace fastinc::cuda
