#include <algorithm>
#include <cub/cub.cuh>
#include <string>
#include <utility>

#include "cuda/victim_queue.h"

namespace fastinc::cuda {
namespace {

constexpr std::size_t kShare = 64, kFewest = 1024;  // 1/64 of all rows are queued at a time

__global__ void flag_queued(const __grid_constant__ Candidates c, const std::uint32_t* __restrict__ slots,
                            const std::uint64_t* __restrict__ versions, std::size_t n,
                            std::uint8_t* __restrict__ flags) {
  for (std::size_t i = first_thread(); i < n; i += thread_count()) {
    flags[i] = c.rows.version(slots[i]) == versions[i] && (!c.counts_uses || c.rows.frequency(slots[i]) <= 1);
  }
}

__global__ void read_versions(const __grid_constant__ DeviceRows rows,
                              const std::uint32_t* __restrict__ slots, std::size_t n,
                              std::uint64_t* __restrict__ versions) {
  for (std::size_t i = first_thread(); i < n; i += thread_count()) versions[i] = rows.version(slots[i]);
}

}  // namespace

std::size_t VictimQueue::chosen(std::size_t count, std::size_t candidates) {
  return std::min(candidates, std::max({count, kFewest, candidates / kShare}));
}

std::size_t VictimQueue::lay_out(void* memory, std::size_t rows, Buffers& b) {
  Scratch scratch(memory);
  b.slots = scratch.take<std::uint32_t>(rows);
  b.spare = scratch.take<std::uint32_t>(rows);
  b.versions = scratch.take<std::uint64_t>(rows);
  b.flags = scratch.take<std::uint8_t>(rows);
  (void)cub::DeviceSelect::Flagged(nullptr, b.cub_bytes, static_cast<const std::uint32_t*>(nullptr),
                                   static_cast<const std::uint8_t*>(nullptr), b.spare, b.spare, rows);
  b.cub = scratch.take<std::byte>(b.cub_bytes);
  return scratch.used();
}

void VictimQueue::reserve(std::size_t rows) {
  if (rows <= capacity_) return;
  rows =
      std::max(rows, capacity_ + capacity_ / 4);  // a table that grows by rows mustn't choose anew each time
  Buffers sizes{};
  const std::size_t bytes = lay_out(nullptr, rows, sizes);
  try {
    memory_ = DeviceArray<std::byte>(bytes);
  } catch (const OutOfDeviceMemory&) {
    throw OutOfDeviceMemory("table: no device memory for a queue of " + std::to_string(rows) +
                            " rows to give up (" + std::to_string(bytes) + " bytes)");
  }
  (void)lay_out(memory_.data(), rows, buffers_);
  capacity_ = rows;
  size_ = 0;
}

void VictimQueue::refresh(const Candidates& c, std::uint32_t* valid, cudaStream_t stream) {
  Buffers& b = buffers_;
  launch("flag_queued", flag_queued, blocks_for(size_, kBlock), kBlock, stream, c, b.slots, b.versions, size_,
         b.flags);
  std::size_t bytes = b.cub_bytes;
  check(cub::DeviceSelect::Flagged(b.cub, bytes, static_cast<const std::uint32_t*>(b.slots),
                                   static_cast<const std::uint8_t*>(b.flags), b.spare, valid, size_, stream),
        "cub::DeviceSelect::Flagged");
  std::swap(b.slots, b.spare);
}

void VictimQueue::refill(const Candidates& c, std::size_t rows, void* scratch, cudaStream_t stream) {
  const std::uint32_t* const slots = select_rows(c, rows, scratch, stream);
  check(cudaMemcpyAsync(buffers_.slots, slots, rows * sizeof *slots, cudaMemcpyDeviceToDevice, stream),
        "cudaMemcpyAsync");
  size_ = rows;
}

const std::uint32_t* VictimQueue::take(const Candidates& c, std::size_t count, cudaStream_t stream) {
  Buffers& b = buffers_;
  size_ -= count;
  if (size_ > 0) {
    check(
        cudaMemcpyAsync(b.spare, b.slots + count, size_ * sizeof *b.slots, cudaMemcpyDeviceToDevice, stream),
        "cudaMemcpyAsync");
    launch("read_versions", read_versions, blocks_for(size_, kBlock), kBlock, stream, c.rows, b.spare, size_,
           b.versions);
  }
  std::swap(b.slots, b.spare);
  return b.spare;
}

}  // namespace fastinc::cuda
