#include <algorithm>
#include <stdexcept>
#include <string>

#include "cpu/coalesce.h"
#include "cpu/pool.h"
#include "cpu/update.h"
#include "cuda/table_store.h"
#include "cuda/update_kernel.h"
#include "store/table_checks.h"

namespace fastinc::cuda {
namespace {

const TableBounds& supported(const TableBounds& bounds) {
  validate(bounds);
  if (bounds.min_count > 1) {
    throw std::invalid_argument(
        "min_count = " + std::to_string(bounds.min_count) +
        " is not supported on CUDA: tables there give every id a row (min_count = 1)");
  }
  return bounds;
}

const Initializer& checked(const Initializer& init) {
  validate(init);
  return init;
}

}  // namespace

BatchReport Mailbox::read(const BatchReport* device, cudaStream_t stream) {
  check(cudaMemcpyAsync(report_, device, sizeof *report_, cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  return *report_;
}

void reserve_bytes(DeviceArray<std::byte>& memory, std::size_t bytes, const char* what) {
  if (bytes <= memory.size()) return;
  const std::size_t wanted = std::max(bytes, std::min(2 * memory.size(), bytes + bytes / 4));
  memory = DeviceArray<std::byte>();  // first: there may not be room for both
  try {
    memory = DeviceArray<std::byte>(wanted);
  } catch (const OutOfDeviceMemory&) {
    throw OutOfDeviceMemory("table: no device memory for " + std::string(what) + " (" +
                            std::to_string(bytes) + " bytes)");
  }
}

TableStore::TableStore(std::size_t dim, std::shared_ptr<Optimizer> optimizer, const Initializer& init,
                       const TableBounds& bounds, int device)
    : dim_(checked_dim(dim)),
      optimizer_(std::move(optimizer)),
      init_(checked(init)),
      bounds_(supported(bounds)),
      device_(device),
      shape_(optimizer_->shape()),
      pages_(dim, shape_, counts_uses(), bounds.max_rows),
      moments_(bounds.ttl, bounds.clock) {
  const DeviceGuard guard(device);
  moments_.reserve();
  mailbox_ = std::make_unique<Mailbox>();
  done_ = std::make_unique<Event>();
  hits_ = DeviceArray<unsigned long long>(1);
  check(cudaMemsetAsync(hits_.data(), 0, sizeof(unsigned long long), nullptr), "cudaMemsetAsync");
  index_.rebuild(pages_.view(), 0, 0, 0, nullptr);
  check(cudaEventRecord(done_->get(), nullptr), "cudaEventRecord");
}

TableStore::Turn::Turn(TableStore& store, cudaStream_t stream)
    : store_(store), lock_(store.mutex_), guard_(store.device_), stream_(stream) {
  cudaStreamCaptureStatus status{};
  check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  if (status != cudaStreamCaptureStatusNone) {
    throw std::invalid_argument("a table's calls take turns, and can't be captured in a CUDA graph");
  }
  // Also where the last call had this stream: its handle may be another stream's by now.
  check(cudaStreamWaitEvent(stream, store.done_->get(), 0), "cudaStreamWaitEvent");
}

TableStore::Turn::~Turn() {
  (void)cudaEventRecord(store_.done_->get(), stream_);
}

std::size_t TableStore::size() {
  const std::lock_guard lock(mutex_);
  return size_;
}

std::uint64_t TableStore::version() {
  const std::lock_guard lock(mutex_);
  return version_;
}

/// Slots and positions are numbered together.
void TableStore::check_length(std::size_t n) const {
  constexpr std::size_t kMost = std::size_t{1} << 30;
  (void)position_bits_for(n, kNoSlot);
  if (n > kMost) {
    throw std::invalid_argument("ids: a batch of " + std::to_string(n) +
                                " is too large for one call; split it");
  }
}

// --- reads

void TableStore::lookup(const std::int64_t* ids, std::size_t n, float* out, cudaStream_t stream) {
  const Turn turn(*this, stream);
  if (n == 0) return;
  read_weights(read_view(), ids, n, out, stream);
  counters_.lookups += n;
}

void TableStore::lookup_quantized(const std::int64_t* ids, std::size_t n, std::uint8_t* out,
                                  cudaStream_t stream) {
  const Turn turn(*this, stream);
  if (n == 0) return;
  read_codes(read_view(), ids, n, out, stream);
  counters_.lookups += n;
}

void TableStore::contains(const std::int64_t* ids, std::size_t n, bool* out, cudaStream_t stream) {
  const Turn turn(*this, stream);
  if (n > 0) read_presence(read_view(), ids, n, out, stream);
}

void TableStore::pool(const std::int64_t* ids, std::size_t n, const std::int64_t* offsets, std::size_t bags,
                      PoolMode mode, const float* weights, float* out, cudaStream_t stream) {
  if (bags == 0) return check_bags(n, {});
  const Turn turn(*this, stream);
  if (weights != nullptr && mode == PoolMode::kMean) {
    check_bags(n, to_host(offsets, bags, stream));
    check_sample_weights(weights, 0, mode, "weights");
  }
  reserve_bytes(scratch_, sizeof(BatchReport), "a call");
  auto* const report = reinterpret_cast<BatchReport*>(scratch_.data());
  check(cudaMemsetAsync(report, 0, sizeof *report, stream), "cudaMemsetAsync");
  check_offsets(offsets, bags, n, &report->skipped, stream);
  if (weights != nullptr) find_largest(weights, n, &report->largest, stream);
  const BatchReport seen = mailbox_->read(report, stream);
  if (seen.skipped != 0) check_bags(n, to_host(offsets, bags, stream));
  if (!all_finite(seen.largest)) check_finite(to_host(weights, n, stream).data(), n, 0, "weights");
  pool_rows(read_view(), ids, n, offsets, bags, mode == PoolMode::kMean, weights, out, stream);
  counters_.lookups += n;
}

// --- what a batch needs

void TableStore::make_room(const Batch& batch, cudaStream_t stream) {
  if (index_.has_room(batch.n)) return;
  count_known(batch, index_.view(), pages_.view(), stream);
  const std::size_t unknown = batch.n - mailbox_->read(batch.report, stream).found;
  if (!index_.has_room(unknown)) index_.rebuild(pages_.view(), slot_count_, size_, unknown, stream);
}

/// grads: (n, dim) or nullptr
Batch TableStore::begin_batch(const std::int64_t* ids, std::size_t n, const float* grads,
                              cudaStream_t stream) {
  const std::size_t dim = grads != nullptr ? dim_ : 0;
  Scratch sizes(nullptr);
  (void)take_batch(sizes, n, slot_count_, dim);
  reserve_bytes(scratch_, sizes.used(), "a batch");
  Scratch scratch(scratch_.data());
  Batch batch = take_batch(scratch, n, slot_count_, dim);
  batch.ids = ids;
  batch.groups.grads = grads;
  check(cudaMemsetAsync(batch.report, 0, sizeof *batch.report, stream), "cudaMemsetAsync");
  return batch;
}

void TableStore::undo(const Batch& batch, std::size_t entered, cudaStream_t stream) {
  undo_batch(batch, index_.view(), stream);
  index_.note_inserts(entered);
}

/// Memory to remove rows with: so many may be logged, freed, and selected.
void TableStore::reserve_removal(std::size_t to_log, std::size_t to_free, std::size_t to_select,
                                 cudaStream_t stream) {
  removed_.reserve(to_log, size_, stream);
  if (to_select > 0) reserve_bytes(selection_, selection_bytes(to_select), "choosing rows to give up");
  const std::size_t wanted = free_count_ + to_free;
  if (to_free == 0 || wanted <= free_.size()) return;
  DeviceArray<std::uint32_t> larger(std::max(wanted, free_.size() + free_.size() / 2));
  if (free_count_ > 0) {
    check(cudaMemcpyAsync(larger.data(), free_.data(), free_count_ * sizeof(std::uint32_t),
                          cudaMemcpyDeviceToDevice, stream),
          "cudaMemcpyAsync");
  }
  free_ = std::move(larger);
}

/// Counts rows whose time is over into the report, unless it is known that there are none. Returns the last
/// of their versions.
std::uint64_t TableStore::look_for_expired(BatchReport* report, cudaStream_t stream) {
  const std::uint64_t last = moments_.last_expired();
  if (last <= expired_through_) return 0;
  count_candidates(candidates(last), reinterpret_cast<unsigned long long*>(&report->expired), stream);
  return last;
}

/// Everything that can be refused or run out.
TableStore::Plan TableStore::plan(const Batch& batch, BatchReport& report, std::uint64_t last_expired,
                                  cudaStream_t stream) {
  constexpr std::size_t kExpireAtLeast = 1024, kExpireAnId = 4;
  const std::size_t distinct = report.groups - report.skipped, most = bounds_.max_rows;
  if (most > 0 && distinct > most) refuse_batch(distinct, most);
  Plan plan;
  if (most > 0 && size_ + report.created > most) {
    plan.evicted = size_ + report.created - most;
    plan.chosen = VictimQueue::chosen(plan.evicted, size_ + report.created - distinct);
    victims_.reserve(plan.chosen);
  }
  const std::size_t taken = report.created - plan.evicted;
  plan.fresh = taken > free_count_ ? taken - free_count_ : 0;
  if (last_expired > 0) {
    if (report.skipped > 0) {
      count_kept(batch, stream);
      report = mailbox_->read(batch.report, stream);
    }
    plan.last_expired = last_expired;
    plan.most_expired = std::min<std::size_t>(
        {kExpireAtLeast + kExpireAnId * report.kept_ids, size_ + report.kept_ids, report.expired});
    if (report.expired == 0) expired_through_ = last_expired;
  }
  pages_.reserve(slot_count_ + plan.fresh, stream);
  reserve_removal(plan.evicted + plan.most_expired, plan.most_expired,
                  std::max(plan.chosen, plan.most_expired), stream);
  return plan;
}

/// The rare case: the CPU's checks, and its words.
void TableStore::check_gradients(const std::int64_t* ids, std::size_t n, const float* grads,
                                 cudaStream_t stream) const {
  const std::vector<std::int64_t> host_ids = to_host(ids, n, stream);
  const std::vector<float> host_grads = to_host(grads, n * dim_, stream);
  (void)clean_batch(std::span<const std::int64_t>(host_ids), host_grads.data(), dim_, NonFinite::kRaise);
}

// --- what the host knows

std::vector<std::pair<std::string, std::size_t>> TableStore::memory_usage() {
  const std::lock_guard lock(mutex_);
  const std::size_t rows = pages_.rows(), weights = rows * dim_ * sizeof(float);
  const std::size_t state = rows * state_floats() * sizeof(float), codes = rows * (dim_ + kQuantizedTail);
  const std::size_t uses = counts_uses() ? rows * sizeof(std::uint32_t) : 0;
  const std::size_t headers =
      pages_.bytes() - weights - state - codes - uses + free_.size() * sizeof(std::uint32_t);
  const std::size_t eviction = uses + selection_.size() + victims_.bytes() + moments_.bytes();
  const std::size_t total =
      weights + state + codes + headers + index_.bytes() + removed_.bytes() + eviction + scratch_.size();
  return {{"weights", weights},   {"state", state},          {"codes", codes},
          {"headers", headers},   {"index", index_.bytes()}, {"change_log", removed_.bytes()},
          {"eviction", eviction}, {"admission", 0},          {"scratch", scratch_.size()},
          {"total", total}};
}

std::vector<std::pair<std::string, std::uint64_t>> TableStore::stats() {
  const Turn turn(*this, nullptr);
  const std::uint64_t hits = to_host(hits_.data(), 1, nullptr).front();
  return {{"rows", size_},
          {"slots", slot_count_},
          {"version", version_},
          {"hits", hits},
          {"misses", counters_.lookups - hits},
          {"inserts", counters_.inserts},
          {"removes", counters_.removes},
          {"evictions", counters_.evictions},
          {"refused", 0},
          {"skipped_nonfinite", counters_.skipped}};
}

double TableStore::load_factor() {
  const std::lock_guard lock(mutex_);
  return index_.load();
}

}  // namespace fastinc::cuda
