// Calls into a model that many threads share.
#pragma once

#include <pybind11/numpy.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <shared_mutex>

#include "bindings/gil.h"
#include "bindings/tensor.h"

namespace fastinc::bindings {

/// What read() returns, between two batches of the model.
template <class Model, class Read>
auto read_model(const Model& model, Read read) {
  return without_gil([&] {
    const std::shared_lock lock(model.mutex);
    return read();
  });
}

/// A change to the model between two of its batches.
template <class Model, class Change>
void change_model(Model& model, Change change) {
  without_gil([&] {
    const std::unique_lock lock(model.mutex);
    change();
  });
}

template <class Member>
struct ClassOf;
template <class Result, class Class>
struct ClassOf<Result (Class::*)() const> {
  using Type = Class;
};

/// A property of a model, such as a counter.
template <auto Member, class Model = typename ClassOf<decltype(Member)>::Type>
auto locked(const Model& model) {
  return read_model(model, [&] { return (model.*Member)(); });
}

/// (items, scores) of make(users, excluded, scores, items): a list of k for each user.
template <class Model, class Make>
pybind11::tuple make_lists(const Model& model, pybind11::handle users_in, std::size_t k,
                           pybind11::handle excluded_in, Make make) {
  const Tensor users = int64_vector(users_in, "users");
  const Tensor excluded = int64_vector(excluded_in, "exclude");
  const auto n = static_cast<pybind11::ssize_t>(users.size(0)), columns = static_cast<pybind11::ssize_t>(k);
  pybind11::array_t<float> scores({n, columns});
  pybind11::array_t<std::int64_t> items({n, columns});
  float* scores_out = scores.mutable_data();
  std::int64_t* items_out = items.mutable_data();
  read_model(model,
             [&] { make(users.span<std::int64_t>(), excluded.span<std::int64_t>(), scores_out, items_out); });
  return pybind11::make_tuple(items, scores);
}

}  // namespace fastinc::bindings
