// What stands before every row of a table, and how rows are read without a lock while they are written.
#pragma once

#include <cstdint>

// ThreadSanitizer doesn't understand fences: functions that read rows which may be written meanwhile, and
// throw away what they read if they were, are not instrumented.
#define FASTINC_RACES __attribute__((no_sanitize("thread")))
#define FASTINC_INLINE inline __attribute__((always_inline))
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wtsan"
#endif

namespace fastinc {

/// A sequence lock and whose row it is. The stamp, from the lowest bit: being written (1 bit), holds a row
/// (1), writes, modulo 2^14 (14), version (48). No two states of a row near in time have one stamp, so a
/// reader that finds the same even stamp before and after has read one state.
struct RowHeader {
  std::uint64_t stamp;
  std::int64_t id;
};

/// Floats that the header takes before a row's weights.
inline constexpr std::uint64_t kHeaderFloats = sizeof(RowHeader) / sizeof(float);

inline constexpr std::uint64_t kWriting = 1, kLive = 2, kOneWrite = 4;
inline constexpr unsigned kVersionShift = 16;
inline constexpr std::uint64_t kLastVersion = (std::uint64_t{1} << 48) - 1;

// always_inline throughout: kernels of every instruction set include these, and none may get another's copy.

FASTINC_INLINE RowHeader* header_of(const float* weights) {
  return reinterpret_cast<RowHeader*>(const_cast<float*>(weights) - kHeaderFloats);
}

FASTINC_INLINE std::uint64_t load_stamp(const RowHeader* header) {
  return __atomic_load_n(&header->stamp, __ATOMIC_ACQUIRE);
}
FASTINC_INLINE std::int64_t load_id(const RowHeader* header) {
  return __atomic_load_n(&header->id, __ATOMIC_RELAXED);
}
FASTINC_INLINE std::uint64_t version_of(std::uint64_t stamp) {
  return stamp >> kVersionShift;
}

/// The stamp after one more write at the version it has.
FASTINC_INLINE std::uint64_t rewritten(std::uint64_t stamp) {
  constexpr std::uint64_t kWrites = (std::uint64_t{1} << kVersionShift) - kOneWrite;
  return (stamp & ~kWrites) | ((stamp + kOneWrite) & kWrites);
}

/// The stamp of a row after a write at `version`: unlike those before it, whatever their versions.
FASTINC_INLINE std::uint64_t next_stamp(std::uint64_t stamp, std::uint64_t version) {
  constexpr std::uint64_t kCount = (std::uint64_t{1} << kVersionShift) - 1;
  return version << kVersionShift | (rewritten(stamp) & kCount) | kLive;
}

/// Between these the row may be written, by one thread. Returns the stamp it had.
FASTINC_INLINE std::uint64_t begin_write(RowHeader* header) {
  const std::uint64_t stamp = __atomic_load_n(&header->stamp, __ATOMIC_RELAXED);
  __atomic_store_n(&header->stamp, stamp | kWriting, __ATOMIC_RELAXED);
  __atomic_thread_fence(__ATOMIC_RELEASE);  // no write of the row before the mark
  return stamp;
}
FASTINC_INLINE void end_write(RowHeader* header, std::uint64_t stamp) {
  __atomic_store_n(&header->stamp, stamp, __ATOMIC_RELEASE);
}

/// After reading a row: whether it still is as it was when its stamp was `stamp`.
FASTINC_INLINE bool is_unchanged(const RowHeader* header, std::uint64_t stamp) {
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  return __atomic_load_n(&header->stamp, __ATOMIC_RELAXED) == stamp;
}

/// A stamp before every row of codes, so that scans of codes alone find out too: being written (1 bit), holds
/// a row (1), writes, modulo 2^14 (14): a reader would have to sleep through a multiple of 16,384 writes of
/// one row to be misled.
using CodeStamp = std::uint16_t;

FASTINC_INLINE CodeStamp* stamp_of(std::uint8_t* codes) {
  return reinterpret_cast<CodeStamp*>(codes - sizeof(CodeStamp));
}
/// Whether a row has a place here, or had one a moment ago.
FASTINC_INLINE bool has_codes(std::uint8_t* codes) {
  return (__atomic_load_n(stamp_of(codes), __ATOMIC_RELAXED) & kLive) != 0;
}
/// Between these the codes may be written, by one thread.
FASTINC_INLINE CodeStamp begin_codes(std::uint8_t* codes) {
  const CodeStamp stamp = __atomic_load_n(stamp_of(codes), __ATOMIC_RELAXED);
  __atomic_store_n(stamp_of(codes), static_cast<CodeStamp>(stamp | kWriting), __ATOMIC_RELAXED);
  __atomic_thread_fence(__ATOMIC_RELEASE);  // no write of the codes before the mark
  return stamp;
}
FASTINC_INLINE void end_codes(std::uint8_t* codes, CodeStamp stamp, bool live) {
  const std::uint64_t count = (stamp | kLive | kWriting) + 1;  // one write more
  __atomic_store_n(stamp_of(codes), static_cast<CodeStamp>(count | (live ? kLive : 0)), __ATOMIC_RELEASE);
}

}  // namespace fastinc
