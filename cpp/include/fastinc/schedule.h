// How a model's learning rate goes over the events it learns: a factor of the optimizer's, by event number.
#pragma once

#include <cstdint>

namespace fastinc {

/// factor(n) = min(1, (n + 1) / warm_up) * f(n), with f(n) by kind:
///   kConstant           1
///   kInverseSquareRoot  1 up to n = events, then sqrt(events / n) (Vaswani et al. 2017, Raffel et al. 2020)
///   kExponential        max(floor, 2^(-n / events)): events is the half-life
/// A function of n alone, of IEEE operations: how a stream is cut makes no difference.
struct Schedule {
  enum class Kind : std::uint8_t { kConstant, kInverseSquareRoot, kExponential };

  Kind kind = Kind::kConstant;
  double events = 1.0;
  double floor = 0.0;
  double warm_up = 0.0;  // events; 0: none

  bool is_constant() const { return kind == Kind::kConstant && warm_up == 0.0; }
  /// n: events learned before
  double factor(std::uint64_t n) const;
};

/// Throws std::invalid_argument naming the parameter and the value.
void validate(const Schedule& schedule);

}  // namespace fastinc
