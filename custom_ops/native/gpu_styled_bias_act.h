// styled_bias_act and its gradient on the GPU, each in one pass over memory. An image is a matrix [rows, columns] in both
// layouts: pixels by channels in NHWC, channels by pixels in NCHW. The sums of the gradient are computed in two steps,
// first within tiles of the matrix, and without atomics: they have the same bits in every run.
#pragma once

#include "gpu_common.h"

namespace stylegan2::gpu {

// V numbers: values[0 .. V) if they are `along` the columns, else V times values[0]; or `otherwise` if values is null.
template <int V, class A>
__device__ __forceinline__ void load_numbers(const float* values, bool along, A otherwise, A (&out)[V]) {
  if (values && along) {
    constexpr int N = V < 4 ? V : 4;
#pragma unroll
    for (int i = 0; i < V; i += N) {
      float part[N];
      load_vector<N>(values + i, part);
#pragma unroll
      for (int e = 0; e < N; e++) out[i + e] = part[e];
    }
    return;
  }
  const A value = values ? A(*values) : otherwise;
#pragma unroll
  for (int e = 0; e < V; e++) out[e] = value;
}

// ---- y ----

template <class T, int V, class I>
__global__ void __launch_bounds__(kThreads) styled_bias_act(StyledBiasActParams p) {
  using A = Accumulator<T>;
  const I rows = p.nchw ? p.channels : p.pixels, columns = p.nchw ? p.pixels : p.channels;
  const I size = p.images * p.pixels * p.channels, step = static_cast<I>(gridDim.x) * kThreads * V;
  const A gain = p.gain, below = gain * p.alpha, clamp = p.clamp;
  for (I first = (static_cast<I>(blockIdx.x) * kThreads + threadIdx.x) * V; first < size; first += step) {
    const I line = first / columns, column = first - line * columns, image = line / rows, row = line - image * rows;
    const I channel = p.nchw ? row : column, pixel = p.nchw ? column : row;
    A x[V], scale[V], noise[V], b[V], out[V];
    load_vector<V>(static_cast<const T*>(p.x) + first, x);
    load_numbers<V>(p.scale ? p.scale + image * p.channels + channel : nullptr, !p.nchw, A(1), scale);
    load_numbers<V>(p.noise ? p.noise + (p.one_noise ? 0 : image * p.pixels) + pixel : nullptr, p.nchw, A(0), noise);
    load_numbers<V>(p.b ? p.b + channel : nullptr, !p.nchw, A(0), b);
#pragma unroll
    for (int e = 0; e < V; e++) {
      const A z = x[e] * scale[e] + (noise[e] + b[e]), value = z * (z > 0 ? gain : below);
      out[e] = value < -clamp ? -clamp : value > clamp ? clamp : value;  // NaN stays NaN.
    }
    store_vector<V>(out, static_cast<T*>(p.y) + first);
  }
}

// ---- The gradient ----

// Rows that a thread computes before the block adds up its sums of rows, and how often it does so in a tile.
constexpr int kTileRows = 4, kTileSteps = 4;

// How the matrix of each image is divided into tiles, one for a block at a time.
struct StyledTiles {
  int block_x, block_y;  // Threads of a block.
  int64_t images, rows, columns;
  int64_t tile_rows, tiles_y, tiles_x;

