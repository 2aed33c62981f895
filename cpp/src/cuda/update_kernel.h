// One optimizer step per group of a batch: a warp a row, the functors of src/math.
#pragma once

#include <variant>

#include "cuda/grouping.h"
#include "fastinc/cuda_ops.h"
#include "math/lane_sum.h"
#include "math/optimizers.h"

namespace fastinc::cuda {

/// A row's floats in registers, where they fit there: value k of a lane is number k * 32 + lane().
template <unsigned Values>
struct Held {
  float values[Values];

  template <class Load>
  __device__ __forceinline__ Held(std::size_t dim, Load load) {
#pragma unroll
    for (unsigned k = 0; k < Values; ++k) {
      const std::size_t i = k * kWarp + lane();
      values[k] = i < dim ? load(i) : 0.0f;
    }
  }
  /// visit(k, i, value) for the lane's values, which it may change.
  template <class Load, class Visit>
  __device__ __forceinline__ void for_each(std::size_t dim, Load, Visit visit) {
#pragma unroll
    for (unsigned k = 0; k < Values; ++k) {
      const std::size_t i = k * kWarp + lane();
      if (i < dim) visit(k, i, values[k]);
    }
  }
  /// Value k of this lane: by its number in the lane, which the compiler knows, not in the row.
  template <class Load>
  __device__ __forceinline__ float get(unsigned k, std::size_t, Load) const {
    return values[k];
  }
};

/// Wider rows are loaded again where they are needed.
template <>
struct Held<0> {
  template <class Load>
  __device__ __forceinline__ Held(std::size_t, Load) {}
  template <class Load, class Visit>
  __device__ __forceinline__ void for_each(std::size_t dim, Load load, Visit visit) {
    for (std::size_t i = lane(); i < dim; i += kWarp) {
      float value = load(i);
      visit(0, i, value);
    }
  }
  template <class Load>
  __device__ __forceinline__ float get(unsigned, std::size_t i, Load load) const {
    return load(i);
  }
};

/// Where a row's floats are.
struct RowPointers {
  float *weights, *state0, *state1, *row_state;
};

/// A caller's rows. Others have the same members: find() of a row, and finish(), which a warp calls once it
/// has written it.
struct CallersRows {
  DenseRows rows;

  template <class Params>
  __device__ __forceinline__ RowPointers find(std::uint64_t row) const {
    return {rows.weights + row * rows.dim,
            Params::kElementStates > 0 ? rows.element_state[0] + row * rows.dim : nullptr,
            Params::kElementStates > 1 ? rows.element_state[1] + row * rows.dim : nullptr,
            Params::kRowStates > 0 ? rows.row_state + row : nullptr};
  }
  template <unsigned Values, class Weights>
  __device__ __forceinline__ void finish(std::uint64_t, Held<Values>&, Weights) const {}
};

/// Whether the sum of squares of a group's gradient is finite, for every lane.
template <unsigned Values, class Load>
__device__ __forceinline__ bool is_finite(Held<Values>& held, std::size_t dim, Load load) {
  float sum = 0.0f;
  held.for_each(dim, load, [&](unsigned, std::size_t, float& g) { sum += g * g; });
  return (base::float_bits(halve_lanes(sum, base::Add())) & 0x7f800000u) != 0x7f800000u;
}

/// skipped: (1,) counts the groups left out because their gradient isn't finite.
template <class Functor, unsigned Values, class Rows>
__global__ void __launch_bounds__(kBlock)
    update_groups(const __grid_constant__ Functor functor, const __grid_constant__ Rows rows,
                  const __grid_constant__ Grouping g, std::uint32_t* skipped) {
  using Params = typename Functor::Params;
  const std::uint32_t count = *g.count;
  for (std::size_t at = first_warp(); at < count; at += warp_count()) {
    const Group group = g.groups[at];
    const std::uint64_t row = g.rows[at];
    const RowPointers p = rows.template find<Params>(row);
    const auto load_gradient = [&](std::size_t i) { return gradient(g, group, i); };
    const auto load_weight = [&](std::size_t i) { return p.weights[i]; };
    Held<Values> weights(g.dim, load_weight), grads(g.dim, load_gradient);
    if (!is_finite(grads, g.dim, load_gradient)) {
      if (lane() == 0) atomicAdd(skipped, 1u);
      continue;
    }
    float mean = 0.0f;
    if constexpr (Functor::kNeedsStatistic) {
      float sum = 0.0f;
      grads.for_each(g.dim, load_gradient, [&](unsigned k, std::size_t i, float& x) {
        sum += functor.element_statistic(x, weights.get(k, i, load_weight));
      });
      mean = halve_lanes(sum, base::Add()) / static_cast<float>(g.dim);
    }
    // Every lane makes the row's constants; one writes its state.
    float row_state = 0.0f;
    if constexpr (Params::kRowStates > 0) row_state = *p.row_state;
    const typename Functor::Row constants = functor.begin_row(&row_state, mean);
    if constexpr (Params::kRowStates > 0) {
      __syncwarp();
      if (lane() == 0) *p.row_state = row_state;
    }
    weights.for_each(g.dim, load_weight, [&](unsigned k, std::size_t i, float& w) {
      float s0 = 0.0f, s1 = 0.0f;
      if constexpr (Params::kElementStates > 0) s0 = p.state0[i];
      if constexpr (Params::kElementStates > 1) s1 = p.state1[i];
      functor.element(constants, grads.get(k, i, load_gradient), w, s0, s1);
      p.weights[i] = w;
      if constexpr (Params::kElementStates > 0) p.state0[i] = s0;
      if constexpr (Params::kElementStates > 1) p.state1[i] = s1;
    });
    rows.finish(row, weights, load_weight);
  }
}

template <class Functor, class Rows>
void launch_update(const Functor& functor, const Rows& rows, const Grouping& g, std::uint32_t* skipped,
                   cudaStream_t stream) {
  const unsigned blocks = blocks_for(g.n, kWarpsPerBlock);
  const auto run = [&](auto kernel) {
    launch("update_groups", kernel, blocks, kBlock, stream, functor, rows, g, skipped);
  };
  if (g.dim <= 2 * kWarp) {
    run(update_groups<Functor, 2, Rows>);
  } else if (g.dim <= 4 * kWarp) {
    run(update_groups<Functor, 4, Rows>);
  } else if (g.dim <= 8 * kWarp) {
    run(update_groups<Functor, 8, Rows>);
  } else {
    run(update_groups<Functor, 0, Rows>);
  }
}

/// The largest bit pattern of |x| to *largest, if that is less. x: (n,)
void find_largest(const float* x, std::size_t n, std::uint32_t* largest, cudaStream_t stream);

/// One step per group, by whichever optimizer.
template <class Rows>
void update_by(const OptimizerParams& params, const Rows& rows, const Grouping& g, std::uint32_t* skipped,
               cudaStream_t stream) {
#define FASTINC_CASE(Name)                                                \
  if (const auto* p = std::get_if<Name##Params>(&params); p != nullptr) { \
    launch_update(base::Name(*p), rows, g, skipped, stream);              \
  }
  FASTINC_FOR_EACH_OPTIMIZER(FASTINC_CASE)
#undef FASTINC_CASE
}

}  // namespace fastinc::cuda
