// Parameters by name, for bindings and checkpoints: generated from the registry and each
// XParams::visit_fields.
#include "fastinc/optimizer.h"

#include <cmath>
#include <stdexcept>
#include <type_traits>

#include "fastinc/runtime.h"

namespace fastinc {
namespace {

void check_range(std::string_view name, double value, Range range) {
  const bool inside = range == Range::kPositive      ? static_cast<float>(value) > 0.0f
                      : range == Range::kNonNegative ? value >= 0.0
                      : range == Range::kFactor      ? static_cast<float>(value) > 0.0f && value <= 1.0
                                                     : value >= 0.0 && value < 1.0;
  if (inside && std::isfinite(static_cast<float>(value))) return;
  const char* rule = range == Range::kPositive      ? " must be finite and > 0"
                     : range == Range::kNonNegative ? " must be finite and >= 0"
                     : range == Range::kFactor      ? " must be above 0 and at most 1"
                                                    : " must be in [0, 1)";
  throw std::invalid_argument(std::string(name) + " = " + number_text(value) + rule);
}

template <class Params>
[[noreturn]] void unknown_parameter(std::string_view name) {
  throw std::invalid_argument("'" + std::string(name) + "' is not a parameter of " +
                              std::string(Params::kName));
}

template <class Params>
bool construct_if(std::string_view name, OptimizerParams& out) {
  if (Params::kName != name) return false;
  out = Params{};
  return true;
}

}  // namespace

StateShape state_shape(const OptimizerParams& params) {
  return std::visit(
      [](const auto& p) {
        using Params = std::decay_t<decltype(p)>;
        return StateShape{Params::kElementStates, Params::kRowStates};
      },
      params);
}

float initial_state(const OptimizerParams& params) {
  return std::visit([](const auto& p) { return static_cast<float>(p.initial_state()); }, params);
}

OptimizerParams make_optimizer(std::string_view name) {
  OptimizerParams params;
#define FASTINC_CONSTRUCT(Name) \
  if (construct_if<Name##Params>(name, params)) return params;
  FASTINC_FOR_EACH_OPTIMIZER(FASTINC_CONSTRUCT)
#undef FASTINC_CONSTRUCT
  throw std::invalid_argument("optimizer = '" + std::string(name) + "' is not registered");
}

std::string_view optimizer_name(const OptimizerParams& params) {
  return std::visit([](const auto& p) { return std::decay_t<decltype(p)>::kName; }, params);
}

void set_parameter(OptimizerParams& params, std::string_view name, double value) {
  std::visit(
      [&](auto& p) {
        using Params = std::decay_t<decltype(p)>;
        bool found = false;
        Params::visit_fields(p, [&](std::string_view field, auto& stored, auto... range) {
          if (field != name) return;
          found = true;
          if constexpr (std::is_same_v<std::decay_t<decltype(stored)>, bool>) {
            if (value != 0.0 && value != 1.0) {
              throw std::invalid_argument(std::string(name) + " = " + number_text(value) +
                                          " must be True or False");
            }
            stored = value != 0.0;
          } else {
            (check_range(name, value, range), ...);
            stored = value;
          }
        });
        if (!found) unknown_parameter<Params>(name);
      },
      params);
}

double get_parameter(const OptimizerParams& params, std::string_view name) {
  return std::visit(
      [&](const auto& p) {
        using Params = std::decay_t<decltype(p)>;
        double value = 0.0;
        bool found = false;
        Params::visit_fields(p, [&](std::string_view field, const auto& stored, auto...) {
          if (field != name) return;
          found = true;
          value = static_cast<double>(stored);
        });
        if (!found) unknown_parameter<Params>(name);
        return value;
      },
      params);
}

}  // namespace fastinc
