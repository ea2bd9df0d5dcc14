// fused_bias_act and its derivatives on the GPU, each in one pass over memory. The sums per channel are computed in two
// steps, first within blocks, and without atomics: they have the same bits in every run.
#pragma once

#include "gpu_common.h"

namespace stylegan2::gpu {

// BiasActParams::coef and coef2, converted to the type of the arithmetic.
template <class A>
struct Polynomials {
  A coef[kMaxOrder + 2], coef2[kMaxOrder + 2];
  explicit Polynomials(const BiasActParams& p) {
    for (int i = 0; i < kMaxOrder + 2; i++) {
      coef[i] = static_cast<A>(p.coef[i]);
      coef2[i] = static_cast<A>(p.coef2[i]);
    }
  }
};

// ---- Activations ----

// coef[0] + coef[1] * x + coef[2] * x^2 + ...
template <class A>
__device__ __forceinline__ A polynomial(const A (&coef)[kMaxOrder + 2], A x) {
  A y = coef[kMaxOrder + 1];
#pragma unroll
  for (int i = kMaxOrder; i >= 0; i--) y = y * x + coef[i];
  return y;
}

// Computed from exp(-|z|), which cannot overflow.
template <class A>
__device__ __forceinline__ A sigmoid(A z) {
  const A e = exp(-fabs(z));
  return (z >= 0 ? A(1) : e) / (1 + e);
}

// sigmoid^(order)(z), computed at -|z| and mirrored, because near sigmoid = 1 the terms of the polynomial cancel.
template <class A>
__device__ __forceinline__ A sigmoid_derivative(const A (&coef)[kMaxOrder + 2], int order, A z) {
  if (order == 0) return sigmoid(z);
  const A y = polynomial(coef, sigmoid(-fabs(z)));
  return z > 0 && order % 2 == 0 ? -y : y;
}

constexpr double kSeluScale = 1.0507009873554804934193349852946;
constexpr double kSeluAlpha = 1.6732632423543772848170429916717;

// act(z).
template <class A>
__device__ __forceinline__ A activation(const BiasActParams& p, A z) {
  switch (p.act) {
    case kLinear: return z;
    case kRelu: return z <= 0 ? 0 : z;  // NaN stays NaN.
    case kLeakyRelu: return z > 0 ? z : z * p.alpha;
    case kTanh: return tanh(z);
    case kSigmoid: return sigmoid(z);
    case kElu: return z < 0 ? expm1(z) : z;
    case kSelu: return A(kSeluScale) * (z < 0 ? A(kSeluAlpha) * expm1(z) : z);
    case kSoftplus: return (z > 0 ? z : 0) + log1p(exp(-fabs(z)));
    case kSwish: return z * sigmoid(z);
  }
  return 0;
}

// act^(order)(z).
template <class A>
__device__ __forceinline__ A derivative(const BiasActParams& p, const Polynomials<A>& poly, A z) {
  const A line = p.order == 1 ? 1 : 0;  // The derivative of a line with slope 1.
  switch (p.act) {
    case kLinear: return line;
    case kRelu: return z > 0 ? line : 0;
    case kLeakyRelu: return z > 0 ? line : line * p.alpha;
    case kTanh: return polynomial(poly.coef, tanh(z));
    case kSigmoid: return sigmoid_derivative(poly.coef, p.order, z);
    case kSoftplus: return sigmoid_derivative(poly.coef, p.order - 1, z);
    case kElu: return z < 0 ? exp(z) : line;
    case kSelu: return A(kSeluScale) * (z < 0 ? A(kSeluAlpha) * exp(z) : line);
    case kSwish:
      return z * sigmoid_derivative(poly.coef, p.order, z) + p.order * sigmoid_derivative(poly.coef2, p.order - 1, z);
  }
  return 0;
}

// ---- V consecutive elements: of one channel, or of V channels if inner is 1 ----

template <class T, int V>
struct Biases {
  using A = Accumulator<T>;
  A b[V], dy_bias[V];

  __device__ __forceinline__ Biases(const BiasActParams& p, int64_t channel) {
    load(p, static_cast<const T*>(p.b), channel, b);
    load(p, static_cast<const T*>(p.dy_bias), channel, dy_bias);
  }

