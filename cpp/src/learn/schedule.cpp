#include "fastinc/schedule.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "fastinc/runtime.h"
#include "math/scalar.h"

namespace fastinc {
namespace {

/// 2^-x for x >= 0 by square roots, which IEEE rounds alike everywhere: libm's exp2 is of its version.
double half_to_the(double x) {
  if (x >= 1100.0) return 0.0;
  const double whole = std::floor(x);
  double rest = x - whole, result = 1.0, root = 0.5;
  for (int bit = 0; bit < 40 && rest > 0.0; ++bit) {
    root = base::square_root(root);
    rest += rest;
    if (rest < 1.0) continue;
    rest -= 1.0;
    result *= root;
  }
  return std::ldexp(result, -static_cast<int>(whole));
}

}  // namespace

double Schedule::factor(std::uint64_t n) const {
  const auto at = static_cast<double>(n);
  double factor = 1.0;
  if (kind == Kind::kInverseSquareRoot && at > events) factor = base::square_root(events / at);
  if (kind == Kind::kExponential) factor = std::max(floor, half_to_the(at / events));
  return at + 1.0 < warm_up ? factor * ((at + 1.0) / warm_up) : factor;
}

void validate(const Schedule& s) {
  const auto refuse = [](const char* name, double value, const char* rule) {
    throw std::invalid_argument(std::string(name) + " = " + number_text(value) + " must be " + rule);
  };
  const auto is_count = [](double value, double least) { return std::isfinite(value) && value >= least; };
  if (s.kind == Schedule::Kind::kInverseSquareRoot && !is_count(s.events, 1.0)) {
    refuse("events", s.events, "finite and at least 1");
  }
  if (s.kind == Schedule::Kind::kExponential && !(std::isfinite(s.events) && s.events > 0.0)) {
    refuse("half_life", s.events, "finite and > 0");
  }
  if (!(s.floor >= 0.0 && s.floor <= 1.0)) refuse("floor", s.floor, "from 0 to 1");
  if (!is_count(s.warm_up, 0.0)) refuse("events", s.warm_up, "finite and >= 0");
}

}  // namespace fastinc
