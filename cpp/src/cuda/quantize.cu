// The fused 8-bit rowwise format. Rows of a multiple of four dims go four at a time, several of them to a
// warp where they are short; others one float after the other.
#include "cpu/update.h"
#include "cuda/launch.h"
#include "fastinc/cuda_ops.h"
#include "math/lane_sum.h"
#include "math/quantize.h"

namespace fastinc::cuda {
namespace {

/// A float's place where its bits say that it isn't finite, else all ones.
__device__ __forceinline__ unsigned long long bad_place(float x, std::size_t place) {
  const bool finite = (base::float_bits(x) & 0x7f800000u) != 0x7f800000u;
  return finite ? ~0ull : static_cast<unsigned long long>(place);
}

__device__ __forceinline__ void tell(unsigned long long bad, unsigned long long* nonfinite) {
  if (bad != ~0ull) atomicMin(nonfinite, bad);
}

/// The quantiser of a row, whose lanes are combined in the CPU's order: that decides the sign of a zero bias.
__device__ __forceinline__ base::RowQuantizer row_quantizer(const float* x, std::size_t dim) {
  float least = x[0], most = x[0];
  for (std::size_t i = lane(); i < dim; i += kWarp) {
    base::Minimum()(least, x[i]);
    base::Maximum()(most, x[i]);
  }
  return base::RowQuantizer(halve_lanes(least, base::Minimum()), halve_lanes(most, base::Maximum()));
}

/// Bytes [0, 8) of a row's tail, wherever it is.
__device__ __forceinline__ void store_tail(std::uint8_t* tail, const base::RowQuantizer& quantizer,
                                           unsigned byte) {
  const std::uint32_t bits = base::float_bits(byte < 4 ? quantizer.scale : quantizer.bias);
  tail[byte] = static_cast<std::uint8_t>(bits >> (8 * (byte % 4)));
}

/// A warp a row.
__global__ void quantize_rows(const float* __restrict__ x, std::size_t n, std::size_t dim,
                              std::uint8_t* __restrict__ q, unsigned long long* nonfinite) {
  for (std::size_t row = first_warp(); row < n; row += warp_count()) {
    const float* const in = x + row * dim;
    std::uint8_t* const out = q + row * (dim + kQuantizedTail);
    const base::RowQuantizer quantizer = row_quantizer(in, dim);
    unsigned long long bad = ~0ull;
    for (std::size_t i = lane(); i < dim; i += kWarp) {
      out[i] = quantizer.code(in[i]);
      bad = min(bad, bad_place(in[i], row * dim + i));
    }
    tell(bad, nonfinite);
    if (lane() < kQuantizedTail) store_tail(out + dim, quantizer, lane());
  }
}

/// The same with `Lanes` lanes a row, each of which has `Vectors` times four floats, 4 * Lanes floats apart.
template <unsigned Lanes, unsigned Vectors>
__global__ void quantize_vectors(const float* __restrict__ x, std::size_t n, std::size_t dim,
                                 std::uint8_t* __restrict__ q, unsigned long long* nonfinite) {
  constexpr unsigned kRows = kWarp / Lanes;
  const unsigned mine = lane() % Lanes;
  for (std::size_t first = first_warp() * kRows; first < n; first += warp_count() * kRows) {
    const std::size_t row = first + lane() / Lanes;
    const float* const in = x + min(row, n - 1) * dim;  // lanes without a row go along
    float4 values[Vectors];
    float least = in[0], most = in[0];
    unsigned long long bad = ~0ull;
#pragma unroll
    for (unsigned k = 0; k < Vectors; ++k) {
      const std::size_t i = 4 * (k * Lanes + mine);
      values[k] = i < dim ? *reinterpret_cast<const float4*>(in + i) : float4{in[0], in[0], in[0], in[0]};
      const float each[4] = {values[k].x, values[k].y, values[k].z, values[k].w};
#pragma unroll
      for (unsigned c = 0; c < 4; ++c) {
        base::Minimum()(least, each[c]);
        base::Maximum()(most, each[c]);
        bad = min(bad, bad_place(each[c], min(row, n - 1) * dim + (i < dim ? i + c : 0)));
      }
    }
    tell(bad, nonfinite);
    for (unsigned half = Lanes / 2; half != 0; half /= 2) {
      base::Minimum()(least, __shfl_xor_sync(kAllLanes, least, half));
      base::Maximum()(most, __shfl_xor_sync(kAllLanes, most, half));
    }
    base::RowQuantizer quantizer(least, most);
    // Which of 0.0 and -0.0 is the minimum is decided by the order.
    const unsigned zeros = __ballot_sync(kAllLanes, least == 0.0f && mine == 0);
    for (unsigned rest = zeros; rest != 0; rest &= rest - 1) {
      const unsigned at = static_cast<unsigned>(__ffs(static_cast<int>(rest)) - 1);
      const base::RowQuantizer exact = row_quantizer(x + min(first + at / Lanes, n - 1) * dim, dim);
      if (lane() / Lanes == at / Lanes) quantizer = exact;
    }
    if (row >= n) continue;
    std::uint8_t* const out = q + row * (dim + kQuantizedTail);
#pragma unroll
    for (unsigned k = 0; k < Vectors; ++k) {
      const std::size_t i = 4 * (k * Lanes + mine);
      const std::uint32_t codes =
          quantizer.code(values[k].x) | std::uint32_t{quantizer.code(values[k].y)} << 8 |
          std::uint32_t{quantizer.code(values[k].z)} << 16 | std::uint32_t{quantizer.code(values[k].w)} << 24;
      if (i < dim) *reinterpret_cast<std::uint32_t*>(out + i) = codes;
    }
    if (mine < 2) {
      reinterpret_cast<std::uint32_t*>(out + dim)[mine] =
          base::float_bits(mine == 0 ? quantizer.scale : quantizer.bias);
    }
  }
}

__global__ void dequantize_rows(const std::uint8_t* __restrict__ q, std::size_t n, std::size_t dim,
                                float* __restrict__ x) {
  for (std::size_t row = first_warp(); row < n; row += warp_count()) {
    const std::uint8_t* const in = q + row * (dim + kQuantizedTail);
    std::uint32_t scale = 0, bias = 0;
    for (unsigned byte = 0; byte < 4; ++byte) {
      scale |= std::uint32_t{in[dim + byte]} << (8 * byte);
      bias |= std::uint32_t{in[dim + 4 + byte]} << (8 * byte);
    }
    for (std::size_t i = lane(); i < dim; i += kWarp) {
      x[row * dim + i] = base::dequantize(in[i], base::bits_float(scale), base::bits_float(bias));
    }
  }
}

/// A thread for each four floats.
__global__ void dequantize_vectors(const std::uint8_t* __restrict__ q, std::size_t n, std::size_t dim,
                                   float* __restrict__ x) {
  const std::size_t quarters = dim / 4, total = n * quarters;
  for (std::size_t at = first_thread(); at < total; at += thread_count()) {
    const std::size_t row = at / quarters, i = 4 * (at - row * quarters);
    const std::uint8_t* const in = q + row * (dim + kQuantizedTail);
    const auto* const tail = reinterpret_cast<const std::uint32_t*>(in + dim);
    const float scale = base::bits_float(tail[0]), bias = base::bits_float(tail[1]);
    const std::uint32_t codes = *reinterpret_cast<const std::uint32_t*>(in + i);
    const auto value = [&](unsigned c) {
      return base::dequantize(static_cast<std::uint8_t>(codes >> (8 * c)), scale, bias);
    };
    *reinterpret_cast<float4*>(x + row * dim + i) = float4{value(0), value(1), value(2), value(3)};
  }
}

bool is_aligned(const void* at, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(at) % bytes == 0;
}

}  // namespace

void quantize_rowwise(const float* x, std::size_t n, std::size_t dim, std::uint8_t* q,
                      std::uint64_t* nonfinite, Stream stream) {
  if (dim == 0) throw std::invalid_argument("x: dim must be at least 1, not 0");
  check(cudaMemsetAsync(nonfinite, 0xff, sizeof *nonfinite, stream), "cudaMemsetAsync");
  if (n == 0) return;
  const auto run = [&](const char* name, auto kernel, std::size_t rows_a_warp) {
    launch(name, kernel, blocks_for(n, rows_a_warp * kWarpsPerBlock), kBlock, stream, x, n, dim, q,
           reinterpret_cast<unsigned long long*>(nonfinite));
  };
  if (dim % 4 != 0 || dim > 512 || !is_aligned(x, sizeof(float4)) || !is_aligned(q, 4)) {
    run("quantize_rows", quantize_rows, 1);
  } else if (dim <= 32) {
    run("quantize_vectors", quantize_vectors<8, 1>, 4);
  } else if (dim <= 64) {
    run("quantize_vectors", quantize_vectors<16, 1>, 2);
  } else if (dim <= 128) {
    run("quantize_vectors", quantize_vectors<32, 1>, 1);
  } else if (dim <= 256) {
    run("quantize_vectors", quantize_vectors<32, 2>, 1);
  } else {
    run("quantize_vectors", quantize_vectors<32, 4>, 1);
  }
}

void refuse_nonfinite(const float* x, std::size_t dim, const std::uint64_t* nonfinite, const char* name,
                      Stream stream) {
  const std::uint64_t at = to_host(nonfinite, 1, stream).front();
  if (at != ~std::uint64_t{0}) refuse_value(name, at, dim, to_host(x + at, 1, stream).front());
}

void dequantize_rowwise(const std::uint8_t* q, std::size_t n, std::size_t dim, float* x, Stream stream) {
  if (dim == 0) throw std::invalid_argument("q: rows must be at least 9 bytes (1 code, scale, bias)");
  if (n == 0) return;
  if (dim % 4 != 0 || !is_aligned(x, sizeof(float4)) || !is_aligned(q, 4)) {
    launch("dequantize_rows", dequantize_rows, blocks_for(n, kWarpsPerBlock), kBlock, stream, q, n, dim, x);
  } else {
    launch("dequantize_vectors", dequantize_vectors, blocks_for(n * (dim / 4), kBlock), kBlock, stream, q, n,
           dim, x);
  }
}

}  // namespace fastinc::cuda
