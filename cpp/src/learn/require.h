// Arguments and states that don't fit are refused before anything changes.
#pragma once

#include <stdexcept>
#include <string>

namespace fastinc {

/// Throws std::invalid_argument unless it holds.
inline void require(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

}  // namespace fastinc
