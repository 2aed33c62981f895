// Runs CUDA kernels on the CPU, for tests on machines without a GPU: the kernels' sources, compiled as C++.
//
// A thread of a block is a fiber. Lanes run one after the other, in a shuffled order, to the next point where
// they meet (shuffles, votes, __syncwarp, __syncthreads) or an atomic operation, where they may take turns:
// what relies on lockstep, or lacks a barrier, gives wrong results in some order. Meeting points are checked:
// lanes that ended, other lanes than the mask says, and waiting for ever end the program with a message.
// Blocks run one after the other, launches at once. Memory is the host's, so that the address sanitizer sees
// every access.
//
// Not here: what only hardware has (caches, memory order, warps of several blocks at a time, limits of
// registers and shared memory) and everything about speed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1) : x(x_size), y(y_size), z(z_size) {}
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

/// Runs body() as every thread of every block.
void run(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& body);

/// The block's dynamic shared memory, filled with a pattern before the block begins.
unsigned char* dynamic_shared();

/// Ends the program.
[[noreturn]] void fail(const char* what);

unsigned lane();
void sync_block();
/// Where an atomic operation is: others may run first.
void maybe_yield();

/// What meets: lanes of one meeting must have come to the same operation.
enum class Meeting : std::uint8_t { kNone, kSync, kShuffle, kVote, kMatch, kReduce, kMatrix };

/// Waits until every lane of the mask is here. Returns what each lane brought: (32,), until the lane's next
/// meeting but one.
const std::uint64_t* meet(unsigned mask, std::uint64_t brought, Meeting meeting);

template <class T>
std::uint64_t pack(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T>
T unpack(std::uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
T shuffle(unsigned mask, T value, unsigned from) {
  const std::uint64_t* all = meet(mask, pack(value), Meeting::kShuffle);
  if ((mask >> from & 1u) == 0) fail("a shuffle reads a lane that isn't in its mask");
  return unpack<T>(all[from]);
}

template <class T, class Combine>
T reduce(unsigned mask, T value, Combine combine) {
  const std::uint64_t* all = meet(mask, pack(value), Meeting::kReduce);
  bool first = true;
  T out{};
  for (unsigned l = 0; l < 32; ++l) {
    if ((mask >> l & 1u) == 0) continue;
    out = first ? unpack<T>(all[l]) : combine(out, unpack<T>(all[l]));
    first = false;
  }
  return out;
}

template <class T, class Change>
T atomic(T* at, Change change) {
  maybe_yield();
  const T old = *at;
  *at = change(old);
  return old;
}

/// cp.async, at once; what isn't aligned ends the program.
void copy16(void* to, const void* from);

/// mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32: sums += a b in the documented layout of fragments.
void multiply_u8_s8(int (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]);

}  // namespace emulator

inline void __syncthreads() {
  emulator::sync_block();
}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  emulator::meet(mask, 0, emulator::Meeting::kSync);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __shfl_sync(unsigned mask, T value, unsigned from, unsigned width = 32) {
  return emulator::shuffle(mask, value, emulator::lane() / width * width + from % width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, unsigned width = 32) {
  const unsigned me = emulator::lane();
  return emulator::shuffle(mask, value, me % width + delta < width ? me + delta : me);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, unsigned width = 32) {
  const unsigned me = emulator::lane();
  return emulator::shuffle(mask, value, me % width >= delta ? me - delta : me);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, unsigned bits, unsigned width = 32) {
  const unsigned me = emulator::lane(), from = me ^ bits;
  return emulator::shuffle(mask, value, from / width == me / width ? from : me);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const std::uint64_t* all = emulator::meet(mask, predicate != 0, emulator::Meeting::kVote);
  unsigned bits = 0;
  for (unsigned l = 0; l < 32; ++l) bits |= (mask >> l & 1u) != 0 && all[l] != 0 ? 1u << l : 0u;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == mask;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
  const std::uint64_t mine = emulator::pack(value);
  const std::uint64_t* all = emulator::meet(mask, mine, emulator::Meeting::kMatch);
  unsigned bits = 0;
  for (unsigned l = 0; l < 32; ++l) bits |= (mask >> l & 1u) != 0 && all[l] == mine ? 1u << l : 0u;
  return bits;
}
inline unsigned __activemask() {
  emulator::fail("__activemask() has no meaning that a kernel could rely on");
}
template <class T>
T __reduce_add_sync(unsigned mask, T value) {
  return emulator::reduce(mask, value, [](T a, T b) { return a + b; });
}
template <class T>
T __reduce_min_sync(unsigned mask, T value) {
  return emulator::reduce(mask, value, [](T a, T b) { return b < a ? b : a; });
}
template <class T>
T __reduce_max_sync(unsigned mask, T value) {
  return emulator::reduce(mask, value, [](T a, T b) { return a < b ? b : a; });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  return emulator::reduce(mask, value, [](unsigned a, unsigned b) { return a | b; });
}

template <class T>
T atomicAdd(T* at, std::type_identity_t<T> value) {
  return emulator::atomic(at, [=](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomicMin(T* at, std::type_identity_t<T> value) {
  return emulator::atomic(at, [=](T old) { return value < old ? value : old; });
}
template <class T>
T atomicMax(T* at, std::type_identity_t<T> value) {
  return emulator::atomic(at, [=](T old) { return old < value ? value : old; });
}
template <class T>
T atomicOr(T* at, std::type_identity_t<T> value) {
  return emulator::atomic(at, [=](T old) { return old | value; });
}
template <class T>
T atomicAnd(T* at, std::type_identity_t<T> value) {
  return emulator::atomic(at, [=](T old) { return old & value; });
}
template <class T>
T atomicExch(T* at, std::type_identity_t<T> value) {
  return emulator::atomic(at, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return emulator::atomic(at, [=](T old) { return old == expected ? value : old; });
}

template <class T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}

template <class T>
T __ldg(const T* at) {
  return *at;
}
template <class T>
T __ldcg(const T* at) {
  return *at;
}
template <class T>
T __ldcs(const T* at) {
  return *at;
}
template <class T>
void __stcs(T* at, std::type_identity_t<T> value) {
  *at = value;
}
inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline int __clz(int x) {
  return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}
inline void __nanosleep(unsigned) {
  emulator::maybe_yield();
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((std::uint64_t{high} << 32) | low) >> (shift & 31u));
}
inline int __clzll(long long x) {
  return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline unsigned __float_as_uint(float x) {
  return emulator::unpack<unsigned>(emulator::pack(x));
}
inline float __uint_as_float(unsigned x) {
  return emulator::unpack<float>(emulator::pack(x));
}
inline int __float_as_int(float x) {
  return emulator::unpack<int>(emulator::pack(x));
}

/// c + the sum of four products of bytes.
template <class A, class B, class C>
C emulated_dp4a(std::uint32_t a, std::uint32_t b, C c) {
  for (unsigned i = 0; i < 4; ++i) c += static_cast<C>(A(a >> 8 * i)) * static_cast<C>(B(b >> 8 * i));
  return c;
}
inline int __dp4a(int a, int b, int c) {
  return emulated_dp4a<std::int8_t, std::int8_t>(static_cast<unsigned>(a), static_cast<unsigned>(b), c);
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  return emulated_dp4a<std::uint8_t, std::uint8_t>(a, b, c);
}

struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) ulonglong2 {
  unsigned long long x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}
