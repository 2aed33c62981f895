// An optimizer's step over callers' arrays: its arguments, wherever they are.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "bindings/tensor.h"
#include "fastinc/ops.h"
#include "fastinc/optimizer.h"

namespace fastinc::bindings {

/// What doesn't change between calls, its names, is looked at once.
class DenseUpdate {
 public:
  /// parameters, state: what the calls bring, in this order.
  DenseUpdate(const std::string& optimizer, std::vector<std::string> parameters,
              std::vector<std::string> state);

  /// One call's arguments, checked; the rows point into the tensors.
  struct Batch {
    OptimizerParams params;
    DenseRows rows{};
    std::optional<Tensor> weights, ids, grads;
    std::array<std::optional<Tensor>, 3> state;  // as many as DenseRows has room for
  };

  /// values: a float for each of parameters; state: an array for each of state.
  Batch view(const py::tuple& values, py::handle weights, const py::tuple& state, py::handle ids,
             py::handle grads, const Place& place) const;

 private:
  OptimizerParams with(const py::tuple& values) const;
  void view_state(const py::tuple& arrays, const Place& place, Batch& batch) const;
  void check_all_disjoint(const Batch& batch) const;

  OptimizerParams defaults_;
  std::vector<std::string> parameters_, state_;
  std::size_t element_states_ = 0;
};

}  // namespace fastinc::bindings
