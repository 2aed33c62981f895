// A caller's array: NumPy by its buffer, anything else by DLPack. Never copied; the one place arguments are
// checked.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace fastinc::bindings {

namespace py = pybind11;

enum class DType : std::uint8_t { kFloat32, kFloat64, kInt32, kInt64, kUint8, kOther };

/// Accepts any length along this axis.
inline constexpr std::int64_t kAny = -1;

/// Whether a function writes to the array.
enum class Access : std::uint8_t { kRead, kWrite };

/// Views CPU memory for as long as it lives. Made with the GIL held; data() may be used without it.
class Tensor {
 public:
  /// Throws TypeError or ValueError naming the argument: not an array, not on the CPU, not contiguous (C
  /// order), read-only where it is written to, wrong dtype or shape.
  Tensor(py::handle object, const char* name, Access access, std::initializer_list<DType> dtypes,
         std::initializer_list<std::int64_t> shape);

  DType dtype() const { return dtype_; }
  std::size_t size(std::size_t axis) const { return static_cast<std::size_t>(shape_[axis]); }
  std::size_t bytes() const;
  template <class T>
  T* data() const {
    return static_cast<T*>(data_);
  }
  template <class T>
  std::span<const T> span() const {
    return {static_cast<const T*>(data_), size(0)};
  }

 private:
  void view_numpy(py::handle object, const char* name, Access access);
  void view_dlpack(py::handle object, const char* name, Access access);
  void check_layout(const char* name, bool contiguous, bool writable, Access access) const;

  void* data_ = nullptr;
  DType dtype_ = DType::kOther;
  std::string dtype_name_;
  std::vector<std::int64_t> shape_;
  py::object keep_alive_;
};

/// (n,) or (n, dim) arguments in one line each.
Tensor float32_matrix(py::handle object, const char* name, Access access, std::int64_t rows,
                      std::int64_t dim);
Tensor float32_vector(py::handle object, const char* name, Access access, std::int64_t n);
Tensor int64_vector(py::handle object, const char* name, std::int64_t n = kAny);

/// ids: (n,) int32 or int64. Widened to int64 in storage where they are int32: codes are few beside rows.
class Ids {
 public:
  explicit Ids(py::handle object, const char* name = "ids");
  std::span<const std::int64_t> span() const { return ids_; }
  std::int64_t count() const { return static_cast<std::int64_t>(ids_.size()); }
  const Tensor& tensor() const { return tensor_; }

 private:
  Tensor tensor_;
  std::vector<std::int64_t> widened_;
  std::span<const std::int64_t> ids_;
};

/// Throws ValueError when an array that is written to shares memory with another argument.
void check_disjoint(const Tensor& written, const char* written_name, const Tensor& other,
                    const char* other_name);

/// Runs work() without the GIL: it may wait for another thread's batch, and no Python thread should wait with
/// it. Not a destructor's job: taking the GIL back at interpreter exit ends a daemon thread by unwinding it.
template <class Work>
auto without_gil(Work&& work) {
  using Result = std::invoke_result_t<Work>;
  std::exception_ptr error;
  PyThreadState* const state = PyEval_SaveThread();
  if constexpr (std::is_void_v<Result>) {
    try {
      work();
    } catch (...) {
      error = std::current_exception();
    }
    PyEval_RestoreThread(state);
    if (error) std::rethrow_exception(error);
  } else {
    std::optional<Result> result;
    try {
      result.emplace(work());
    } catch (...) {
      error = std::current_exception();
    }
    PyEval_RestoreThread(state);
    if (error) std::rethrow_exception(error);
    return std::move(*result);
  }
}

}  // namespace fastinc::bindings
