// Replaces CUDA's header of this name, so that a C++ compiler can build a .cu file into a program that runs its kernels
// on the CPU. The threads of a block run as fibers, one at a time, each until it ends or reaches a barrier. Their order
// is shuffled after each barrier, so data that one thread passes to another without a barrier is sooner or later read
// before it is written. Shared memory is filled with NaNs at first. AddressSanitizer checks every access, including
// those beyond the shared memory of the launch.
#pragma once

#include <math.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __forceinline__ inline
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
using cudaStream_t = void*;

extern dim3 gridDim, blockDim, blockIdx, threadIdx;
void __syncthreads();
cudaError_t cudaGetLastError();
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream);
const char* cudaGetErrorString(cudaError_t error);

namespace cuda_shim {
extern int64_t max_grid_x, max_grid_y;  // run_cases.cc lowers them, so that few blocks must do the work of many.
extern int64_t index_limit;             // It lowers this too, so that small tensors are indexed like large ones.
extern unsigned seed;
void launch(dim3 grid, dim3 block, size_t shared, const std::function<void()>& thread);
}  // namespace cuda_shim

#define CUDA_LAUNCH(kernel, grid, block, shared, stream, ...) \
  cuda_shim::launch(grid, block, shared, [&] { kernel(__VA_ARGS__); })
#define CUDA_MAX_GRID_X cuda_shim::max_grid_x
#define CUDA_MAX_GRID_Y cuda_shim::max_grid_y
#define CUDA_INDEX_LIMIT cuda_shim::index_limit
