#include "store/admission.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "math/random.h"

namespace fastinc {
namespace {

constexpr std::size_t kMaxWidth = std::size_t{1} << 38;  // 2^32 lines: as many as half a hash tells apart
constexpr std::uint32_t kMost = 255;

std::size_t line_count(std::size_t width, std::size_t line) {
  if (width > kMaxWidth) {
    throw std::length_error("admission: width = " + std::to_string(width) + " is more than " +
                            std::to_string(kMaxWidth));
  }
  return std::bit_ceil(std::max(width, line)) / line;
}

}  // namespace

CountMin::CountMin(std::size_t width, std::uint64_t salt)
    : lines_(line_count(width, kLine)), key_(base::mix_bits(salt + 0x9e3779b97f4a7c15ull)) {}

CountMin::Place CountMin::place(std::int64_t id) const noexcept {
  const std::uint64_t bits = base::mix_bits(static_cast<std::uint64_t>(id) ^ key_);
  Place place{(bits >> 32) & (lines_.size() - 1), {}};
  for (std::size_t q = 0; q < 4; ++q) {
    place.at[q] = static_cast<std::uint8_t>(q * kQuarter + (bits >> (4 * q)) % kQuarter);
  }
  return place;
}

std::uint32_t CountMin::estimate(std::int64_t id) const noexcept {
  const Place p = place(id);
  const std::uint8_t* c = lines_[p.line].counters;
  return std::min(std::min(c[p.at[0]], c[p.at[1]]), std::min(c[p.at[2]], c[p.at[3]]));
}

std::uint32_t CountMin::add(std::int64_t id, std::uint32_t times) noexcept {
  const Place p = place(id);
  std::uint8_t* c = lines_[p.line].counters;
  const std::uint32_t least = std::min(std::min(c[p.at[0]], c[p.at[1]]), std::min(c[p.at[2]], c[p.at[3]]));
  const std::uint32_t sightings = std::min(times, kMost);
  const auto raised = static_cast<std::uint8_t>(std::min(least + sightings, kMost));
  for (const std::uint8_t at : p.at) c[at] = std::max(c[at], raised);
  fade(sightings);
  return raised;
}

void CountMin::fade(std::uint64_t sightings) noexcept {
  const std::uint64_t before = additions_ / kFadingSightings;
  additions_ += sightings;
  for (std::uint64_t step = before; step != additions_ / kFadingSightings; ++step) {
    for (std::uint8_t& counter : lines_[step & (lines_.size() - 1)].counters) counter >>= 1;
  }
}

void CountMin::clear() noexcept {
  std::fill(lines_.begin(), lines_.end(), Line{});
  additions_ = 0;
}

std::vector<std::uint8_t> CountMin::counters() const {
  std::vector<std::uint8_t> counters(width());
  std::memcpy(counters.data(), lines_.data(), counters.size());
  return counters;
}

void CountMin::restore(std::span<const std::uint8_t> counters, std::uint64_t additions) {
  if (counters.size() != width()) {
    throw std::invalid_argument("admission: " + std::to_string(counters.size()) +
                                " counters can't be restored where the width is " + std::to_string(width()));
  }
  std::memcpy(static_cast<void*>(lines_.data()), counters.data(), counters.size());
  additions_ = additions;
}

}  // namespace fastinc
