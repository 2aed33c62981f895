// Where a row is: its number in the table's pages.
#pragma once

#include <cstdint>

namespace fastinc {

using Slot = std::uint32_t;
inline constexpr Slot kNoSlot = ~Slot{0};

}  // namespace fastinc
