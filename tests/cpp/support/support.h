// What the tests share: seeded randomness, guards for process-wide settings, comparisons down to the bit.
#pragma once

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "fastinc/runtime.h"

#if defined(__SANITIZE_THREAD__)
#define FASTINC_UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FASTINC_UNDER_TSAN 1
#endif
#endif

namespace fastinc::test {

#if defined(__SANITIZE_ADDRESS__) || defined(FASTINC_UNDER_TSAN)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

/// n in a plain build; a sixth under a sanitizer, where each of them takes many times as long.
constexpr std::size_t repeats(std::size_t n) {
  return kSanitized ? (n + 5) / 6 : n;
}

using Generator = std::mt19937_64;

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kLargest = std::numeric_limits<float>::max();

/// Uniform in [low, high]. The standard distributions differ between libraries; these don't.
inline float uniform(Generator& random, float low, float high) {
  return low + (high - low) * (static_cast<float>(random() >> 40) * 0x1p-24f);
}

inline std::size_t below(Generator& random, std::size_t n) {
  return static_cast<std::size_t>(random() % n);
}

inline std::vector<float> uniform_floats(Generator& random, std::size_t n, float low = -1.0f,
                                         float high = 1.0f) {
  std::vector<float> values(n);
  for (float& value : values) value = uniform(random, low, high);
  return values;
}

/// An instruction set for as long as this lives.
class UseIsa {
 public:
  explicit UseIsa(std::string_view name) : before_(current_isa()) { set_isa(name); }
  ~UseIsa() { set_isa(before_); }
  UseIsa(const UseIsa&) = delete;
  UseIsa& operator=(const UseIsa&) = delete;

 private:
  std::string before_;
};

/// A number of threads for as long as this lives.
class UseThreads {
 public:
  explicit UseThreads(int count) : before_(num_threads()) { set_num_threads(count); }
  ~UseThreads() { set_num_threads(before_); }
  UseThreads(const UseThreads&) = delete;
  UseThreads& operator=(const UseThreads&) = delete;

 private:
  int before_;
};

/// run(where) under every instruction set of this machine, with 1, 2 and 4 threads each.
template <class Run>
void for_each_isa_and_threads(Run run) {
  for (const std::string& isa : available_isas()) {
    for (const int threads : {1, 2, 4}) {
      const UseIsa use_isa(isa);
      const UseThreads use_threads(threads);
      run(isa + ", " + std::to_string(threads) + " threads");
    }
  }
}

/// Empty when all bytes are the same, else where the first difference is.
template <class T>
std::string byte_difference(const std::vector<T>& got, const std::vector<T>& expected) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::ostringstream text;
  if (got.size() != expected.size()) {
    text << "length " << got.size() << ", not " << expected.size();
    return text.str();
  }
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::memcmp(&got[i], &expected[i], sizeof(T)) == 0) continue;
    text.precision(10);
    text << "[" << i << "] is " << +got[i] << ", not " << +expected[i];
    return text.str();
  }
  return {};
}

template <class T>
void check_same_bytes(const std::vector<T>& got, const std::vector<T>& expected, std::string_view what) {
  const std::string difference = byte_difference(got, expected);
  BOOST_CHECK_MESSAGE(difference.empty(), what << difference);
}

/// `call` throws an Error whose message holds every one of `parts`.
template <class Error, class Call>
void check_throws(Call call, std::initializer_list<std::string_view> parts) {
  try {
    call();
  } catch (const Error& error) {
    const std::string_view message = error.what();
    for (const std::string_view part : parts) {
      BOOST_CHECK_MESSAGE(message.find(part) != message.npos,
                          "'" << message << "' doesn't say '" << part << "'");
    }
    return;
  }
  BOOST_ERROR("nothing was thrown");
}

}  // namespace fastinc::test
