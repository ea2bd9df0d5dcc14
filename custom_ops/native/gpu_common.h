// What the CUDA kernels share: element types, vectors of elements, sums over a block, and launches.
#pragma once

#include "gpu_platform.h"
#include "params.h"

extern __shared__ __align__(16) unsigned char shared_memory[];

namespace stylegan2::gpu {

constexpr int kThreads = 256;                // Threads of a block.
constexpr int64_t kSharedBytes = 48 * 1024;  // Shared memory that a block has on every GPU without opting in to more.

// ---- Elements ----

// The type in which sums of elements are computed.
template <class T> struct AccumulatorOf { using type = float; };
template <> struct AccumulatorOf<double> { using type = double; };
template <class T> using Accumulator = typename AccumulatorOf<T>::type;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ double to_float(double x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }

__device__ __forceinline__ void store(float x, float* y) { *y = x; }
__device__ __forceinline__ void store(double x, double* y) { *y = x; }
__device__ __forceinline__ void store(float x, __nv_bfloat16* y) { *y = __float2bfloat16(x); }
__device__ __forceinline__ void store(float x, __half* y) { *y = __float2half(x); }

// V elements that are loaded or stored by one instruction.
template <class T, int V> struct alignas(sizeof(T) * V) Vector { T v[V]; };

// Elements of the widest vector, 16 bytes.
template <class T> constexpr int kVector = 16 / sizeof(T);

template <int V, class T>
__device__ __forceinline__ void load_vector(const T* x, Accumulator<T> (&out)[V]) {
  const Vector<T, V> vector = *reinterpret_cast<const Vector<T, V>*>(x);
#pragma unroll
  for (int e = 0; e < V; e++) out[e] = to_float(vector.v[e]);
}

template <int V, class T>
__device__ __forceinline__ void store_vector(const Accumulator<T> (&x)[V], T* y) {
  Vector<T, V> vector;
#pragma unroll
  for (int e = 0; e < V; e++) store(x[e], &vector.v[e]);
  *reinterpret_cast<Vector<T, V>*>(y) = vector;
}

inline bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// ---- Sums over a block ----

// Adds up the rows of `sums`, [rows, n], into its first row, always in the same order. `rows` is a power of two. All
// threads of the block must call this.
template <class A>
__device__ void sum_rows(A* sums, int rows, int n) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  for (rows /= 2; rows > 0; rows /= 2) {
    __syncthreads();
    for (int i = thread; i < rows * n; i += threads) sums[i] += sums[rows * n + i];
  }
  __syncthreads();
}

// ---- Launches ----

template <class... Params, class... Args>
int launch(void (*kernel)(Params...), dim3 grid, dim3 block, int64_t shared, void* stream, Args... args) {
  CUDA_LAUNCH(kernel, grid, block, static_cast<size_t>(shared), static_cast<cudaStream_t>(stream), args...);
  return cudaGetLastError();
}

template <class T> struct Type { using type = T; };

// Calls f(Type<T>()) with the element type T of `dtype`.
template <class F>
int with_type(DataType dtype, F f) {
  switch (dtype) {
    case kFloat32: return f(Type<float>());
    case kFloat64: return f(Type<double>());
    case kBFloat16: return f(Type<__nv_bfloat16>());
    case kFloat16: return f(Type<__half>());
  }
  return cudaErrorInvalidValue;
}

__host__ __device__ inline int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b > 0); }  // b > 0.

#ifndef CUDA_INDEX_LIMIT  // The tests lower it.
#define CUDA_INDEX_LIMIT (int64_t(1) << 31)
#endif

template <class I> struct Indices { using type = I; };

// Calls f(Indices<I>()) with the type I for the indices of `size` elements: 32 bits where they suffice, because GPUs
// divide numbers of 64 bits many times slower. A loop over the elements may end up to one step, which is about `size`,
// beyond the last.
template <class F>
int with_indices(int64_t size, F f) {
  return size < CUDA_INDEX_LIMIT ? f(Indices<unsigned>()) : f(Indices<int64_t>());
}

// n rounded up to a power of two, but at most `max`, which is one itself.
inline int power_of_two(int64_t n, int max) {
  int power = 1;
  while (power < n && power < max) power *= 2;
  return power;
}

// Blocks for n units of work along an axis of the grid, within its limit. Kernels loop over the units beyond it.
inline unsigned grid_x(int64_t n) { return static_cast<unsigned>(n < CUDA_MAX_GRID_X ? n : CUDA_MAX_GRID_X); }
inline unsigned grid_y(int64_t n) { return static_cast<unsigned>(n < CUDA_MAX_GRID_Y ? n : CUDA_MAX_GRID_Y); }

}  // namespace stylegan2::gpu
