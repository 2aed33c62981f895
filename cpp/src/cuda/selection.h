// The rows with the smallest keys, exactly: a radix selection over all rows, without sorting them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/device_array.h"
#include "cuda/device_rows.h"
#include "cuda/scratch.h"

namespace fastinc::cuda {

/// Which rows may go: those of versions up to `last`. They go by frequency, where it counts, then version,
/// then slot.
struct Candidates {
  DeviceRows rows;
  std::size_t slots;  // below which all rows are
  std::uint64_t last;
  bool counts_uses;
};

/// Bytes of scratch that select_rows() needs for so many rows.
std::size_t selection_bytes(std::size_t count);

/// The `count` smallest candidates, of which there are as many, in order. Doesn't wait.
/// Returns their slots: (count,), in the scratch.
const std::uint32_t* select_rows(const Candidates& candidates, std::size_t count, void* scratch,
                                 cudaStream_t stream);

/// Counts the candidates: adds to *count.
void count_candidates(const Candidates& candidates, unsigned long long* count, cudaStream_t stream);

}  // namespace fastinc::cuda
