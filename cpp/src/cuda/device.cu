// Which device there is, and what streams are doing.
#include "cuda/launch.h"
#include "fastinc/cuda_ops.h"

namespace fastinc::cuda {

const char* why_unusable() noexcept {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess) {
    (void)cudaGetLastError();
    return cudaGetErrorString(status);
  }
  return devices > 0 ? "" : "no CUDA device";
}

void check_not_capturing(Stream stream, const char* what, const char* instead) {
  cudaStreamCaptureStatus status{};
  check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  if (status == cudaStreamCaptureStatusNone) return;
  throw std::invalid_argument(
      std::string(what) + " waits for the device, which a CUDA graph that is being captured can't; pass " +
      instead);
}

DeviceGuard::DeviceGuard(int device) {
  check(cudaGetDevice(&before_), "cudaGetDevice");
  if (device != before_) check(cudaSetDevice(device), "cudaSetDevice");
}

DeviceGuard::~DeviceGuard() {
  (void)cudaSetDevice(before_);
}

}  // namespace fastinc::cuda
