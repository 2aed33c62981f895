// Arrays of other libraries by DLPack. All of it needs the GIL.
#pragma once

#include <dlpack/dlpack.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <utility>

namespace fastinc::bindings {

namespace py = pybind11;

/// Where a call has its arrays.
struct Place {
  bool is_cuda = false;
  int device = 0;            // of CUDA
  std::intptr_t stream = 0;  // of CUDA: what the call runs on, as DLPack numbers streams (1: the default one)
};
inline constexpr Place kOnCpu{};

/// Owns what a producer exported, either struct version, and gives it back when it goes.
class DlpackExport {
 public:
  DlpackExport() = default;
  explicit DlpackExport(DLManagedTensorVersioned* versioned) : versioned_(versioned) {}
  explicit DlpackExport(DLManagedTensor* plain) : plain_(plain) {}
  DlpackExport(DlpackExport&& other) noexcept
      : versioned_(std::exchange(other.versioned_, nullptr)), plain_(std::exchange(other.plain_, nullptr)) {}
  DlpackExport& operator=(DlpackExport&& other) noexcept {
    std::swap(versioned_, other.versioned_);
    std::swap(plain_, other.plain_);
    return *this;
  }
  ~DlpackExport() {
    if (versioned_ != nullptr && versioned_->deleter != nullptr) versioned_->deleter(versioned_);
    if (plain_ != nullptr && plain_->deleter != nullptr) plain_->deleter(plain_);
  }
  const DLTensor& tensor() const { return versioned_ != nullptr ? versioned_->dl_tensor : plain_->dl_tensor; }
  bool read_only() const {
    return versioned_ != nullptr && (versioned_->flags & DLPACK_FLAG_BITMASK_READ_ONLY) != 0;
  }

 private:
  DLManagedTensorVersioned* versioned_ = nullptr;
  DLManagedTensor* plain_ = nullptr;
};

/// Asks the object's __dlpack__. Throws, naming the argument, where it refuses, is in another place, or gives
/// what isn't an array. In CUDA memory the producer lets the call's stream wait for its own.
DlpackExport dlpack_export(py::handle object, const char* name, const Place& place);

/// The same through the C functions that a type may offer, some ten times as fast. False, with no error set,
/// where the type has none or anything is unusual (for CUDA, where its stream isn't the call's): then
/// __dlpack__ has the say. Read-only arrays are told from others only where writes is true. tensor points
/// into the object or into held.
bool dlpack_exchange(py::handle object, bool writes, const Place& place, DLTensor& tensor,
                     DlpackExport& held);

/// The CUDA device that an object says it is on; throws, naming the argument, where it is on none.
int cuda_device_of(py::handle object, const char* name);

}  // namespace fastinc::bindings
