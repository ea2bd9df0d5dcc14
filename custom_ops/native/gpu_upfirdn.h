// upfirdn_2d on the GPU. Along an axis, output o is the sum of taps[t] * x[i] over all t and i with
//     i * up = o * down - pad0 + t,
// where `taps` is the reversed filter. Only every up-th tap falls on an input sample, so the zeros that upsampling
// inserts are never stored. cpu_upfirdn.h works out an example in numbers.
#pragma once

#include "gpu_common.h"

namespace stylegan2::gpu {

// Adjacent outputs that a thread of the two fast kernels computes together, because they read many of the same samples.
constexpr int kStrip = 4;

// taps[i], with the rows of the filter joined: the reversed filter, or with `flip` the filter itself.
__device__ __forceinline__ float tap(const UpfirdnParams& p, int64_t i) {
  return p.k[p.flip ? i : static_cast<int64_t>(p.k_h) * p.k_w - 1 - i];
}

// ---- Any factors, filter and layout: a thread computes one output and reads the filter from global memory ----

// The first tap that falls on a sample of the image or behind it; `base` is o * down - pad0.
__device__ __forceinline__ int64_t first_tap(int64_t base, int up) {
  return base < 0 ? -base : (up - base % up) % up;
}

template <class T>
__global__ void __launch_bounds__(kThreads) upfirdn_any(UpfirdnParams p) {
  using A = Accumulator<T>;
  const T* x = static_cast<const T*>(p.x);
  const int64_t size = p.major * p.out_h * p.out_w * p.minor;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < size; i += step) {
    const int64_t c = i % p.minor, pixel = i / p.minor;
    const int64_t ox = pixel % p.out_w, row = pixel / p.out_w;
    const int64_t oy = row % p.out_h, m = row / p.out_h;
    const int64_t base_y = oy * p.down_y - p.pad_y0, base_x = ox * p.down_x - p.pad_x0;
    const int64_t tx0 = first_tap(base_x, p.up_x), ix0 = (base_x + tx0) / p.up_x;
    int64_t ty = first_tap(base_y, p.up_y), iy = (base_y + ty) / p.up_y;
    A sum = 0;
    for (; ty < p.k_h && iy < p.in_h; ty += p.up_y, iy++) {
      const int64_t offset = (m * p.in_h + iy) * p.in_w;
      for (int64_t tx = tx0, ix = ix0; tx < p.k_w && ix < p.in_w; tx += p.up_x, ix++)
        sum += tap(p, ty * p.k_w + tx) * to_float(x[(offset + ix) * p.minor + c]);
    }
    store(sum, static_cast<T*>(p.y) + i);
  }
}

template <class T>
int launch_any(const UpfirdnParams& p, void* stream) {
  const int64_t blocks = ceil_div(p.major * p.out_h * p.out_w * p.minor, kThreads);
  return launch(upfirdn_any<T>, dim3(grid_x(blocks)), dim3(kThreads), 0, stream, p);
}

// The kernels below are compiled for UP and DOWN, the same along both axes, and for a filter of K x K taps, or of any
// size if K is 0. UP divides K and kStrip.

// What output o of an axis reads first: the first sample that a tap falls on, which may lie outside the image, and that
// tap.
template <int UP, int DOWN>
struct Start {
  int64_t sample;
  int tap;
  __device__ __forceinline__ Start(int64_t o, int pad0) : sample(ceil_div(o * DOWN - pad0, UP)) {
    tap = static_cast<int>(sample * UP - (o * DOWN - pad0));
  }
};

__device__ __forceinline__ void load_taps(const UpfirdnParams& p, float* taps) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  for (int i = thread; i < p.k_h * p.k_w; i += threads) taps[i] = tap(p, i);
}

// ---- One channel (NCHW): a block computes a tile of one image, or of several small ones, from shared memory ----

// The outputs of a block, and the samples that they read from each image.
struct Tile {
  int w, strips;   // Columns, and strips of kStrip rows.
  int images;
  int in_w, in_h;
};

// Loads the samples of images m0 .. m0 + tile.images from row iy0 and column ix0 on, and zeros outside them.
template <class T>
__device__ __forceinline__ void load_samples(const UpfirdnParams& p, const Tile& tile, int64_t m0, int64_t iy0,
                                             int64_t ix0, float* samples) {
  for (int row = threadIdx.x / 32; row < tile.images * tile.in_h; row += kThreads / 32) {
    const int64_t m = m0 + row / tile.in_h, iy = iy0 + row % tile.in_h;
    const bool inside = m < p.major && iy >= 0 && iy < p.in_h;
    for (int i = threadIdx.x % 32; i < tile.in_w; i += 32) {
      const int64_t ix = ix0 + i, offset = (m * p.in_h + iy) * p.in_w + ix;
      samples[row * tile.in_w + i] =
          inside && ix >= 0 && ix < p.in_w ? to_float(static_cast<const T*>(p.x)[offset]) : 0.0f;
    }
  }
}

