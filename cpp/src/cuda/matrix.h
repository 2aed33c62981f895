// Inner products of bytes on the tensor cores, and what feeds them: shared memory and copies into it.
#pragma once

#include <cstdint>

#include "cuda/launch.h"

namespace fastinc::cuda {

/// The block's dynamic shared memory.
__device__ __forceinline__ unsigned char* dynamic_shared() {
#if defined(__CUDACC__)
  extern __shared__ __align__(16) unsigned char memory[];
  return memory;
#else
  return emulator::dynamic_shared();
#endif
}

/// Starts a copy of 16 bytes into shared memory; both addresses are multiples of 16.
__device__ __forceinline__ void start_copy16(void* shared, const void* from) {
#if defined(__CUDA_ARCH__)
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
#elif !defined(__CUDACC__)
  emulator::copy16(shared, from);
#else
  (void)shared, (void)from;
#endif
}
/// Ends a group of copies: those started since the last one.
__device__ __forceinline__ void end_copy_group() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/// Waits for this thread's copies, but for those of the last `Groups` groups.
template <unsigned Groups>
__device__ __forceinline__ void wait_for_copies() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_group %0;" ::"n"(Groups) : "memory");
#endif
}

/// sums += a b of a warp: a (16, 32) unsigned bytes, b (32, 8) signed ones, in PTX's layout of mma.m16n8k32.
/// With g = lane / 4 and t = lane % 4: a[0], a[2] are of row g and a[1], a[3] of row g + 8, b of column g;
/// sums[0], sums[1] of row g, sums[2], sums[3] of row g + 8, columns 2 t, 2 t + 1. Which four of the 32 a
/// register holds doesn't matter where a and b agree.
__device__ __forceinline__ void multiply_add_bytes(int (&sums)[4], const unsigned (&a)[4],
                                                   const unsigned (&b)[2]) {
#if defined(__CUDA_ARCH__)
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif !defined(__CUDACC__)
  emulator::multiply_u8_s8(sums, a, b);
#else
  (void)sums, (void)a, (void)b;
#endif
}

/// sum + a b, four unsigned bytes each.
__device__ __forceinline__ unsigned add_byte_products(unsigned a, unsigned b, unsigned sum) {
#if defined(__CUDA_ARCH__)
  return __dp4a(a, b, sum);
#else
  for (unsigned at = 0; at < 32; at += 8) sum += (a >> at & 255u) * (b >> at & 255u);
  return sum;
#endif
}

}  // namespace fastinc::cuda
