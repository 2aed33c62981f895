// What the host is told of a table's rows, and rows that it sets: some at a time, so that it takes little
// memory beside the table.
#include <algorithm>
#include <cub/cub.cuh>
#include <stdexcept>
#include <string>

#include "cuda/row_writes.h"
#include "cuda/table_store.h"
#include "store/table_checks.h"

namespace fastinc::cuda {
namespace {

constexpr std::size_t kSlotsAtATime = std::size_t{1} << 18;
constexpr std::size_t kStagingBytes = std::size_t{32} << 20;

/// flags: (n,) whether slot first + i holds a row written after a version
__global__ void flag_rows(const __grid_constant__ DeviceRows rows, std::size_t first, std::size_t n,
                          std::uint64_t after, std::uint8_t* __restrict__ flags) {
  for (std::size_t i = first_thread(); i < n; i += thread_count()) {
    flags[i] = rows.version(static_cast<Slot>(first + i)) > after;
  }
}

/// Rows side by side, as in TableState. Each array may be null.
struct Staged {
  std::int64_t* ids;
  std::uint64_t* versions;
  std::uint32_t* frequencies;
  float *weights, *state;
};

__device__ __forceinline__ std::size_t state_floats(const DeviceRows& rows) {
  return std::size_t{rows.element_states} * rows.dim + rows.row_states;
}

/// A warp a row. slots: (n,)
__global__ void gather_rows(const __grid_constant__ DeviceRows rows, const std::uint32_t* __restrict__ slots,
                            std::size_t n, const __grid_constant__ Staged to) {
  const std::size_t dim = rows.dim, floats = state_floats(rows);
  for (std::size_t r = first_warp(); r < n; r += warp_count()) {
    const Slot slot = slots[r];
    if (lane() == 0) {
      to.ids[r] = rows.id(slot);
      if (to.versions != nullptr) to.versions[r] = rows.version(slot);
      if (to.frequencies != nullptr) to.frequencies[r] = rows.frequency(slot);
      if (to.state != nullptr && rows.row_states > 0)
        to.state[(r + 1) * floats - 1] = rows.row_state_of(slot);
    }
    if (to.weights == nullptr) continue;
    for (std::size_t i = lane(); i < dim; i += kWarp) {
      to.weights[r * dim + i] = rows.weights(slot)[i];
      for (unsigned k = 0; k < rows.element_states; ++k) {
        to.state[r * floats + k * dim + i] = rows.element_state(slot, k)[i];
      }
    }
  }
}

/// Slots from `first` on get the staged rows, a warp each.
__global__ void set_rows(const __grid_constant__ DeviceRows rows, std::size_t first, std::size_t n,
                         const __grid_constant__ Staged from) {
  const std::size_t dim = rows.dim, floats = state_floats(rows);
  for (std::size_t r = first_warp(); r < n; r += warp_count()) {
    const auto slot = static_cast<Slot>(first + r);
    if (lane() == 0) {
      rows.id(slot) = from.ids[r];
      rows.version(slot) = from.versions[r];
      if (from.frequencies != nullptr) rows.frequency(slot) = from.frequencies[r];
      if (rows.row_states > 0) rows.row_state_of(slot) = from.state[(r + 1) * floats - 1];
    }
    for (std::size_t i = lane(); i < dim; i += kWarp) {
      rows.weights(slot)[i] = from.weights[r * dim + i];
      for (unsigned k = 0; k < rows.element_states; ++k) {
        rows.element_state(slot, k)[i] = from.state[r * floats + k * dim + i];
      }
    }
    const auto load = [&](std::size_t i) { return from.weights[r * dim + i]; };
    Held<0> held(dim, load);
    write_codes(held, dim, load, rows.codes_of(slot));
  }
}

__global__ void clear_versions(const __grid_constant__ DeviceRows rows, std::size_t slots) {
  for (std::size_t s = first_thread(); s < slots; s += thread_count()) rows.version(static_cast<Slot>(s)) = 0;
}

Staged take_staged(Scratch& scratch, std::size_t rows, std::size_t dim, std::size_t state, bool counts_uses) {
  Staged staged{};
  staged.ids = scratch.take<std::int64_t>(rows);
  staged.versions = scratch.take<std::uint64_t>(rows);
  if (counts_uses) staged.frequencies = scratch.take<std::uint32_t>(rows);
  staged.weights = scratch.take<float>(rows * dim);
  staged.state = scratch.take<float>(rows * state);
  return staged;
}

/// Rows that are staged at a time, of so many.
std::size_t staged_rows(std::size_t rows, std::size_t dim, std::size_t state) {
  const std::size_t a_row = (dim + state) * sizeof(float) + 20;
  return std::min(rows, std::max<std::size_t>(kStagingBytes / a_row, 1));
}

DeviceArray<std::byte> allocate_staging(std::size_t bytes, const char* what) {
  DeviceArray<std::byte> memory;
  reserve_bytes(memory, bytes, what);
  return memory;
}

template <class T>
void append_host(std::vector<T>& out, const T* device, std::size_t n, cudaStream_t stream) {
  const std::size_t before = out.size();
  out.resize(before + n);
  if (n == 0) return;
  check(cudaMemcpyAsync(out.data() + before, device, n * sizeof(T), cudaMemcpyDeviceToHost, stream),
        "cudaMemcpyAsync");
}

template <class T>
void upload(T* device, const T* host, std::size_t n, cudaStream_t stream) {
  if (n == 0) return;
  check(cudaMemcpyAsync(device, host, n * sizeof(T), cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
}

}  // namespace

/// visit(slots, n) for rows written after a version, in order of slots, some at a time. slots: (n,) in device
/// memory
template <class Visit>
void TableStore::for_each_live(std::uint64_t after, cudaStream_t stream, Visit visit) {
  if (slot_count_ == 0) return;
  const std::size_t most = std::min(kSlotsAtATime, slot_count_);
  std::size_t cub_bytes = 0;
  (void)cub::DeviceSelect::Flagged(nullptr, cub_bytes, thrust::counting_iterator<std::uint32_t>(0),
                                   static_cast<std::uint8_t*>(nullptr), static_cast<std::uint32_t*>(nullptr),
                                   static_cast<std::uint32_t*>(nullptr), most);
  const auto lay_out = [&](Scratch& scratch) {
    return std::tuple{scratch.take<std::uint32_t>(1), scratch.take<std::uint32_t>(most),
                      scratch.take<std::uint8_t>(most), scratch.take<std::byte>(cub_bytes)};
  };
  Scratch sizes(nullptr);
  (void)lay_out(sizes);
  const DeviceArray<std::byte> memory = allocate_staging(sizes.used(), "listing rows");
  Scratch scratch(const_cast<std::byte*>(memory.data()));
  const auto [count, slots, flags, cub] = lay_out(scratch);
  for (std::size_t first = 0; first < slot_count_; first += most) {
    const std::size_t n = std::min(most, slot_count_ - first);
    launch("flag_rows", flag_rows, blocks_for(n, kBlock), kBlock, stream, pages_.view(), first, n, after,
           flags);
    std::size_t bytes = cub_bytes;
    check(cub::DeviceSelect::Flagged(
              cub, bytes, thrust::counting_iterator<std::uint32_t>(static_cast<std::uint32_t>(first)),
              static_cast<const std::uint8_t*>(flags), slots, count, n, stream),
          "cub::DeviceSelect::Flagged");
    const std::uint32_t found = to_host(count, 1, stream).front();
    if (found > 0) visit(static_cast<const std::uint32_t*>(slots), std::size_t{found});
  }
}

std::vector<std::int64_t> TableStore::ids_after(std::uint64_t version, cudaStream_t stream) {
  std::vector<std::int64_t> out;
  DeviceArray<std::byte> memory =
      allocate_staging(std::min(kSlotsAtATime, slot_count_) * sizeof(std::int64_t), "listing ids");
  auto* const ids = reinterpret_cast<std::int64_t*>(memory.data());
  for_each_live(version, stream, [&](const std::uint32_t* slots, std::size_t n) {
    launch("gather_rows", gather_rows, blocks_for(n, kWarpsPerBlock), kBlock, stream, pages_.view(), slots, n,
           Staged{ids, nullptr, nullptr, nullptr, nullptr});
    append_host(out, ids, n, stream);
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  });
  return out;
}

std::vector<std::int64_t> TableStore::ids() {
  const Turn turn(*this, nullptr);
  return ids_after(0, nullptr);
}

/// Those without a row.
std::vector<std::int64_t> TableStore::absent(std::vector<std::int64_t> ids, cudaStream_t stream) {
  const std::size_t n = ids.size();
  if (n == 0) return ids;
  DeviceArray<std::byte> memory =
      allocate_staging(n * (sizeof(std::int64_t) + sizeof(bool)), "looking removed ids up");
  auto* const device_ids = reinterpret_cast<std::int64_t*>(memory.data());
  auto* const present = reinterpret_cast<bool*>(device_ids + n);
  upload(device_ids, ids.data(), n, stream);
  read_presence(read_view(), device_ids, n, present, stream);
  std::vector<std::uint8_t> host(n);
  check(cudaMemcpyAsync(host.data(), present, n, cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  std::size_t kept = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (host[i] == 0) ids[kept++] = ids[i];
  }
  ids.resize(kept);
  return ids;
}

Changes TableStore::changes(std::uint64_t since) {
  const cudaStream_t stream = nullptr;
  const Turn turn(*this, stream);
  Changes changes;
  changes.version = version_;
  if (since > version_) {
    throw std::invalid_argument("since = " + std::to_string(since) + " is newer than the table's version " +
                                std::to_string(version_));
  }
  if (since == version_) return changes;
  std::vector<std::int64_t> removed;
  changes.reset = !removed_.removed_since(since, removed, stream);
  changes.updated = ids_after(changes.reset ? 0 : since, stream);
  std::sort(removed.begin(), removed.end());
  removed.erase(std::unique(removed.begin(), removed.end()), removed.end());
  changes.removed = absent(std::move(removed), stream);
  return changes;
}

TableState TableStore::export_state() {
  const cudaStream_t stream = nullptr;
  const Turn turn(*this, stream);
  const std::size_t state = state_floats();
  TableState out;
  out.version = version_;
  out.ids.reserve(size_);
  out.row_versions.reserve(size_);
  out.weights.reserve(size_ * dim_);
  out.state.reserve(size_ * state);
  if (size_ == 0) return out;
  const std::size_t most = staged_rows(std::min(kSlotsAtATime, slot_count_), dim_, state);
  Scratch sizes(nullptr);
  (void)take_staged(sizes, most, dim_, state, counts_uses());
  DeviceArray<std::byte> memory = allocate_staging(sizes.used(), "exporting rows");
  Scratch scratch(memory.data());
  const Staged staged = take_staged(scratch, most, dim_, state, counts_uses());
  for_each_live(0, stream, [&](const std::uint32_t* slots, std::size_t count) {
    for (std::size_t first = 0; first < count; first += most) {
      const std::size_t n = std::min(most, count - first);
      launch("gather_rows", gather_rows, blocks_for(n, kWarpsPerBlock), kBlock, stream, pages_.view(),
             slots + first, n, staged);
      append_host(out.ids, staged.ids, n, stream);
      append_host(out.row_versions, staged.versions, n, stream);
      if (counts_uses()) append_host(out.frequencies, staged.frequencies, n, stream);
      append_host(out.weights, staged.weights, n * dim_, stream);
      append_host(out.state, staged.state, n * state, stream);
      check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    }
  });
  return out;
}

void TableStore::import_state(const TableStateView& in) {
  const cudaStream_t stream = nullptr;
  const std::size_t n = in.ids.size(), state = state_floats();
  check_state(in, dim_, state, bounds_, 0);
  const Turn turn(*this, stream);
  // Nothing is written before all of this is there.
  const std::size_t most = staged_rows(n, dim_, state);
  Scratch sizes(nullptr);
  (void)take_staged(sizes, most, dim_, state, counts_uses());
  DeviceArray<std::byte> memory = allocate_staging(sizes.used(), "importing rows");
  Scratch scratch(memory.data());
  const Staged staged = take_staged(scratch, most, dim_, state, counts_uses());
  DeviceArray<Entry> places = index_.allocate(n, 0);
  pages_.reserve(n, stream);
  if (slot_count_ > 0) {
    launch("clear_versions", clear_versions, blocks_for(slot_count_, kBlock), kBlock, stream, pages_.view(),
           slot_count_);
  }
  for (std::size_t first = 0; first < n; first += most) {
    const std::size_t count = std::min(most, n - first);
    upload(staged.ids, in.ids.data() + first, count, stream);
    upload(staged.versions, in.row_versions.data() + first, count, stream);
    if (counts_uses()) upload(staged.frequencies, in.frequencies.data() + first, count, stream);
    upload(staged.weights, in.weights.data() + first * dim_, count * dim_, stream);
    upload(staged.state, in.state.data() + first * state, count * state, stream);
    launch("set_rows", set_rows, blocks_for(count, kWarpsPerBlock), kBlock, stream, pages_.view(), first,
           count, staged);
  }
  index_.refill(std::move(places), pages_.view(), n, n, stream);
  check(cudaMemsetAsync(hits_.data(), 0, sizeof(unsigned long long), stream), "cudaMemsetAsync");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  size_ = slot_count_ = n;
  free_count_ = 0;
  version_ = in.version;
  expired_through_ = 0;
  counters_ = {};
  removed_.reset(in.version);
  victims_.clear();
  moments_.clear();
  moments_.note(in.version);
}

}  // namespace fastinc::cuda
