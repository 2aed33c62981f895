// Calls into a model that many threads share.
#pragma once

#include <mutex>
#include <shared_mutex>

#include "bindings/gil.h"

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

}  // namespace fastinc::bindings
