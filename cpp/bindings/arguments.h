// Small arguments that several topics share.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "fastinc/ops.h"

namespace fastinc::bindings {

inline NonFinite nonfinite_policy(const std::string& nonfinite) {
  if (nonfinite == "raise") return NonFinite::kRaise;
  if (nonfinite == "skip") return NonFinite::kSkip;
  throw pybind11::value_error("nonfinite = '" + nonfinite + "' must be 'raise' or 'skip'");
}

}  // namespace fastinc::bindings
