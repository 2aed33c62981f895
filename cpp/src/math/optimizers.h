// All functors, checked against the registry in fastinc/optimizer.h.
#pragma once

#include <type_traits>

#include "fastinc/optimizer.h"
#include "math/adagrad.h"
#include "math/adam.h"
#include "math/ftrl.h"
#include "math/sgd.h"

namespace FASTINC_ISA_NAMESPACE {

#define FASTINC_CHECK(Name) \
  static_assert(std::is_same_v<Name::Params, Name##Params>, "functor " #Name " must use " #Name "Params");
FASTINC_FOR_EACH_OPTIMIZER(FASTINC_CHECK)
#undef FASTINC_CHECK

}  // namespace FASTINC_ISA_NAMESPACE
