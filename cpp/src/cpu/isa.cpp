// Which instruction set runs: detected once, overridden by FASTINC_ISA or set_isa().
#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "cpu/kernels.h"
#include "fastinc/runtime.h"

namespace fastinc {

namespace base {
extern const Kernels kKernels;
}
#ifdef FASTINC_HAVE_X86_LEVELS
namespace v3 {
extern const Kernels kKernels;
}
namespace v4 {
extern const Kernels kKernels;
}
#endif

namespace {

std::vector<const Kernels*> usable_kernels() {
  std::vector<const Kernels*> usable = {&base::kKernels};
#ifdef FASTINC_HAVE_X86_LEVELS
  __builtin_cpu_init();
  // The whole level: the compiler may use any of it. Clang before 18 doesn't know levels by name.
#if defined(__clang__)
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                  __builtin_cpu_supports("popcnt");
#else
  const bool v3 = __builtin_cpu_supports("x86-64-v3");
#endif
  if (v3) usable.push_back(&v3::kKernels);
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  if (v4) usable.push_back(&v4::kKernels);
#endif
  return usable;
}

/// `source` is what the caller calls the name in its error.
const Kernels* find_kernels(std::string_view name, const char* source) {
  std::string known;
  for (const Kernels* k : usable_kernels()) {
    if (name == k->isa) return k;
    known += known.empty() ? k->isa : std::string(", ") + k->isa;
  }
  throw std::invalid_argument(std::string(source) + " = '" + std::string(name) +
                              "' is not available here; this CPU and build have: " + known);
}

std::atomic<const Kernels*>& selected() {
  static std::atomic<const Kernels*> kernels = [] {
    const char* wanted = std::getenv("FASTINC_ISA");
    return wanted != nullptr && *wanted != '\0' ? find_kernels(wanted, "FASTINC_ISA")
                                                : usable_kernels().back();
  }();
  return kernels;
}

}  // namespace

const Kernels& kernels() {
  return *selected().load(std::memory_order_acquire);
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Kernels* k : usable_kernels()) names.emplace_back(k->isa);
  return names;
}

std::string current_isa() {
  return kernels().isa;
}

void set_isa(std::string_view name) {
  selected().store(find_kernels(name, "isa"), std::memory_order_release);
}

}  // namespace fastinc
