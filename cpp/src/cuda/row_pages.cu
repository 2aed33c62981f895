#include <algorithm>
#include <bit>
#include <limits>
#include <string>

#include "cuda/row_pages.h"
#include "cuda/scratch.h"
#include "fastinc/ops.h"

namespace fastinc::cuda {
namespace {

constexpr std::size_t kPageBytes = std::size_t{2} << 20;  // about
constexpr unsigned kMostShift = 16;
// Slots and a batch's new rows are numbered together, below the index's marks.
constexpr std::size_t kMostRows = std::size_t{1} << 31;

std::size_t align(std::size_t bytes, std::size_t to) {
  return (bytes + to - 1) / to * to;
}

}  // namespace

RowPages::RowPages(std::size_t dim, const StateShape& shape, bool counts_uses, std::size_t most_rows) {
  const std::size_t code_stride = align(dim + kQuantizedTail, 4);
  const std::size_t a_row = (dim + shape.floats(dim)) * sizeof(float) + code_stride + sizeof(std::int64_t) +
                            sizeof(std::uint64_t) + (counts_uses ? sizeof(std::uint32_t) : 0);
  const auto fits = std::bit_width(std::max<std::size_t>(kPageBytes / a_row, 4)) - 1;
  view_.page_shift = std::min(static_cast<unsigned>(fits), kMostShift);
  view_.dim = static_cast<std::uint32_t>(dim);
  view_.element_states = static_cast<std::uint32_t>(shape.element_states);
  view_.row_states = static_cast<std::uint32_t>(shape.row_states);
  view_.code_stride = static_cast<std::uint32_t>(code_stride);
  const std::size_t rows = std::size_t{1} << view_.page_shift;
  Scratch page(nullptr);
  (void)page.take<float>(rows * dim);
  const auto place = [&](std::size_t bytes) {
    const std::size_t at = page.used();
    (void)page.take<std::byte>(bytes);
    return at;
  };
  view_.state = place(rows * dim * view_.element_states * sizeof(float));
  view_.row_state = place(rows * view_.row_states * sizeof(float));
  view_.codes = place(rows * code_stride);
  view_.ids = place(rows * sizeof(std::int64_t));
  view_.versions = place(rows * sizeof(std::uint64_t));
  view_.frequencies = place(counts_uses ? rows * sizeof(std::uint32_t) : 0);
  page_bytes_ = page.used();
  most_pages_ = most_rows > 0 ? (most_rows + rows - 1) >> view_.page_shift : kMostRows >> view_.page_shift;
}

/// As many pages as asked for, or the fewest that do.
DeviceArray<std::byte> RowPages::allocate(std::size_t& pages, std::size_t least) const {
  if (pages > least) {
    try {
      return DeviceArray<std::byte>(pages * page_bytes_);
    } catch (const OutOfDeviceMemory&) {
      pages = least;
    }
  }
  try {
    return DeviceArray<std::byte>(pages * page_bytes_);
  } catch (const OutOfDeviceMemory&) {
    throw OutOfDeviceMemory("table: no device memory for " + std::to_string(pages << view_.page_shift) +
                            " more rows (" + std::to_string(pages * page_bytes_) + " bytes) beside the " +
                            std::to_string(rows()) + " there is room for");
  }
}

void RowPages::reserve(std::size_t rows, cudaStream_t stream) {
  if (rows > kMostRows) {
    throw std::length_error("table: more than " + std::to_string(kMostRows) + " rows");
  }
  if (rows <= this->rows()) return;
  const std::size_t page_rows = std::size_t{1} << view_.page_shift;
  const std::size_t least = (rows - this->rows() + page_rows - 1) >> view_.page_shift;
  // An eighth more: few allocations, and little that isn't used.
  std::size_t pages = std::max(least, pages_.size() / 8);
  pages = std::max(least, std::min(pages, most_pages_ - std::min(most_pages_, pages_.size())));
  DeviceArray<std::byte> chunk = allocate(pages, least);
  const std::size_t before = pages_.size(), wanted = before + pages;
  DeviceArray<std::byte*> directory;
  const bool moves = wanted > directory_.size();
  if (moves) directory = DeviceArray<std::byte*>(std::bit_ceil(wanted));
  pages_.reserve(wanted);
  chunks_.reserve(chunks_.size() + 1);
  check(cudaMemset2DAsync(chunk.data() + view_.versions, page_bytes_, 0, page_rows * sizeof(std::uint64_t),
                          pages, stream),
        "cudaMemset2DAsync");
  // nothing below allocates
  for (std::size_t page = 0; page < pages; ++page) pages_.push_back(chunk.data() + page * page_bytes_);
  chunks_.push_back(std::move(chunk));
  if (moves) directory_ = std::move(directory);
  const std::size_t from = moves ? 0 : before;
  check(cudaMemcpyAsync(directory_.data() + from, pages_.data() + from, (wanted - from) * sizeof(std::byte*),
                        cudaMemcpyHostToDevice, stream),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");  // pages_ may move
  view_.pages = directory_.data();
}

}  // namespace fastinc::cuda
