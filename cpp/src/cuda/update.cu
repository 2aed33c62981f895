// One optimizer step per distinct id: a warp a row, the functors of src/math.
#include <array>
#include <variant>

#include "cuda/segment_steps.h"
#include "fastinc/cuda_ops.h"
#include "math/lane_sum.h"
#include "math/optimizers.h"

namespace fastinc::cuda {
namespace {

constexpr std::size_t kAlign = 256;

/// A gradient in registers, where it fits there: value k of a lane is k * 32 + lane().
template <unsigned Values>
struct HeldGradient {
  float values[Values];

  __device__ HeldGradient(const DeviceSegments& s, const Group& group) {
#pragma unroll
    for (unsigned k = 0; k < Values; ++k) {
      const std::size_t i = k * kWarp + lane();
      values[k] = i < s.dim ? gradient(s, group, i) : 0.0f;
    }
  }
  /// visit(i, g) for the lane's values.
  template <class Visit>
  __device__ void for_each(const DeviceSegments& s, const Group&, Visit visit) const {
#pragma unroll
    for (unsigned k = 0; k < Values; ++k) {
      const std::size_t i = k * kWarp + lane();
      if (i < s.dim) visit(i, values[k]);
    }
  }
};

/// Wider rows are summed again where they are needed.
template <>
struct HeldGradient<0> {
  __device__ HeldGradient(const DeviceSegments&, const Group&) {}
  template <class Visit>
  __device__ void for_each(const DeviceSegments& s, const Group& group, Visit visit) const {
    for (std::size_t i = lane(); i < s.dim; i += kWarp) visit(i, gradient(s, group, i));
  }
};

/// The sum of term(i, g) over a row in the order of lane_sum(), for every lane.
template <class Held, class Term>
__device__ float row_sum(const Held& held, const DeviceSegments& s, const Group& group, Term term) {
  float sum = 0.0f;
  held.for_each(s, group, [&](std::size_t i, float g) { sum += term(i, g); });
  return halve_lanes(sum, base::Add());
}

template <class Functor, unsigned Values>
__global__ void __launch_bounds__(kBlock) update_groups(Functor functor, DenseRows rows, DeviceSegments s,
                                                        UpdateReport* report) {
  using Params = typename Functor::Params;
  const std::uint32_t count = *s.count;
  for (std::size_t g = first_warp(); g < count; g += warp_count()) {
    const Group group = s.groups[g];
    const std::size_t row = s.rows[g];
    const HeldGradient<Values> held(s, group);
    const float squares = row_sum(held, s, group, [](std::size_t, float x) { return x * x; });
    if ((base::float_bits(squares) & 0x7f800000u) == 0x7f800000u) {
      if (lane() == 0) atomicAdd(&report->skipped, 1u);
      continue;
    }
    float* const w = rows.weights + row * s.dim;
    float* const state0 = Params::kElementStates > 0 ? rows.element_state[0] + row * s.dim : nullptr;
    float* const state1 = Params::kElementStates > 1 ? rows.element_state[1] + row * s.dim : nullptr;
    float mean = 0.0f;
    if constexpr (Functor::kNeedsStatistic) {
      const auto term = [&](std::size_t i, float x) { return functor.element_statistic(x, w[i]); };
      mean = row_sum(held, s, group, term) / static_cast<float>(s.dim);
    }
    // Every lane makes the row's constants; one writes its state.
    float row_state = 0.0f;
    if constexpr (Params::kRowStates > 0) row_state = rows.row_state[row];
    const typename Functor::Row constants = functor.begin_row(&row_state, mean);
    if constexpr (Params::kRowStates > 0) {
      __syncwarp();
      if (lane() == 0) rows.row_state[row] = row_state;
    }
    held.for_each(s, group, [&](std::size_t i, float x) {
      float weight = w[i], s0 = 0.0f, s1 = 0.0f;
      if constexpr (Params::kElementStates > 0) s0 = state0[i];
      if constexpr (Params::kElementStates > 1) s1 = state1[i];
      functor.element(constants, x, weight, s0, s1);
      w[i] = weight;
      if constexpr (Params::kElementStates > 0) state0[i] = s0;
      if constexpr (Params::kElementStates > 1) state1[i] = s1;
    });
  }
}

template <class Functor>
void launch(const Functor& functor, const DenseRows& rows, const DeviceSegments& s, UpdateReport* report,
            Stream stream) {
  const unsigned blocks = blocks_for(s.n, kWarpsPerBlock);
  const auto run = [&](auto kernel) { kernel<<<blocks, kBlock, 0, stream>>>(functor, rows, s, report); };
  if (s.dim <= 1 * kWarp) {
    run(update_groups<Functor, 1>);
  } else if (s.dim <= 2 * kWarp) {
    run(update_groups<Functor, 2>);
  } else if (s.dim <= 4 * kWarp) {
    run(update_groups<Functor, 4>);
  } else if (s.dim <= 8 * kWarp) {
    run(update_groups<Functor, 8>);
  } else {
    run(update_groups<Functor, 0>);
  }
  check(cudaGetLastError(), "update_groups");
}

#define FASTINC_LAUNCH(Name)                                                                          \
  void launch_step(const Name##Params& params, const DenseRows& rows, const DeviceSegments& s,        \
                   UpdateReport* report, Stream stream) {                                             \
    launch(base::Name(params), rows, s, report, stream);                                              \
  }
FASTINC_FOR_EACH_OPTIMIZER(FASTINC_LAUNCH)
#undef FASTINC_LAUNCH

/// Hands out the caller's scratch piece by piece; of a null one it only counts.
class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<std::byte*>(memory)) {}
  template <class T>
  T* take(std::size_t count) {
    std::byte* const at = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += (count * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    return reinterpret_cast<T*>(at);
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* memory_;
  std::size_t used_ = 0;
};

struct Layout {
  GroupScratch scratch;
  DeviceSegments segments;
  std::size_t bytes;
};

Layout lay_out(std::size_t n, std::size_t num_rows, std::size_t dim, void* memory) {
  Arena arena(memory);
  Layout out{};
  out.scratch = {arena.take<std::uint64_t>(n), arena.take<std::uint64_t>(n), arena.take<std::uint32_t>(n),
                 arena.take<std::uint32_t>(n), arena.take<std::uint32_t>(n), arena.take<std::uint8_t>(n)};
  DeviceSegments& s = out.segments;
  s.n = n;
  s.dim = dim;
  s.num_rows = num_rows;
  s.count = arena.take<std::uint32_t>(1);
  s.positions = arena.take<std::uint32_t>(n);
  s.rows = arena.take<std::uint64_t>(n);
  s.groups = arena.take<Group>(n);
  std::size_t level = 1;
  for (std::size_t longest = n; longest > kSumGroup; longest = (longest + kSumGroup - 1) / kSumGroup) {
    s.sums[level] = arena.take<float>(sums_at(n, level) * dim);
    ++level;
  }
  s.scratch_bytes = cub_bytes(n, num_rows);
  s.scratch = arena.take<std::byte>(s.scratch_bytes);
  out.bytes = arena.used();
  return out;
}

template <class Id>
void update(const OptimizerParams& params, const DenseRows& rows, const Id* ids, std::size_t n,
            const float* grads, void* scratch, UpdateReport* report, Stream stream) {
  if (n == 0) return;
  Layout layout = lay_out(n, rows.num_rows, rows.dim, scratch);
  layout.segments.grads = grads;
  group(ids, layout.scratch, layout.segments, report, stream);
  std::visit([&](const auto& p) { launch_step(p, rows, layout.segments, report, stream); }, params);
}

}  // namespace

std::size_t update_scratch_bytes(std::size_t n, std::size_t num_rows, std::size_t dim) {
  return n == 0 ? 0 : lay_out(n, num_rows, dim, nullptr).bytes;
}

void update_rows(const OptimizerParams& params, const DenseRows& rows, const std::int64_t* ids, std::size_t n,
                 const float* grads, void* scratch, UpdateReport* report, Stream stream) {
  update(params, rows, ids, n, grads, scratch, report, stream);
}
void update_rows(const OptimizerParams& params, const DenseRows& rows, const std::int32_t* ids, std::size_t n,
                 const float* grads, void* scratch, UpdateReport* report, Stream stream) {
  update(params, rows, ids, n, grads, scratch, report, stream);
}

const char* why_unusable() noexcept {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  return devices > 0 ? "" : "no CUDA device";
}

}  // namespace fastinc::cuda