template <class T, int UP, int DOWN, int K>
__global__ void __launch_bounds__(kThreads) upfirdn_planes(UpfirdnParams p, Tile tile) {
  const int k_h = K ? K : p.k_h, k_w = K ? K : p.k_w;
  float* taps = reinterpret_cast<float*>(shared_memory);  // [k_h, k_w]
  float* samples = taps + k_h * k_w;                      // [images, in_h, in_w]
  load_taps(p, taps);

  const unsigned tiles_x = static_cast<unsigned>(ceil_div(p.out_w, tile.w));
  const int64_t tile_x = static_cast<int64_t>(blockIdx.x % tiles_x) * tile.w;
  const int64_t tile_y = static_cast<int64_t>(blockIdx.x / tiles_x) * tile.strips * kStrip;
  const Start<UP, DOWN> start_x(tile_x, p.pad_x0), start_y(tile_y, p.pad_y0);

  // This thread computes a strip of a column.
  const int column = threadIdx.x % tile.w, strip = threadIdx.x / tile.w % tile.strips;
  const int image = threadIdx.x / tile.w / tile.strips;
  const int sample_x = (column * DOWN - start_x.tap + UP - 1) / UP, sample_y = strip * kStrip * DOWN / UP;
  const int tap_x = sample_x * UP + start_x.tap - column * DOWN;
  const int rows = ((kStrip - 1) * DOWN + k_h - 1) / UP + 1, columns = K ? K / UP : (k_w - tap_x + UP - 1) / UP;
  const float* window = samples + (image * tile.in_h + sample_y) * tile.in_w + sample_x;

  const int64_t images = tile.images;
  for (int64_t m0 = blockIdx.y * images; m0 < p.major; m0 += gridDim.y * images) {
    load_samples<T>(p, tile, m0, start_y.sample, start_x.sample, samples);
    __syncthreads();
    if (image < tile.images && m0 + image < p.major && tile_x + column < p.out_w) {
      float sums[kStrip] = {};
#pragma unroll
      for (int j = 0; j < rows; j++) {
#pragma unroll
        for (int i = 0; i < columns; i++) {
          const float sample = window[j * tile.in_w + i];
#pragma unroll
          for (int r = 0; r < kStrip; r++) {
            const int tap_y = j * UP + start_y.tap - r * DOWN;
            if (tap_y >= 0 && tap_y < k_h) sums[r] += taps[tap_y * k_w + tap_x + i * UP] * sample;
          }
        }
      }
#pragma unroll
      for (int r = 0; r < kStrip; r++) {
        const int64_t oy = tile_y + strip * kStrip + r, row = (m0 + image) * p.out_h + oy;
        if (oy < p.out_h) store(sums[r], static_cast<T*>(p.y) + row * p.out_w + tile_x + column);
      }
    }
    __syncthreads();
  }
}

template <class T, int UP, int DOWN, int K>
int launch_planes(const UpfirdnParams& p, void* stream) {
  Tile tile;
  tile.w = power_of_two(p.out_w, 32);
  tile.strips = power_of_two(ceil_div(p.out_h, kStrip), kThreads / 32);
  tile.in_w = ((tile.w - 1) * DOWN + p.k_w - 1) / UP + 1;
  tile.in_h = ((tile.strips * kStrip - 1) * DOWN + p.k_h - 1) / UP + 1;
  const int64_t taps = static_cast<int64_t>(p.k_h) * p.k_w * sizeof(float);
  const int64_t plane = static_cast<int64_t>(tile.in_h) * tile.in_w * sizeof(float);
  const int64_t tiles = ceil_div(p.out_w, tile.w) * ceil_div(p.out_h, tile.strips * kStrip);
  if (taps + plane > kSharedBytes || tiles > CUDA_MAX_GRID_X) return launch_any<T>(p, stream);

  const int64_t fit = (kSharedBytes - taps) / plane;
  tile.images = kThreads / (tile.w * tile.strips);
  if (tile.images > fit) tile.images = static_cast<int>(fit);
  if (tile.images > p.major) tile.images = static_cast<int>(p.major);
  const dim3 grid(grid_x(tiles), grid_y(ceil_div(p.major, tile.images)));
  return launch(upfirdn_planes<T, UP, DOWN, K>, grid, dim3(kThreads), taps + tile.images * plane, stream, p, tile);
}

// ---- Channels last (NHWC): a thread computes V channels of a strip of a row ----

