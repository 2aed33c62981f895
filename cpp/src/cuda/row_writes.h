// What warps write into a table's rows: start values, and the int8 copy that goes with the weights.
#pragma once

#include "cuda/device_rows.h"
#include "cuda/update_kernel.h"
#include "fastinc/initializer.h"
#include "math/quantize.h"
#include "math/random.h"

namespace fastinc::cuda {

/// run(Values): how many of a row's floats a lane holds, as std::integral_constant; 0 where they are too
/// many.
template <class Run>
void for_width(std::size_t dim, Run run) {
  if (dim <= 2 * kWarp) {
    run(std::integral_constant<unsigned, 2>());
  } else if (dim <= 4 * kWarp) {
    run(std::integral_constant<unsigned, 4>());
  } else if (dim <= 8 * kWarp) {
    run(std::integral_constant<unsigned, 8>());
  } else {
    run(std::integral_constant<unsigned, 0>());
  }
}

/// Codes, scale and bias of a row. Lanes are combined in the CPU's order: that decides the sign of a zero
/// bias. load(i), which any lane may ask for, is what `row` holds.
template <unsigned Values, class Load>
__device__ __forceinline__ void write_codes(Held<Values>& row, std::size_t dim, Load load,
                                            std::uint8_t* out) {
  const float first = __shfl_sync(kAllLanes, row.get(0, 0, load), 0);
  float least = first, most = first;
  row.for_each(dim, load, [&](unsigned, std::size_t, float& x) {
    base::Minimum()(least, x);
    base::Maximum()(most, x);
  });
  const base::RowQuantizer quantizer(halve_lanes(least, base::Minimum()), halve_lanes(most, base::Maximum()));
  row.for_each(dim, load, [&](unsigned, std::size_t i, float& x) { out[i] = quantizer.code(x); });
  if (lane() < kQuantizedTail) {
    const std::uint32_t bits = base::float_bits(lane() < 4 ? quantizer.scale : quantizer.bias);
    out[dim + lane()] = static_cast<std::uint8_t>(bits >> (8 * (lane() % 4)));
  }
}

/// A new row's weights.
__device__ __forceinline__ void write_start(const Initializer& init, std::int64_t id, std::size_t dim,
                                            float* out) {
  const std::uint64_t key = base::row_key(init.seed, id);
  for (std::size_t i = lane(); i < dim; i += kWarp) out[i] = base::start_value(init, key, i);
}

/// A new row's optimizer state.
__device__ __forceinline__ void write_state(const DeviceRows& rows, Slot slot, float value) {
  for (unsigned k = 0; k < rows.element_states; ++k) {
    float* const out = rows.element_state(slot, k);
    for (std::size_t i = lane(); i < rows.dim; i += kWarp) out[i] = value;
  }
  if (rows.row_states > 0 && lane() == 0) rows.row_state_of(slot) = value;
}

/// Rows of a table for update_groups(). A group's number is a slot, or base + the first position of an id
/// whose new slot is in `slots`.
struct TableRows {
  DeviceRows rows;
  std::uint32_t base;
  const std::uint32_t* slots;
  std::uint64_t version;

  __device__ __forceinline__ Slot slot(std::uint64_t row) const {
    return row < base ? static_cast<Slot>(row) : slots[row - base];
  }
  template <class Params>
  __device__ __forceinline__ RowPointers find(std::uint64_t row) const {
    const Slot at = slot(row);
    return {rows.weights(at), Params::kElementStates > 0 ? rows.element_state(at, 0) : nullptr,
            Params::kElementStates > 1 ? rows.element_state(at, 1) : nullptr,
            Params::kRowStates > 0 ? &rows.row_state_of(at) : nullptr};
  }
  template <unsigned Values, class Weights>
  __device__ __forceinline__ void finish(std::uint64_t row, Held<Values>& weights,
                                         Weights load_weight) const {
    const Slot at = slot(row);
    if constexpr (Values == 0) __syncwarp();  // the first weight is another lane's
    write_codes(weights, rows.dim, load_weight, rows.codes_of(at));
    if (lane() == 0) rows.version(at) = version;
  }
};

}  // namespace fastinc::cuda
