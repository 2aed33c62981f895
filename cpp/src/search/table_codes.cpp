#include "search/table_codes.h"

#include <algorithm>

namespace fastinc {

TableCodes::Scratch TableCodes::make_scratch() const {
  Scratch scratch;
  scratch.rows = std::make_unique_for_overwrite<float[]>(scores_.block_rows() * dim());
  return scratch;
}

CodeScan TableCodes::chunk(std::size_t at, std::size_t end) const {
  const RowSet& rows = store_.rows();
  CodeScan scan{};
  scan.rows = code_pointer(rows, at);
  scan.stride = rows.code_stride;
  scan.is_table = true;
  scan.n = std::min(end, (at | rows.page_mask) + 1) - at;
  scan.dim = rows.dim;
  scan.first_row = static_cast<std::uint32_t>(at);
  return scan;
}

bool TableCodes::skips(std::size_t q, Slot slot) const {
  const std::size_t number = numbers_[q];
  if (filter_.excluded_slots.has(number, slot)) return true;
  if (!filter_.allowed) return false;
  if (!filter_.allowed_in.empty()) return slot >= filter_.allowed_in.size() || !filter_.allowed_in[slot];
  return !filter_.allowed_slots.has(number, slot);
}

std::size_t TableCodes::score(std::size_t q, Slot* slots, std::size_t n, Candidate* out,
                              Scratch& scratch) const {
  RowScores::Block& block = scratch.block;
  block.rows = scratch.rows.get();
  std::size_t size = 0;
  for (std::size_t at = 0; at < n; at += scores_.block_rows()) {
    const std::size_t count = std::min(scores_.block_rows(), n - at);
    for (std::size_t i = 0; i < count; ++i) {
      block.slots[i] = slots[at + i];
      store_.prefetch_row(block.slots[i]);
    }
    scores_.load(count, block);
    scores_.score(numbers_[q], block);
    for (std::size_t j = 0; j < block.size; ++j) {
      if (block.ranks[j] != block.ranks[j] || filter_.refuses(numbers_[q], block.ids[j])) continue;
      slots[size] = block.slots[j];
      out[size++] = {block.ranks[j], block.ids[j]};
    }
  }
  return size;
}

}  // namespace fastinc
