// Rows of a caller's array by bag, and gradients of bags by id.
#include "cpu/pool.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "cpu/update.h"

namespace fastinc {

void check_bags(std::size_t n, std::span<const std::int64_t> offsets) {
  std::int64_t previous = 0;
  for (std::size_t b = 0; b < offsets.size(); ++b) {
    if (b == 0 && offsets[0] != 0) {
      throw std::invalid_argument("offsets[0] = " + std::to_string(offsets[0]) + " must be 0");
    }
    if (offsets[b] < previous || static_cast<std::uint64_t>(offsets[b]) > n) {
      throw std::invalid_argument("offsets[" + std::to_string(b) + "] = " + std::to_string(offsets[b]) +
                                  " must be between the one before it (" + std::to_string(previous) +
                                  ") and the number of ids (" + std::to_string(n) + ")");
    }
    previous = offsets[b];
  }
  if (offsets.empty() && n > 0) {
    throw std::invalid_argument("offsets is empty but there are " + std::to_string(n) + " ids");
  }
}

void check_sample_weights(const float* weights, std::size_t n, PoolMode mode, const char* name) {
  if (weights == nullptr) return;
  if (mode == PoolMode::kMean) {
    throw std::invalid_argument(std::string(name) +
                                " are for mode='sum'; mode='mean' with weights is not defined");
  }
  check_finite(weights, n, 0, name);
}

namespace {

constexpr std::size_t kAhead = 8;  // rows fetched before they are added

inline void prefetch_floats(const float* row, std::size_t dim) {
  constexpr std::size_t kLine = 16;
  for (std::size_t i = 0; i < dim; i += kLine) __builtin_prefetch(row + i);
}

template <class Id>
void pool(const float* weights, std::size_t num_rows, std::size_t dim, std::span<const Id> ids,
          std::span<const std::int64_t> offsets, PoolMode mode, const float* sample_weights, float* out) {
  if (dim == 0) throw std::invalid_argument("weights: dim must be at least 1, not 0");
  const std::size_t n = ids.size(), bags = offsets.size();
  check_bags(n, offsets);
  check_sample_weights(sample_weights, n, mode, "per_sample_weights");
  check_row_numbers(ids, num_rows);
  const auto add = kernels().add_scaled;
  const auto row = [&](std::size_t i) { return weights + static_cast<std::size_t>(ids[i]) * dim; };
  const std::size_t floats_a_bag = dim * (n / (bags > 0 ? bags : 1) + 1);
  parallel_ranges(bags, floats_a_bag, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    for (std::size_t b = begin; b < end; ++b) {
      const Bag bag = bag_at(offsets, b, n);
      float* const to = out + b * dim;
      std::fill_n(to, dim, 0.0f);
      for (std::size_t i = bag.begin; i < bag.end; ++i) {
        if (i + kAhead < n) prefetch_floats(row(i + kAhead), dim);
        add(to, row(i), sample_weights != nullptr ? sample_weights[i] : 1.0f, dim);
      }
      if (mode == PoolMode::kSum || bag.begin == bag.end) continue;
      const auto count = static_cast<float>(bag.end - bag.begin);
      for (std::size_t i = 0; i < dim; ++i) to[i] /= count;
    }
  });
}

}  // namespace

void pool_rows(const float* weights, std::size_t num_rows, std::size_t dim, std::span<const std::int64_t> ids,
               std::span<const std::int64_t> offsets, PoolMode mode, const float* sample_weights,
               float* out) {
  pool(weights, num_rows, dim, ids, offsets, mode, sample_weights, out);
}
void pool_rows(const float* weights, std::size_t num_rows, std::size_t dim, std::span<const std::int32_t> ids,
               std::span<const std::int64_t> offsets, PoolMode mode, const float* sample_weights,
               float* out) {
  pool(weights, num_rows, dim, ids, offsets, mode, sample_weights, out);
}

void pool_rows_backward(const float* grads, std::size_t dim, std::size_t n,
                        std::span<const std::int64_t> offsets, PoolMode mode, const float* sample_weights,
                        float* out) {
  if (dim == 0) throw std::invalid_argument("grads: dim must be at least 1, not 0");
  check_bags(n, offsets);
  check_sample_weights(sample_weights, n, mode, "per_sample_weights");
  const std::size_t bags = offsets.size();
  const std::size_t floats_a_bag = dim * (n / (bags > 0 ? bags : 1) + 1);
  parallel_ranges(bags, floats_a_bag, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    for (std::size_t b = begin; b < end; ++b) {
      const Bag bag = bag_at(offsets, b, n);
      const float* const from = grads + b * dim;
      const auto count = static_cast<float>(bag.end - bag.begin);
      for (std::size_t i = bag.begin; i < bag.end; ++i) {
        float* const to = out + i * dim;
        if (mode == PoolMode::kMean) {
          for (std::size_t j = 0; j < dim; ++j) to[j] = from[j] / count;
        } else if (sample_weights != nullptr) {
          for (std::size_t j = 0; j < dim; ++j) to[j] = sample_weights[i] * from[j];
        } else {
          std::copy_n(from, dim, to);
        }
      }
    }
  });
}

}  // namespace fastinc