 private:
  __device__ __forceinline__ static void load(const BiasActParams& p, const T* values, int64_t channel, A (&out)[V]) {
    if (values && V > 1 && p.inner == 1) return load_vector<V>(values + channel, out);
    const A value = values ? to_float(values[channel]) : A(0);
#pragma unroll
    for (int e = 0; e < V; e++) out[e] = value;
  }
};

// Computes y[first .. first + V) into `out`, and rounded into y, unless y is null.
template <class T, int V, class A>
__device__ __forceinline__ void apply(const BiasActParams& p, const Polynomials<A>& poly, const Biases<T, V>& bias,
                                      int64_t first, A (&out)[V]) {
  A x[V] = {}, dy[V] = {};
  const A gain = p.gain;
  if (p.x) load_vector<V>(static_cast<const T*>(p.x) + first, x);
  if (p.order > 0) load_vector<V>(static_cast<const T*>(p.dy) + first, dy);
#pragma unroll
  for (int e = 0; e < V; e++) {
    const A point = p.order > 0 && p.ref_is_y ? x[e] : x[e] + bias.b[e];
    out[e] = p.order == 0 ? gain * activation(p, point)
                          : gain * (dy[e] + bias.dy_bias[e]) * derivative(p, poly, point);
  }
  if (p.clamp >= 0) {
    const A clamp = p.clamp;
#pragma unroll
    for (int e = 0; e < V; e++)
      if (p.order > 0) out[e] = fabs(x[e]) >= clamp ? 0 : out[e];
      else out[e] = out[e] < -clamp ? -clamp : out[e] > clamp ? clamp : out[e];  // NaN stays NaN.
  }
  if (p.y) store_vector<V>(out, static_cast<T*>(p.y) + first);
}

// ---- y only ----

template <class T, int V, class I>
__global__ void __launch_bounds__(kThreads) bias_act(BiasActParams p, Polynomials<Accumulator<T>> poly) {
  const I channels = p.channels, inner = p.inner, size = p.outer * p.channels * p.inner;
  const I step = static_cast<I>(gridDim.x) * kThreads * V;
  for (I first = (static_cast<I>(blockIdx.x) * kThreads + threadIdx.x) * V; first < size; first += step) {
    Accumulator<T> out[V];
    apply(p, poly, Biases<T, V>(p, (inner == 1 ? first : first / inner) % channels), first, out);
  }
}

// ---- y and db ----

// The number of parts that the sum of a channel is split into: each block should have enough work, and every GPU enough
// blocks. It depends on the shape alone.
inline int64_t db_parts(const BiasActParams& p) {
  const int64_t block_channels = p.inner > 1 ? 1 : p.channels < 64 ? p.channels : 64;  // Roughly.
  const int64_t by_work = p.outer * p.inner * block_channels / 8192;
  const int64_t by_blocks = ceil_div(2048 * block_channels, p.channels);
  const int64_t parts = by_work < by_blocks ? by_work : by_blocks;
  return parts > 1 ? parts : 1;
}

// NCHW: a block computes one part of one channel. partial: [channels, parts].
template <class T, int V, class I>
__global__ void __launch_bounds__(kThreads)
bias_act_planes(BiasActParams p, Polynomials<Accumulator<T>> poly, Accumulator<T>* partial, int64_t parts) {
  using A = Accumulator<T>;
  A* sums = reinterpret_cast<A*>(shared_memory);  // [kThreads]
  const I vectors = p.inner / V;
  const int64_t all = p.outer * vectors;
  for (int64_t item = blockIdx.x; item < p.channels * parts; item += gridDim.x) {
    const int64_t channel = item / parts, part = item % parts;
    const Biases<T, V> bias(p, channel);
    A sum = 0;
    const I end = all * (part + 1) / parts;
    for (I i = all * part / parts + threadIdx.y; i < end; i += kThreads) {
      A out[V];
      apply(p, poly, bias, ((i / vectors * p.channels + channel) * vectors + i % vectors) * V, out);
#pragma unroll
      for (int e = 0; e < V; e++) sum += out[e];
    }
    sums[threadIdx.y] = sum;
    sum_rows(sums, blockDim.y, 1);
    if (threadIdx.y == 0) partial[item] = sums[0];
  }
}

// NHWC: a block computes one part of blockDim.x * V channels. partial: [channels, parts].
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
bias_act_pixels(BiasActParams p, Polynomials<Accumulator<T>> poly, Accumulator<T>* partial, int64_t parts) {
  using A = Accumulator<T>;
  A* sums = reinterpret_cast<A*>(shared_memory);  // [blockDim.y, blockDim.x, V]
  const int64_t groups = ceil_div(p.channels, V * blockDim.x);
  for (int64_t item = blockIdx.x; item < groups * parts; item += gridDim.x) {
    const int64_t channel = (item % groups * blockDim.x + threadIdx.x) * V, part = item / groups;
    A sum[V] = {};
    if (channel < p.channels) {
      const Biases<T, V> bias(p, channel);
      for (int64_t row = p.outer * part / parts + threadIdx.y; row < p.outer * (part + 1) / parts; row += blockDim.y) {
        A out[V];
        apply(p, poly, bias, row * p.channels + channel, out);
#pragma unroll
        for (int e = 0; e < V; e++) sum[e] += out[e];
      }
    }
    const int own = threadIdx.x * V;  // This thread's channels within the block.
    for (int e = 0; e < V; e++) sums[threadIdx.y * blockDim.x * V + own + e] = sum[e];
    sum_rows(sums, blockDim.y, blockDim.x * V);
    if (threadIdx.y == 0 && channel < p.channels)
      for (int e = 0; e < V; e++) partial[(channel + e) * parts + part] = sums[own + e];
  }
}

// db[channel] = sum of partial[channel]. A block computes one channel.
template <class T>
__global__ void __launch_bounds__(kThreads)
sum_partial(const Accumulator<T>* partial, T* db, int64_t channels, int64_t parts) {
  using A = Accumulator<T>;
  A* sums = reinterpret_cast<A*>(shared_memory);  // [blockDim.y]
  for (int64_t channel = blockIdx.x; channel < channels; channel += gridDim.x) {
    A sum = 0;
    for (int64_t i = threadIdx.y; i < parts; i += blockDim.y) sum += partial[channel * parts + i];
    sums[threadIdx.y] = sum;
    sum_rows(sums, blockDim.y, 1);
    if (threadIdx.y == 0) store(sums[0], db + channel);
  }
}

// ---- Launches ----

template <class T, int V>
int launch_bias_act_vectors(const BiasActParams& p, void* workspace, void* stream) {
  using A = Accumulator<T>;
  const Polynomials<A> poly(p);
  if (!p.db) {
    const int64_t size = p.outer * p.channels * p.inner;
    const dim3 grid(grid_x(ceil_div(size, kThreads * V)));
    return with_indices(size, [&](auto indices) {
      return launch(bias_act<T, V, typename decltype(indices)::type>, grid, dim3(kThreads), 0, stream, p, poly);
    });
  }
  const int64_t parts = db_parts(p);
  A* partial = static_cast<A*>(workspace);
  int error;
  if (p.inner > 1) {
    const dim3 grid(grid_x(p.channels * parts)), block(1, kThreads);
    error = with_indices(p.outer * p.channels * p.inner, [&](auto indices) {
      return launch(bias_act_planes<T, V, typename decltype(indices)::type>, grid, block, kThreads * sizeof(A), stream,
                    p, poly, partial, parts);
    });
  } else {
    const int x = power_of_two(ceil_div(p.channels, V), 32);
    const dim3 grid(grid_x(ceil_div(p.channels, V * x) * parts)), block(x, kThreads / x);
    error = launch(bias_act_pixels<T, V>, grid, block, kThreads * V * sizeof(A), stream, p, poly, partial, parts);
  }
  if (error) return error;
  const dim3 block(1, power_of_two(parts, kThreads));
  return launch(sum_partial<T>, dim3(grid_x(p.channels)), block, block.y * sizeof(A), stream,
                static_cast<const A*>(partial), static_cast<T*>(p.db), p.channels, parts);
}

template <class T>
int launch_bias_act(const BiasActParams& p, void* workspace, void* stream) {
  constexpr int V = kVector<T>;
  const bool whole_vectors =
      p.inner == 1 ? p.channels % V == 0 && aligned(p.b) && aligned(p.dy_bias) : p.inner % V == 0;
  if (whole_vectors && aligned(p.x) && aligned(p.dy) && aligned(p.y))
    return launch_bias_act_vectors<T, V>(p, workspace, stream);
  return launch_bias_act_vectors<T, 1>(p, workspace, stream);
}

}  // namespace stylegan2::gpu