  // It depends on the shape alone, so that the sums always have the same bits.
  StyledTiles(const StyledBiasActGradParams& p, int vector) : images(p.images) {
    rows = p.nchw ? p.channels : p.pixels;
    columns = p.nchw ? p.pixels : p.channels;
    block_x = power_of_two(ceil_div(columns, vector), 64);
    block_y = kThreads / block_x;
    tile_rows = kTileSteps * kTileRows * block_y;
    tiles_y = ceil_div(rows, tile_rows);
    tiles_x = ceil_div(columns, vector * block_x);
  }
};

// What is added up: the sums of rows and of columns of dz and, for dscale, of dz * x. dscale has a number per channel,
// which is a column in NHWC and a row in NCHW.
template <bool NCHW> constexpr int kRowSums = NCHW ? 2 : 1;
template <bool NCHW> constexpr int kColumnSums = NCHW ? 1 : 2;

// Writes dx; row_sums, [kRowSums, images, rows, tiles_x]; and column_sums, [kColumnSums, images, tiles_y, columns].
template <class T, int V, bool NCHW>
__global__ void __launch_bounds__(kThreads)
styled_bias_act_grad(StyledBiasActGradParams p, StyledTiles t, Accumulator<T>* row_sums, Accumulator<T>* column_sums) {
  using A = Accumulator<T>;
  constexpr int kR = kRowSums<NCHW>, kC = kColumnSums<NCHW>;
  A* sums = reinterpret_cast<A*>(shared_memory);
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  const A gain = p.gain, below = gain * p.alpha, clamp = p.clamp;
  for (int64_t item = blockIdx.x; item < t.images * t.tiles_y * t.tiles_x; item += gridDim.x) {
    const int64_t tile_x = item % t.tiles_x, tile_y = item / t.tiles_x % t.tiles_y, image = item / t.tiles_x / t.tiles_y;
    const int64_t column = (tile_x * blockDim.x + threadIdx.x) * V, begin = tile_y * t.tile_rows;
    const int64_t end = t.rows < begin + t.tile_rows ? t.rows : begin + t.tile_rows;
    const bool inside = column < t.columns;
    const float* scales = p.scale ? p.scale + image * p.channels : nullptr;
    A scale[V], by_column[kC][V] = {};
    if (!NCHW && inside) load_numbers<V>(scales ? scales + column : nullptr, true, A(1), scale);

    for (int64_t base = begin; base < end; base += kTileRows * blockDim.y) {
      A by_row[kTileRows][kR] = {};
#pragma unroll
      for (int k = 0; k < kTileRows; k++) {
        const int64_t row = base + k * blockDim.y + threadIdx.y;
        if (!inside || row >= end) continue;
        const int64_t first = (image * t.rows + row) * t.columns + column;
        A dy[V], y[V], x[V] = {}, dx[V];
        load_vector<V>(static_cast<const T*>(p.dy) + first, dy);
        load_vector<V>(static_cast<const T*>(p.y) + first, y);
        if (p.x) load_vector<V>(static_cast<const T*>(p.x) + first, x);
        if (NCHW) load_numbers<V>(scales ? scales + row : nullptr, false, A(1), scale);
#pragma unroll
        for (int e = 0; e < V; e++) {
          const A dz = fabs(y[e]) >= clamp ? A(0) : dy[e] * (y[e] > 0 ? gain : below);
          dx[e] = dz * scale[e];
          by_row[k][0] += dz;
          by_column[0][e] += dz;
          if constexpr (NCHW) by_row[k][1] += dz * x[e];
          else by_column[1][e] += dz * x[e];
        }
        store_vector<V>(dx, static_cast<T*>(p.dx) + first);
      }
      if (!row_sums) continue;
      const int n = kTileRows * blockDim.y * kR, stride = n | 1;  // Odd, so that the threads meet different banks.
#pragma unroll
      for (int k = 0; k < kTileRows; k++)
        for (int q = 0; q < kR; q++)
          sums[threadIdx.x * stride + (k * blockDim.y + threadIdx.y) * kR + q] = by_row[k][q];
      sum_rows(sums, blockDim.x, stride);
      for (int i = thread; i < n; i += kThreads) {
        const int64_t row = base + i / kR;
        if (row < end) row_sums[((i % kR * t.images + image) * t.rows + row) * t.tiles_x + tile_x] = sums[i];
      }
      __syncthreads();
    }

    if (!column_sums) continue;
    const int n = blockDim.x * V * kC;
    for (int q = 0; q < kC; q++)
      for (int e = 0; e < V; e++) sums[threadIdx.y * n + (q * blockDim.x + threadIdx.x) * V + e] = by_column[q][e];
    sum_rows(sums, blockDim.y, n);
    if (threadIdx.y == 0 && inside)
      for (int q = 0; q < kC; q++)
        for (int e = 0; e < V; e++)
          column_sums[((q * t.images + image) * t.tiles_y + tile_y) * t.columns + column + e] =
              sums[(q * blockDim.x + threadIdx.x) * V + e];
    __syncthreads();
  }
}

// Where the sums of tiles are: of `images` images, `parts` sums of each of `count` numbers.
template <class A>
struct Parts {
  const A* sums;
  int64_t images, parts, count, part_stride, count_stride;
};

// out[image, i], or with `over_images` out[i]: the sum of all parts of number i.
template <class A>
__global__ void __launch_bounds__(kThreads) sum_parts(Parts<A> in, bool over_images, float* out) {
  A* sums = reinterpret_cast<A*>(shared_memory);  // [blockDim.y, blockDim.x]
  const int64_t size = in.count * (over_images ? 1 : in.images), terms = in.parts * (over_images ? in.images : 1);
  for (int64_t base = static_cast<int64_t>(blockIdx.x) * blockDim.x; base < size;
       base += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t i = base + threadIdx.x, image = i / in.count, number = i % in.count;
    A sum = 0;
    if (i < size)
      for (int64_t term = threadIdx.y; term < terms; term += blockDim.y)
        sum += in.sums[(image + term / in.parts) * in.parts * in.count + term % in.parts * in.part_stride +
                       number * in.count_stride];
    sums[threadIdx.y * blockDim.x + threadIdx.x] = sum;
    sum_rows(sums, blockDim.y, blockDim.x);
    if (threadIdx.y == 0 && i < size) out[i] = sums[threadIdx.x];
  }
}

// ---- Launches ----

template <class T, int V>
int launch_styled_bias_act_vectors(const StyledBiasActParams& p, void* stream) {
  const int64_t size = p.images * p.pixels * p.channels;
  const dim3 grid(grid_x(ceil_div(size, kThreads * V)));
  return with_indices(size, [&](auto indices) {
    return launch(styled_bias_act<T, V, typename decltype(indices)::type>, grid, dim3(kThreads), 0, stream, p);
  });
}

template <class T>
int launch_styled_bias_act(const StyledBiasActParams& p, void* stream) {
  const int64_t columns = p.nchw ? p.pixels : p.channels;
  const bool whole_vectors = columns % kVector<T> == 0 && aligned(p.x) && aligned(p.scale) && aligned(p.noise) &&
                             aligned(p.b) && aligned(p.y);
  return whole_vectors ? launch_styled_bias_act_vectors<T, kVector<T>>(p, stream)
                       : launch_styled_bias_act_vectors<T, 1>(p, stream);
}

// Sums of rows, then of columns: the workspace of the gradient, in numbers.
template <bool NCHW>
int64_t styled_row_sums(const StyledBiasActGradParams& p, const StyledTiles& t) {
  const bool wanted = NCHW ? p.dscale || p.db : p.dnoise != nullptr;
  return wanted ? kRowSums<NCHW> * t.images * t.rows * t.tiles_x : 0;
}

template <bool NCHW>
int64_t styled_column_sums(const StyledBiasActGradParams& p, const StyledTiles& t) {
  const bool wanted = NCHW ? p.dnoise != nullptr : p.dscale || p.db;
  return wanted ? kColumnSums<NCHW> * t.images * t.tiles_y * t.columns : 0;
}

// Enough for both layouts and any vectors.
inline int64_t styled_workspace(const StyledBiasActGradParams& p) {
  const StyledTiles t(p, 1);
  const int64_t numbers = p.nchw ? styled_row_sums<true>(p, t) + styled_column_sums<true>(p, t)
                                 : styled_row_sums<false>(p, t) + styled_column_sums<false>(p, t);
  return numbers * (p.dtype == kFloat64 ? sizeof(double) : sizeof(float));
}

template <class A>
int launch_sum_parts(const Parts<A>& in, bool over_images, float* out, void* stream) {
  if (!out) return cudaSuccess;
  const int y = power_of_two(in.parts * (over_images ? in.images : 1), kThreads), x = kThreads / y;
  const dim3 grid(grid_x(ceil_div(in.count * (over_images ? 1 : in.images), x)));
  return launch(sum_parts<A>, grid, dim3(x, y), kThreads * sizeof(A), stream, in, over_images, out);
}

template <class T, int V, bool NCHW>
int launch_styled_bias_act_grad_vectors(const StyledBiasActGradParams& p, void* workspace, void* stream) {
  using A = Accumulator<T>;
  const StyledTiles t(p, V);
  const int64_t num_row_sums = styled_row_sums<NCHW>(p, t), num_column_sums = styled_column_sums<NCHW>(p, t);
  A* row_sums = num_row_sums ? static_cast<A*>(workspace) : nullptr;
  A* column_sums = num_column_sums ? static_cast<A*>(workspace) + num_row_sums : nullptr;
  const int64_t by_rows = t.block_x * (kTileRows * t.block_y * kRowSums<NCHW> | 1);
  const int64_t by_columns = static_cast<int64_t>(kThreads) * V * kColumnSums<NCHW>;
  const int64_t shared = (by_rows > by_columns ? by_rows : by_columns) * sizeof(A);
  const dim3 grid(grid_x(t.images * t.tiles_y * t.tiles_x)), block(t.block_x, t.block_y);
  if (int error = launch(styled_bias_act_grad<T, V, NCHW>, grid, block, shared, stream, p, t, row_sums, column_sums))
    return error;
  const Parts<A> rows{row_sums, t.images, t.tiles_x, t.rows, 1, t.tiles_x};
  const Parts<A> columns{column_sums, t.images, t.tiles_y, t.columns, t.columns, 1};
  const Parts<A>& channels = NCHW ? rows : columns;
  if (int error = launch_sum_parts(NCHW ? columns : rows, p.one_noise, p.dnoise, stream)) return error;
  if (int error = launch_sum_parts(channels, true, p.db, stream)) return error;
  Parts<A> products = channels;  // The sums of dz * x follow those of dz.
  products.sums += t.images * channels.parts * channels.count;
  return launch_sum_parts(products, false, p.dscale, stream);
}

template <class T>
int launch_styled_bias_act_grad(const StyledBiasActGradParams& p, void* workspace, void* stream) {
  constexpr int V = kVector<T>;
  const int64_t columns = p.nchw ? p.pixels : p.channels;
  const bool whole =
      columns % V == 0 && aligned(p.dy) && aligned(p.y) && aligned(p.x) && aligned(p.scale) && aligned(p.dx);
  if (p.nchw)
    return whole ? launch_styled_bias_act_grad_vectors<T, V, true>(p, workspace, stream)
                 : launch_styled_bias_act_grad_vectors<T, 1, true>(p, workspace, stream);
  return whole ? launch_styled_bias_act_grad_vectors<T, V, false>(p, workspace, stream)
               : launch_styled_bias_act_grad_vectors<T, 1, false>(p, workspace, stream);
}

}  // namespace stylegan2::gpu
