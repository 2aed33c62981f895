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

void synchronize(Stream stream) {
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

void check_not_capturing(Stream stream, const char* what, const char* instead) {
  cudaStreamCaptureStatus status{};
  check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  if (status == cudaStreamCaptureStatusNone) return;
  throw std::invalid_argument(
      std::string(what) + " waits for the device, which a CUDA graph that is being captured can't; pass " +
      instead);
}

DeviceBuffer::DeviceBuffer(std::size_t bytes, Stream stream) : bytes_(bytes), stream_(stream) {
  check(cudaGetDevice(&device_), "cudaGetDevice");
  if (bytes > 0) check(cudaMallocAsync(&data_, bytes, stream), "cudaMallocAsync");
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ == nullptr) return;
  int current = device_;  // the default stream is that of whichever device is current
  (void)cudaGetDevice(&current);
  if (current != device_) (void)cudaSetDevice(device_);
  (void)cudaFreeAsync(data_, stream_);
  if (current != device_) (void)cudaSetDevice(current);
}

void DeviceBuffer::from_host(const void* host) {
  if (bytes_ == 0) return;
  check(cudaMemcpyAsync(data_, host, bytes_, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
}

void DeviceBuffer::to_host(void* host) const {
  if (bytes_ > 0)
    check(cudaMemcpyAsync(host, data_, bytes_, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

DeviceGuard::DeviceGuard(int device) {
  check(cudaGetDevice(&before_), "cudaGetDevice");
  changed_ = device != before_;
  if (changed_) check(cudaSetDevice(device), "cudaSetDevice");
}

DeviceGuard::~DeviceGuard() {
  if (changed_) (void)cudaSetDevice(before_);
}

}  // namespace fastinc::cuda
