// What a search scores.
#pragma once

#include <cstdint>

namespace fastinc {

/// The best come first: largest inner product or cosine, smallest squared distance.
enum class Metric : std::uint8_t { kIp, kCosine, kL2 };

}  // namespace fastinc
