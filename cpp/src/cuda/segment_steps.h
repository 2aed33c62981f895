// How a batch is grouped: the memory it takes, and the call.
#pragma once

#include <bit>

#include "cuda/segments.h"

namespace fastinc::cuda {

struct GroupScratch {
  std::uint64_t *keys_in, *keys;                  // (n,)
  std::uint32_t *positions_in, *heads, *parts;    // (n,)
  std::uint8_t* marks;                            // (n,)
};

/// Bits of keys 0 .. num_rows.
inline int bits_of(std::uint64_t num_rows) {
  return static_cast<int>(std::bit_width(num_rows));
}

/// Scratch that CUB wants for n ids.
std::size_t cub_bytes(std::size_t n, std::size_t num_rows);

template <class Id>
void group(const Id* ids, const GroupScratch& scratch, const DeviceSegments& s, UpdateReport* report,
           Stream stream);

}  // namespace fastinc::cuda
