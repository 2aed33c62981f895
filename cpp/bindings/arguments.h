// Small arguments and results that several topics share.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

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

inline PoolMode pool_mode(pybind11::handle mode) {
  if (PyUnicode_Check(mode.ptr())) {
    if (PyUnicode_CompareWithASCIIString(mode.ptr(), "sum") == 0) return PoolMode::kSum;
    if (PyUnicode_CompareWithASCIIString(mode.ptr(), "mean") == 0) return PoolMode::kMean;
  }
  throw pybind11::value_error("mode = " + pybind11::repr(mode).cast<std::string>() +
                              " must be 'sum' or 'mean'");
}

/// A vector as a new NumPy array, and back: what states are made of.
template <class T>
pybind11::array_t<T> to_array(const std::vector<T>& values) {
  return pybind11::array_t<T>(static_cast<pybind11::ssize_t>(values.size()), values.data());
}

/// The same without a copy.
template <class T>
pybind11::array_t<T> to_array(std::vector<T>&& values) {
  auto owned = std::make_unique<std::vector<T>>(std::move(values));
  std::vector<T>* const kept = owned.get();
  const pybind11::capsule owner(owned.get(),
                                [](void* vector) { delete static_cast<std::vector<T>*>(vector); });
  owned.release();
  return pybind11::array_t<T>(static_cast<pybind11::ssize_t>(kept->size()), kept->data(), owner);
}

template <class T>
std::vector<T> to_vector(const pybind11::dict& in, const char* name) {
  const auto values = in[name].cast<pybind11::array_t<T, pybind11::array::c_style>>();
  return {values.data(), values.data() + values.size()};
}

}  // namespace fastinc::bindings
