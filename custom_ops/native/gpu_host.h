// Stands in for CUDA's headers where the C++ compiler compiles gpu_kernels.cu for the CPU, that is, the launchers. They
// hand the kernels to the driver (gpu_driver.cc), which knows them by the names of their symbols. The kernels are
// compiled here too, but only so that there is a function of that name: its body is a trap and is never called.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __shared__ __attribute__((weak, visibility("hidden")))  // May stay undefined.

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Every kernel asks for its place in the grid, and the compiler drops what follows a trap.
#define threadIdx (__builtin_trap(), dim3())
#define blockIdx threadIdx
#define blockDim threadIdx
#define gridDim threadIdx
inline void __syncthreads() { __builtin_trap(); }

struct __half { uint16_t bits; };
struct __nv_bfloat16 { uint16_t bits; };
inline float __half2float(__half) { __builtin_trap(); }
inline __half __float2half(float) { __builtin_trap(); }
inline float __bfloat162float(__nv_bfloat16) { __builtin_trap(); }
inline __nv_bfloat16 __float2bfloat16(float) { __builtin_trap(); }

using cudaError_t = int;  // 0, or a CUresult of the driver, or an error of gpu_driver.cc.
using cudaStream_t = void*;
constexpr cudaError_t cudaSuccess = 0, cudaErrorInvalidValue = 1;

namespace stylegan2::driver {

extern thread_local cudaError_t last_error;

// Launches the kernel whose symbol is at this address. params: addresses of its parameters.
cudaError_t launch(const void* kernel, dim3 grid, dim3 block, size_t shared, void* stream, void** params);
cudaError_t fill(void* data, int value, size_t bytes, void* stream);
const char* describe(cudaError_t error);

template <class... Params, size_t... i>
cudaError_t launch_with(const void* kernel, dim3 grid, dim3 block, size_t shared, void* stream,
                        std::tuple<Params...> values, std::index_sequence<i...>) {
  void* params[] = {&std::get<i>(values)...};
  return launch(kernel, grid, block, shared, stream, params);
}

template <class... Params, class... Args>
void launch_kernel(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, void* stream, const Args&... args) {
  last_error = launch_with(reinterpret_cast<const void*>(kernel), grid, block, shared, stream,
                           std::tuple<Params...>(args...), std::index_sequence_for<Params...>());
}

}  // namespace stylegan2::driver

inline cudaError_t cudaGetLastError() { return std::exchange(stylegan2::driver::last_error, cudaSuccess); }
inline cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  return stylegan2::driver::fill(data, value, bytes, stream);
}
inline const char* cudaGetErrorString(cudaError_t error) { return stylegan2::driver::describe(error); }

#define CUDA_LAUNCH(...) stylegan2::driver::launch_kernel(__VA_ARGS__)
#define CUDA_MAX_GRID_X 2147483647
#define CUDA_MAX_GRID_Y 65535
