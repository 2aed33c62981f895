// Small arguments that several topics share.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "fastinc/ops.h"

namespace fastinc::bindings {

/// A handle, not a std::string: that would be a copy made for every call.
inline NonFinite nonfinite_policy(pybind11::handle nonfinite) {
  if (PyUnicode_Check(nonfinite.ptr())) {
    if (PyUnicode_CompareWithASCIIString(nonfinite.ptr(), "raise") == 0) return NonFinite::kRaise;
    if (PyUnicode_CompareWithASCIIString(nonfinite.ptr(), "skip") == 0) return NonFinite::kSkip;
  }
  throw pybind11::value_error("nonfinite = " + pybind11::repr(nonfinite).cast<std::string>() +
                              " must be 'raise' or 'skip'");
}

}  // namespace fastinc::bindings