template <class T, int V, int UP, int DOWN, int K>
__global__ void __launch_bounds__(kThreads) upfirdn_pixels(UpfirdnParams p) {
  const int k_h = K ? K : p.k_h, k_w = K ? K : p.k_w;
  float* taps = reinterpret_cast<float*>(shared_memory);  // [k_h, k_w]
  load_taps(p, taps);
  __syncthreads();

  const unsigned groups = static_cast<unsigned>(ceil_div(p.minor, V * blockDim.x));
  const int64_t c = (static_cast<int64_t>(blockIdx.x % groups) * blockDim.x + threadIdx.x) * V;
  const int64_t ox = (static_cast<int64_t>(blockIdx.x / groups) * blockDim.y + threadIdx.y) * kStrip;
  if (c >= p.minor || ox >= p.out_w) return;
  const Start<UP, DOWN> start_x(ox, p.pad_x0);
  const int columns = ((kStrip - 1) * DOWN + k_w - 1) / UP + 1;

  for (int64_t row = blockIdx.y; row < p.major * p.out_h; row += gridDim.y) {
    const int64_t m = row / p.out_h;
    const Start<UP, DOWN> start_y(row - m * p.out_h, p.pad_y0);
    float sums[kStrip][V] = {};
#pragma unroll
    for (int j = 0; j < (K ? K / UP : (k_h - start_y.tap + UP - 1) / UP); j++) {
      const int64_t iy = start_y.sample + j;
      if (iy < 0 || iy >= p.in_h) continue;
      const float* row_taps = taps + (start_y.tap + j * UP) * k_w;
#pragma unroll
      for (int i = 0; i < columns; i++) {
        const int64_t ix = start_x.sample + i;
        const int last_tap = i * UP + start_x.tap - (kStrip - 1) * DOWN;  // Of the strip's last output.
        if (ix < 0 || ix >= p.in_w || last_tap >= k_w) continue;
        float samples[V];
        load_vector<V>(static_cast<const T*>(p.x) + ((m * p.in_h + iy) * p.in_w + ix) * p.minor + c, samples);
#pragma unroll
        for (int r = 0; r < kStrip; r++) {
          const int tap_x = last_tap + (kStrip - 1 - r) * DOWN;
          if (tap_x < 0 || tap_x >= k_w) continue;
#pragma unroll
          for (int e = 0; e < V; e++) sums[r][e] += row_taps[tap_x] * samples[e];
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kStrip; r++)
      if (ox + r < p.out_w) store_vector<V>(sums[r], static_cast<T*>(p.y) + (row * p.out_w + ox + r) * p.minor + c);
  }
}

template <class T, int V, int UP, int DOWN, int K>
int launch_pixels(const UpfirdnParams& p, void* stream) {
  const int x = power_of_two(ceil_div(p.minor, V), 64);
  const dim3 block(x, power_of_two(ceil_div(p.out_w, kStrip), kThreads / x));
  const int64_t blocks = ceil_div(p.minor, V * block.x) * ceil_div(p.out_w, kStrip * block.y);
  const int64_t taps = static_cast<int64_t>(p.k_h) * p.k_w * sizeof(float);
  if (taps > kSharedBytes || blocks > CUDA_MAX_GRID_X) return launch_any<T>(p, stream);
  const dim3 grid(grid_x(blocks), grid_y(p.major * p.out_h));
  return launch(upfirdn_pixels<T, V, UP, DOWN, K>, grid, block, taps, stream, p);
}

// ---- The choice of a kernel ----

template <class T, int UP, int DOWN, int K>
int launch_layout(const UpfirdnParams& p, void* stream) {
  if (p.minor == 1) return launch_planes<T, UP, DOWN, K>(p, stream);
  if (p.minor % kVector<T> == 0 && aligned(p.x) && aligned(p.y))
    return launch_pixels<T, kVector<T>, UP, DOWN, K>(p, stream);
  return launch_pixels<T, 1, UP, DOWN, K>(p, stream);
}

template <class T, int UP, int DOWN>
int launch_filter(const UpfirdnParams& p, void* stream) {
  return p.k_h == 4 && p.k_w == 4 ? launch_layout<T, UP, DOWN, 4>(p, stream) : launch_layout<T, UP, DOWN, 0>(p, stream);
}

template <class T>
int launch_upfirdn(const UpfirdnParams& p, void* stream) {
  const bool square = p.up_y == p.up_x && p.down_y == p.down_x;
  if (square && p.up_y == 1 && p.down_y == 1) return launch_filter<T, 1, 1>(p, stream);
  if (square && p.up_y == 2 && p.down_y == 1) return launch_filter<T, 2, 1>(p, stream);
  if (square && p.up_y == 1 && p.down_y == 2) return launch_filter<T, 1, 2>(p, stream);
  return launch_any<T>(p, stream);
}

template <>
inline int launch_upfirdn<double>(const UpfirdnParams& p, void* stream) {
  return launch_any<double>(p, stream);  // Only gradient checks use float64, so its speed does not matter.
}

}  // namespace stylegan2::gpu
