// The optimizers' parameters and the registry that every backend, binding and table is generated from.
// The formulas are in src/math, one functor each.
#pragma once

#include <cstddef>
#include <mutex>
#include <string>
#include <string_view>
#include <variant>

namespace fastinc {

/// The values a parameter may take; NaN and infinity are refused everywhere.
enum class Range { kPositive, kNonNegative, kUnitInterval /* [0, 1) */, kFactor /* (0, 1] */ };

struct SgdParams {
  static constexpr std::string_view kName = "sgd";
  static constexpr int kElementStates = 0, kRowStates = 0;  // state floats per weight, per row
  double lr = 0.1, weight_decay = 0.0;

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("lr", self.lr, Range::kNonNegative);
    visit("weight_decay", self.weight_decay, Range::kNonNegative);
  }
  double initial_state() const { return 0.0; }
};

struct MomentumSgdParams {
  static constexpr std::string_view kName = "momentum_sgd";
  static constexpr int kElementStates = 1, kRowStates = 0;
  double lr = 0.1, momentum = 0.9, weight_decay = 0.0;

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("lr", self.lr, Range::kNonNegative);
    visit("momentum", self.momentum, Range::kUnitInterval);
    visit("weight_decay", self.weight_decay, Range::kNonNegative);
  }
  double initial_state() const { return 0.0; }
};

struct AdagradParams {
  static constexpr std::string_view kName = "adagrad";
  static constexpr int kElementStates = 1, kRowStates = 0;
  double lr = 0.1, eps = 1e-8, weight_decay = 0.0;
  bool decoupled_weight_decay = false;
  double initial_accumulator_value = 0.0;
  double forgetting_factor = 1.0;

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("lr", self.lr, Range::kNonNegative);
    visit("eps", self.eps, Range::kPositive);
    visit("weight_decay", self.weight_decay, Range::kNonNegative);
    visit("decoupled_weight_decay", self.decoupled_weight_decay);
    visit("initial_accumulator_value", self.initial_accumulator_value, Range::kNonNegative);
    visit("forgetting_factor", self.forgetting_factor, Range::kFactor);
  }
  double initial_state() const { return initial_accumulator_value; }
};

/// Adagrad with one accumulator a row: the same parameters, another functor.
struct RowWiseAdagradParams : AdagradParams {
  static constexpr std::string_view kName = "rowwise_adagrad";
  static constexpr int kElementStates = 0, kRowStates = 1;
};

struct AdamParams {
  static constexpr std::string_view kName = "adam";
  static constexpr int kElementStates = 2, kRowStates = 1;  // first and second moment; steps of this row
  double lr = 0.001, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.0;
  bool decoupled_weight_decay = false;

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("lr", self.lr, Range::kNonNegative);
    visit("beta1", self.beta1, Range::kUnitInterval);
    visit("beta2", self.beta2, Range::kUnitInterval);
    visit("eps", self.eps, Range::kPositive);
    visit("weight_decay", self.weight_decay, Range::kNonNegative);
    visit("decoupled_weight_decay", self.decoupled_weight_decay);
  }
  double initial_state() const { return 0.0; }
};

struct FtrlParams {
  static constexpr std::string_view kName = "ftrl";
  static constexpr int kElementStates = 2, kRowStates = 0;  // z and n
  double lr = 0.1, beta = 1.0, l1 = 0.0, l2 = 0.0;

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("lr", self.lr, Range::kPositive);
    visit("beta", self.beta, Range::kPositive);
    visit("l1", self.l1, Range::kNonNegative);
    visit("l2", self.l2, Range::kNonNegative);
  }
  double initial_state() const { return 0.0; }
};

/// The registry: each name X has XParams above and a functor X in src/math. Everything else follows from it.
#define FASTINC_FOR_EACH_OPTIMIZER(DO) \
  DO(Sgd)                              \
  DO(MomentumSgd)                      \
  DO(Adagrad)                          \
  DO(RowWiseAdagrad)                   \
  DO(Adam)                             \
  DO(Ftrl)

namespace detail {
template <class Ignored, class... Params>
using VariantOf = std::variant<Params...>;
}  // namespace detail

#define FASTINC_PARAMS_OF(Name) , Name##Params
using OptimizerParams = detail::VariantOf<void FASTINC_FOR_EACH_OPTIMIZER(FASTINC_PARAMS_OF)>;
#undef FASTINC_PARAMS_OF

inline constexpr std::size_t kOptimizerCount = std::variant_size_v<OptimizerParams>;

/// How much state a row carries beside its weights.
struct StateShape {
  int element_states;  // arrays of dim floats
  int row_states;      // single floats
  std::size_t floats(std::size_t dim) const {
    return static_cast<std::size_t>(element_states) * dim + static_cast<std::size_t>(row_states);
  }
};
StateShape state_shape(const OptimizerParams& params);
/// What every float of a new row's state is.
float initial_state(const OptimizerParams& params);

/// Parameters with default values for a registered name; throws std::invalid_argument for another.
OptimizerParams make_optimizer(std::string_view name);
std::string_view optimizer_name(const OptimizerParams& params);

/// Set or read one parameter by name. Booleans are 0 and 1. Throws std::invalid_argument naming the
/// parameter and the value when either isn't valid, and then changes nothing.
void set_parameter(OptimizerParams& params, std::string_view name, double value);
double get_parameter(const OptimizerParams& params, std::string_view name);

/// Parameters that tables share with whoever tunes them: a change takes effect at each table's next batch.
class Optimizer {
 public:
  explicit Optimizer(const OptimizerParams& params) : params_(params), shape_(state_shape(params)) {}

  OptimizerParams params() const {
    const std::lock_guard lock(mutex_);
    return params_;
  }
  void set(std::string_view name, double value) {
    const std::lock_guard lock(mutex_);
    set_parameter(params_, name, value);
  }
  /// Which state there is never changes; what it starts from may.
  const StateShape& shape() const { return shape_; }

 private:
  mutable std::mutex mutex_;
  OptimizerParams params_;
  const StateShape shape_;
};

}  // namespace fastinc
