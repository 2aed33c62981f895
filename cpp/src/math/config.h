// Every header in this folder is compiled once per instruction set (and by nvcc), each time into a namespace
// of its own: an inline function shared by an AVX-512 file and a baseline file would make one run the other's
// code.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef FASTINC_ISA
#define FASTINC_ISA base
#endif

#if defined(__CUDACC__)
#define FASTINC_HD __host__ __device__ __forceinline__
#else
#define FASTINC_HD inline __attribute__((always_inline))
#endif

// For loops whose iterations are independent. Never on a float reduction: Clang may then reorder its sums.
#if defined(__clang__)
#define FASTINC_VECTORIZE _Pragma("clang loop vectorize(enable) interleave(enable)")
#elif defined(__GNUC__) && !defined(__CUDACC__)
#define FASTINC_VECTORIZE _Pragma("GCC ivdep")
#else
#define FASTINC_VECTORIZE
#endif

#define FASTINC_ISA_NAMESPACE fastinc::FASTINC_ISA
