// upfirdn_2d for what the networks ask for nearly always: separable filters of up to four taps a phase, many channels last or one
// channel per row. Sixteen floats at a time; compilers split the vectors where the CPU's are smaller.
#pragma once

#include <vector>

#include "cpu_common.h"
#include "params.h"

namespace stylegan2 {

typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
constexpr int kLanes = 16;

// ---- Positions along an axis ----

// Where the samples of an axis come from: output o is the sum over j of filter[tap(o) + j * up] * input[first(o) + j].
struct Axis {
  int up, down, taps;  // taps: of a phase, at most.
  int64_t pad0;

  Axis(int up, int down, int64_t pad0, int size) : up(up), down(down), taps((size + up - 1) / up), pad0(pad0) {}

  // The first input sample that output o reads (may lie outside), and the index of the filter's tap on it.
  void locate(int64_t o, int64_t* first, int* tap) const {
    const int64_t position = o * down - pad0;
    const int64_t remainder = ((-position) % up + up) % up;
    *tap = static_cast<int>(remainder);
    *first = (position + remainder) / up;
  }

  // The same for the next output, without a division.
  INLINE void advance(int64_t* first, int* tap) const {
    for (*tap -= down; *tap < 0; *tap += up) ++*first;
  }
};

// ---- Sixteen elements from and to memory ----

template <typename V>
INLINE V load_as(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof(V));
  return v;
}

template <typename T>
INLINE Floats load(const T* p) {
  if constexpr (std::is_same_v<T, float>) {
    return load_as<Floats>(p);
  } else if constexpr (std::is_same_v<T, Eigen::bfloat16>) {
    return (Floats)(__builtin_convertvector(load_as<Halves>(p), Words) << 16);
  } else {
    Floats v;
    load_row<T>(p, reinterpret_cast<float*>(&v), kLanes);
    return v;
  }
}

template <typename V>
INLINE void store_as(void* p, V v, bool stream) {
#if defined(__AVX512F__)
  if (stream && sizeof(V) == 64) return _mm512_stream_si512(static_cast<__m512i*>(p), load_as<__m512i>(&v));
#endif
#if defined(__AVX__)
  if (stream) {
    for (size_t i = 0; i < sizeof(V); i += 32)
      _mm256_stream_si256(reinterpret_cast<__m256i*>(static_cast<char*>(p) + i), load_as<__m256i>(reinterpret_cast<char*>(&v) + i));
    return;
  }
#endif
  std::memcpy(p, &v, sizeof(V));
}

