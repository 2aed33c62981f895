#include <algorithm>
#include <bit>
#include <string>

#include "cuda/device_index.h"
#include "store/table_checks.h"

namespace fastinc::cuda {
namespace {

constexpr std::size_t kFewest = 1024;  // places
constexpr std::size_t kRowsAThread = 4;

/// Ids are distinct.
__global__ void insert_rows(const __grid_constant__ IndexView index, const __grid_constant__ DeviceRows rows,
                            std::size_t slots) {
  for (std::size_t s = first_thread(); s < slots; s += thread_count()) {
    const auto slot = static_cast<Slot>(s);
    if (rows.version(slot) == 0) continue;
    const std::uint64_t hash = index.hash(rows.id(slot));
    const Entry mine = make_entry(hash, slot);
    for (std::uint64_t at = (hash & index.bucket_mask) * kBucket;;) {
      if (atomicCAS(index.entries + at, kEmpty, mine) == kEmpty) break;
      at = (at + 1) & (index.bucket_mask * kBucket + kBucket - 1);
    }
  }
}

}  // namespace

DeviceIndex::DeviceIndex() {
  view_.salt = process_salt();
}

double DeviceIndex::load() const {
  return places() == 0 ? 0.0 : static_cast<double>(used_) / static_cast<double>(places());
}

DeviceArray<Entry> DeviceIndex::allocate(std::size_t live, std::size_t more) const {
  // Half full at most, so that the next time is far: a rebuild costs about as much as so many inserts.
  const std::size_t wanted = std::max(kFewest, std::bit_ceil(2 * (live + more)));
  if (wanted <= places()) return {};
  try {
    return DeviceArray<Entry>(wanted);
  } catch (const OutOfDeviceMemory&) {
    throw OutOfDeviceMemory("table: no device memory for an index of " + std::to_string(live + more) +
                            " rows (" + std::to_string(wanted * sizeof(Entry)) + " bytes)");
  }
}

void DeviceIndex::refill(DeviceArray<Entry>&& larger, const DeviceRows& rows, std::size_t slots,
                         std::size_t live, cudaStream_t stream) {
  if (larger.size() > 0) {
    entries_ = std::move(larger);
    larger = DeviceArray<Entry>();
    view_.entries = entries_.data();
    view_.bucket_mask = places() / kBucket - 1;
  }
  used_ = live;
  check(cudaMemsetAsync(entries_.data(), 0xff, bytes(), stream), "cudaMemsetAsync");
  if (live == 0) return;
  launch("insert_rows", insert_rows, blocks_for(slots, kRowsAThread * kBlock), kBlock, stream, view_, rows,
         slots);
}

void DeviceIndex::rebuild(const DeviceRows& rows, std::size_t slots, std::size_t live, std::size_t more,
                          cudaStream_t stream) {
  refill(allocate(live, more), rows, slots, live, stream);
}

}  // namespace fastinc::cuda
