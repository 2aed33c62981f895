// Rows of a table, by id. ids: (n,); rows of ids that have none are the ones they would start with.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/device_index.h"
#include "cuda/device_rows.h"
#include "fastinc/initializer.h"

namespace fastinc::cuda {

struct ReadView {
  IndexView index;
  DeviceRows rows;
  Initializer init;
  unsigned long long* hits;  // (1,) counts the ids that have a row
};

/// out: (n, dim)
void read_weights(const ReadView& table, const std::int64_t* ids, std::size_t n, float* out,
                  cudaStream_t stream);
/// out: (n, dim + 8)
void read_codes(const ReadView& table, const std::int64_t* ids, std::size_t n, std::uint8_t* out,
                cudaStream_t stream);
/// out: (n,) 1 where the id has a row
void read_presence(const ReadView& table, const std::int64_t* ids, std::size_t n, bool* out,
                   cudaStream_t stream);
/// The sum of a bag's rows in order, times their weights where there are some; divided by how many they are
/// where it is the mean. offsets: (bags,), valid; out: (bags, dim)
void pool_rows(const ReadView& table, const std::int64_t* ids, std::size_t n, const std::int64_t* offsets,
               std::size_t bags, bool mean, const float* weights, float* out, cudaStream_t stream);
/// Sets *bad where offsets aren't what pool() takes. offsets: (bags,)
void check_offsets(const std::int64_t* offsets, std::size_t bags, std::size_t n, std::uint32_t* bad,
                   cudaStream_t stream);

}  // namespace fastinc::cuda