// `stream` only where p is a multiple of the size of sixteen elements.
template <typename T>
INLINE void store(T* p, Floats v, bool stream) {
  if constexpr (std::is_same_v<T, float>) {
    store_as(p, v, stream);
  } else if constexpr (std::is_same_v<T, Eigen::bfloat16>) {
    const Words bits = (Words)v;
    const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Words nan = (bits >> 16) | 0x40;
    store_as(p, __builtin_convertvector((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded, Halves), stream);
  } else {
    Halves h;
    convert_row<T>(reinterpret_cast<float*>(&v), reinterpret_cast<T*>(&h), kLanes);
    store_as(p, h, stream);
  }
}

template <typename T>
INLINE bool can_stream(const T* p, int64_t row) {
  return reinterpret_cast<uintptr_t>(p) % (kLanes * sizeof(T)) == 0 && row % kLanes == 0;
}

// ---- Channels last ----
// Two output rows at once, 16 * N channels at a time, marching along the row: `window` holds what the filter down the columns gives for
// the columns that the filter along the row needs next. Every input is read from memory once and stays in the second-level cache.

template <typename T, int kTaps, int kStep, int N>
INLINE void march(const T* const* rows, const T* ahead, int ahead_rows, const float* wy0, const float* wy1, const Axis& axis, const float* wx, int64_t in_w, int64_t c,
                  T* y0, T* y1, int64_t out_w, bool stream) {
  Floats window[2][kTaps][N];
  int tap;
  int64_t next;  // The first column that output o needs ...
  axis.locate(0, &next, &tap);
  int64_t position = next - kTaps;  // ... and the one that the window begins with.
  for (int64_t o = 0; o < out_w; o++, y0 += c, y1 += c) {
    for (; position < next; position++) {
      for (int j = 0; j + 1 < kTaps; j++)
        for (int n = 0; n < N; n++) window[0][j][n] = window[0][j + 1][n], window[1][j][n] = window[1][j + 1][n];
      const int64_t column = position + kTaps;
      for (int j = 0; j < ahead_rows; j++)
        for (int n = 0; n < N; n++) __builtin_prefetch(ahead + (j * in_w + column) * c + n * kLanes, 0, 2);
      for (int n = 0; n < N; n++) {
        Floats sum0 = {}, sum1 = {};
        if (column >= 0 && column < in_w) {
          for (int j = 0; j < kTaps + kStep; j++) {
            const Floats x = load(rows[j] + column * c + n * kLanes);
            if (j < kTaps) sum0 += x * wy0[j];
            if (j >= kStep) sum1 += x * wy1[j - kStep];
          }
        }
        window[0][kTaps - 1][n] = sum0;
        window[1][kTaps - 1][n] = sum1;
      }
    }
    const float* w = wx + tap * kTaps;
    for (int n = 0; n < N; n++) {
      Floats sum0 = window[0][0][n] * w[0], sum1 = window[1][0][n] * w[0];
      for (int j = 1; j < kTaps; j++) sum0 += window[0][j][n] * w[j], sum1 += window[1][j][n] * w[j];
      store(y0 + n * kLanes, sum0, stream);
      store(y1 + n * kLanes, sum1, stream);
    }
    axis.advance(&next, &tap);
  }
}

template <typename T, int kTaps, int kStep>
void two_rows(const T* const* rows, const T* ahead, int ahead_rows, const float* wy0, const float* wy1, const Axis& axis, const float* wx, const UpfirdnParams& p,
              T* y0, T* y1, bool stream) {
  const T* shifted[kTaps + kStep];
  int64_t c = 0;
  const auto at = [&] { for (int j = 0; j < kTaps + kStep; j++) shifted[j] = rows[j] + c; };
  for (; c + 2 * kLanes <= p.minor; c += 2 * kLanes) {
    at();
    march<T, kTaps, kStep, 2>(shifted, ahead + c, ahead_rows, wy0, wy1, axis, wx, p.in_w, p.minor, y0 + c, y1 + c, p.out_w, stream);
  }
  if (c < p.minor) {
    at();
    march<T, kTaps, kStep, 1>(shifted, ahead + c, ahead_rows, wy0, wy1, axis, wx, p.in_w, p.minor, y0 + c, y1 + c, p.out_w, stream);
  }
}

// Output rows [y0, y1) of the images x and y; at least two. Weights are those of the phases, kTaps each.
template <typename T, int kTaps>
void channels_last_band(const UpfirdnParams& p, const Axis& axis_y, const Axis& axis_x, const float* wy, const float* wx, const T* x, T* y,
                        int64_t y0, int64_t y1, const T* zeros, bool stream) {
  const int64_t in_row = p.in_w * p.minor, out_row = p.out_w * p.minor;
  for (int64_t oy = y0; oy < y1; oy += 2) {
    if (oy + 1 == y1) oy--;  // The last row of an odd number: once more, with the one before.
    int tap0, tap1;
    int64_t first0, first1;
    axis_y.locate(oy, &first0, &tap0);
    axis_y.locate(oy + 1, &first1, &tap1);
    const int step = static_cast<int>(first1 - first0);
    const T* rows[kTaps + 2];
    for (int j = 0; j < kTaps + step; j++) rows[j] = first0 + j >= 0 && first0 + j < p.in_h ? x + (first0 + j) * in_row : zeros;
    const auto run = step == 0 ? two_rows<T, kTaps, 0> : step == 1 ? two_rows<T, kTaps, 1> : two_rows<T, kTaps, 2>;
    const int64_t done = first0 + kTaps + step;
    run(rows, x + done * in_row, oy + 2 < y1 && done + 4 <= p.in_h ? (2 * p.down_y + p.up_y - 1) / p.up_y : 0, wy + tap0 * kTaps, wy + tap1 * kTaps, axis_x, wx, p, y + oy * out_row, y + (oy + 1) * out_row, stream);
  }
}

// ---- One channel per row ----
// Down the columns into a row of floats in the first-level cache, then along it.

// [a0 b0 a1 b1 ...] of the first and of the second eight of a and b.
INLINE Floats zip_low(Floats a, Floats b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
INLINE Floats zip_high(Floats a, Floats b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
// Elements 0, 2, ... and 1, 3, ... of a followed by b.
INLINE Floats evens(Floats a, Floats b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
INLINE Floats odds(Floats a, Floats b) {
  return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

template <int kTaps>
INLINE Floats along(const float* row, const float* w) {
  Floats sum = load(row) * w[0];
  for (int j = 1; j < kTaps; j++) sum += load(row + j) * w[j];
  return sum;
}

// `row` begins with the first column that output 0 needs. Writes whole vectors: `out` has room for them.
template <typename T, int kUp, int kDown, int kTaps>
INLINE void filter_row(const float* row, const Axis& axis, const float* wx, int64_t out_w, T* out, bool stream) {
  if constexpr (kUp == 1 && kDown == 1) {
    for (int64_t o = 0; o < out_w; o += kLanes) store(out + o, along<kTaps>(row + o, wx), stream);
  } else if constexpr (kUp == 2) {
    int tap0, tap1;
    int64_t first0, first1;
    axis.locate(0, &first0, &tap0);
    axis.locate(1, &first1, &tap1);
    for (int64_t o = 0; o < out_w; o += 2 * kLanes) {
      const Floats a = along<kTaps>(row + o / 2, wx + tap0 * kTaps);
      const Floats b = along<kTaps>(row + o / 2 + (first1 - first0), wx + tap1 * kTaps);
      store(out + o, zip_low(a, b), stream);
      if (o + kLanes < out_w) store(out + o + kLanes, zip_high(a, b), stream);
    }
  } else {
    for (int64_t o = 0; o < out_w; o += kLanes) {
      Floats sum = {};
      for (int j = 0; j < kTaps; j += 2) {
        const Floats a = load(row + 2 * o + j), b = load(row + 2 * o + j + kLanes);
        sum += evens(a, b) * wx[j];
        if (j + 1 < kTaps) sum += odds(a, b) * wx[j + 1];
      }
      store(out + o, sum, stream);
    }
  }
}

template <typename T, int kUp, int kDown, int kTaps>
void single_channel_band(const UpfirdnParams& p, const Axis& axis_y, const Axis& axis_x, const float* wy, const float* wx, const T* x, T* y,
                         int64_t y0, int64_t y1, const T* zeros, bool stream) {
  int tap;
  int64_t left;
  axis_x.locate(0, &left, &tap);
  const int64_t shift = std::max<int64_t>(0, -left);  // Zeros before the first column, or columns that are skipped.
  const int64_t skip = std::max<int64_t>(0, left), columns = std::max<int64_t>(0, p.in_w - skip);
  const int64_t whole = columns / kLanes * kLanes;
  std::vector<float> row(shift + p.in_w + 2 * p.out_w + 4 * kLanes + kTaps);
  std::vector<T> staging(p.out_w + 2 * kLanes);
  const bool direct = p.out_w % kLanes == 0;
  int64_t first;
  axis_y.locate(y0, &first, &tap);
  for (int64_t oy = y0; oy < y1; oy++, axis_y.advance(&first, &tap)) {
    const T* rows[kTaps];
    for (int j = 0; j < kTaps; j++) rows[j] = (first + j >= 0 && first + j < p.in_h ? x + (first + j) * p.in_w : zeros) + skip;
    const float* w = wy + tap * kTaps;
    for (int64_t i = 0; i < whole; i += kLanes) {
      Floats sum = load(rows[0] + i) * w[0];
      for (int j = 1; j < kTaps; j++) sum += load(rows[j] + i) * w[j];
      store(row.data() + shift + i, sum, false);
    }
    for (int64_t i = whole; i < columns; i++) {
      float sum = 0;
      for (int j = 0; j < kTaps; j++) sum += to_float(rows[j][i]) * w[j];
      row[shift + i] = sum;
    }
    T* out = y + oy * p.out_w;
    filter_row<T, kUp, kDown, kTaps>(row.data(), axis_x, wx, p.out_w, direct ? out : staging.data(), direct && stream);
    if (!direct) std::copy_n(staging.data(), p.out_w, out);
  }
}

// ---- The choice ----

template <typename T>
using FastBand = void (*)(const UpfirdnParams& p, const Axis& axis_y, const Axis& axis_x, const float* wy, const float* wx, const T* x, T* y,
                          int64_t y0, int64_t y1, const T* zeros, bool stream);

// The function for bands of at least two rows; null where none fits. Filters are separable.
template <typename T>
FastBand<T> fast_band(const UpfirdnParams& p, int taps_y, int taps_x) {
  const bool alike = p.up_y == p.up_x && p.down_y == p.down_x && taps_y == taps_x && p.out_h >= 2;
  if (!alike) return nullptr;
  if (p.minor % kLanes == 0) {
    if (p.up_y > 2 || p.down_y > 2) return nullptr;
    return taps_y == 4 ? channels_last_band<T, 4> : taps_y == 2 ? channels_last_band<T, 2> : taps_y == 1 ? channels_last_band<T, 1> : nullptr;
  }
  if (p.minor != 1) return nullptr;
  if (p.up_y == 1 && p.down_y == 1 && taps_y == 4) return single_channel_band<T, 1, 1, 4>;
  if (p.up_y == 2 && p.down_y == 1 && taps_y == 2) return single_channel_band<T, 2, 1, 2>;
  if (p.up_y == 2 && p.down_y == 1 && taps_y == 1) return single_channel_band<T, 2, 1, 1>;
  if (p.up_y == 1 && p.down_y == 2 && taps_y == 4) return single_channel_band<T, 1, 2, 4>;
  if (p.up_y == 1 && p.down_y == 2 && taps_y == 2) return single_channel_band<T, 1, 2, 2>;
  return nullptr;
}

}  // namespace stylegan2
