// upfirdn_2d for what the networks ask for nearly always: separable filters of up to four taps a phase, many channels last or one
// channel per row. Sixteen floats at a time.

#include "cpu_upfirdn.h"

namespace stylegan2 {
namespace {

constexpr int64_t kPiece = 4096;  // Bytes of a piece of a row.

// ---- Down the columns ----

// Input rows that two output rows are the first to read.
template <int kUp, int kDown> constexpr int kNewRows = 2 * kDown / kUp;

// put(i, sum0, sum1) for the elements i in [0, n) of two rows of sums, of rows[0 .. kTaps) and of rows[step .. step + kTaps), as many at a
// time as V holds and at the end one by one. `step` is 0 or 1 where kUp is 2, else kDown. Meanwhile the same elements of ahead[0 .. kNewRows) come into the caches: into the nearest,
// or into the second.
template <typename V, int kUp, int kDown, int kTaps, bool kNearest, typename T, typename Put>
INLINE void down_columns(const T* const* rows, int64_t step, const float* wy0, const float* wy1, int64_t n, const T* const* ahead,
                         const Put& put) {
  constexpr int kAheads = kNewRows<kUp, kDown>;
  const auto run = [&](auto known) {  // The step, known to the compiler.
    constexpr int kStep = known;
    float a[kTaps], b[kTaps];  // Copies, which no store can change: they stay in registers.
    std::copy_n(wy0, kTaps, a);
    std::copy_n(wy1, kTaps, b);
    int64_t i = 0;
    constexpr int64_t kWidth = sizeof(V) / sizeof(float);
    for (; i + kWidth <= n; i += kWidth) {
      for (int j = 0; j < kAheads; j++) __builtin_prefetch(ahead[j] + i, 0, kNearest ? 3 : 2);
      V sum0 = {}, sum1 = {};
      for (int j = 0; j < kTaps + kStep; j++) {
        const V x = load<V>(rows[j] + i);
        if (j < kTaps) sum0 += x * a[j];
        if (j >= kStep) sum1 += x * b[j - kStep];
      }
      put(i, sum0, sum1);
    }
    for (; i < n; i++) {
      float sum0 = 0, sum1 = 0;
      for (int j = 0; j < kTaps; j++) sum0 += to_float(rows[j][i]) * a[j], sum1 += to_float(rows[j + kStep][i]) * b[j];
      put(i, sum0, sum1);
    }
  };
  if constexpr (kUp == 1) run(std::integral_constant<int, kDown>());
  else if (step == 0) run(std::integral_constant<int, 0>());
  else run(std::integral_constant<int, 1>());
}

// ---- Channels last ----
// Two output rows at once, in pieces whose sums down the columns stay in the first-level cache. The pieces are short, but all memory is
// read and written in its order.

// out[o] for o in [o0, o1) from the sums of columns from `left` on.
template <typename T, typename V, int kUp, int kTaps>
INLINE void along_pixels(const float* sums, int64_t left, const Axis& axis, const float* wx, int64_t c, int64_t o0, int64_t o1, T* out,
                         bool stream) {
  float w[kTaps];  // A copy, which no store can change: it stays in registers.
  std::copy_n(wx, kTaps, w);
  int tap;
  int64_t first;
  axis.locate(o0, &first, &tap);
  out += o0 * c;
  for (int64_t o = o0; o < o1; o++, out += c, axis.advance(&first, &tap)) {
    const float* source = sums + (first - left) * c;
    if (kUp > 1) std::copy_n(wx + tap * kTaps, kTaps, w);
    for (int64_t i = 0; i < c; i += sizeof(V) / sizeof(float)) {
      V sum = load<V>(source + i) * w[0];
      for (int j = 1; j < kTaps; j++) sum += load<V>(source + j * c + i) * w[j];
      store(out + i, sum, stream);
    }
  }
}

// Output rows [y0, y1) of the images x and y; at least two. Weights are those of the phases, kTaps each.
template <typename T, typename V, int kUp, int kDown, int kTaps>
void channels_last_band(const UpfirdnParams& p, const float* wy, const float* wx, const T* x, T* y, int64_t y0, int64_t y1, const T* zeros,
                        bool stream) {
  const Axis axis_y(kUp, kDown, p.pad_y0, p.k_h), axis_x(kUp, kDown, p.pad_x0, p.k_w);  // Known to the compiler: `locate` divides.
  const int64_t in_row = p.in_w * p.minor, out_row = p.out_w * p.minor;
  const int64_t piece = std::max<int64_t>(kPiece / sizeof(T) / p.minor, 8) * kUp / kDown;
  const int64_t width = (piece * kDown / kUp + kTaps + 2) * p.minor;
  Buffer<float> sums(2 * width);
  for (int64_t oy = y0; oy < y1; oy += 2) {
    if (oy + 1 == y1) oy--;  // The last row of an odd number: once more, with the one before.
    int tap0, tap1;
    int64_t first0, first1;
    axis_y.locate(oy, &first0, &tap0);
    axis_y.locate(oy + 1, &first1, &tap1);
    const int64_t step = first1 - first0;
    const T* rows[kTaps + 2 + 4];
    for (int j = 0; j < kTaps + 2 + 4; j++) rows[j] = first0 + j >= 0 && first0 + j < p.in_h ? x + (first0 + j) * in_row : zeros;
    for (int64_t o0 = 0; o0 < p.out_w; o0 += piece) {
      const int64_t o1 = std::min(p.out_w, o0 + piece);
      int64_t left, last;
      int tap;
      axis_x.locate(o0, &left, &tap);
      axis_x.locate(o1 - 1, &last, &tap);
      last += kTaps;
      const int64_t a = std::clamp<int64_t>(0, left, last), b = std::clamp(p.in_w, a, last);  // Within the image, if any are.
      const T* shifted[kTaps + 2 + 4];
      for (int j = 0; j < kTaps + 2 + 4; j++) shifted[j] = rows[j] + a * p.minor;
      float* row = sums.data();
      float *sums0 = row + (a - left) * p.minor, *sums1 = sums0 + width;
      down_columns<V, kUp, kDown, kTaps, false>(shifted, step, wy + tap0 * kTaps, wy + tap1 * kTaps, (b - a) * p.minor,
                                                shifted + kTaps + step, [=](int64_t i, auto sum0, auto sum1) {
        store(sums0 + i, sum0, false);
        store(sums1 + i, sum1, false);
      });
      for (int i = 0; i < 2; i++, row += width) {
        std::fill(row, row + (a - left) * p.minor, 0.0f);
        std::fill(row + (b - left) * p.minor, row + (last - left) * p.minor, 0.0f);
        along_pixels<T, V, kUp, kTaps>(row, left, axis_x, wx, p.minor, o0, o1, y + (oy + i) * out_row, stream);
      }
    }
  }
}

// ---- One channel per row ----
// Down the columns into a row of floats in the first-level cache, then along it. In bfloat16 even and odd columns stay apart, but where
// columns are put between them.

// [a0 b0 a1 b1 ...] of the first and of the second eight of a and b.
INLINE Floats zip_low(Floats a, Floats b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
INLINE Floats zip_high(Floats a, Floats b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
// a's elements and b's in turn: all of them, or the first sixteen.
template <typename T>
INLINE void store_zipped(T* out, Floats a, Floats b, bool all, bool stream) {
  if constexpr (std::is_same_v<T, BFloat16>)
    if (all) return store(out, Pair{a, b}, stream);  // Zips them once rounded, in one go.
  store(out, zip_low(a, b), stream);
  if (all) store(out + kLanes, zip_high(a, b), stream);
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

// `row` begins with the first column that output 0 needs, `step` columns on lies that of output 1. Weights of outputs 0, 2, ... and of
// outputs 1, 3, ... Writes whole vectors: `out` has room for them.
template <typename T, int kUp, int kDown, int kTaps>
INLINE void filter_row(const float* row, const float* even_weights, const float* odd_weights, int64_t step, int64_t out_w, T* out,
                       bool stream) {
  float w[kTaps], w1[kTaps];  // Copies, which no store can change: they stay in registers.
  std::copy_n(even_weights, kTaps, w);
  std::copy_n(odd_weights, kTaps, w1);
  if constexpr (kUp == 1 && kDown == 1) {
    for (int64_t o = 0; o < out_w; o += kLanes) store(out + o, along<kTaps>(row + o, w), stream);
  } else if constexpr (kUp == 2) {
    for (int64_t o = 0; o < out_w; o += 2 * kLanes) {
      const Floats a = along<kTaps>(row + o / 2, w);
      const Floats b = along<kTaps>(row + o / 2 + step, w1);
      store_zipped(out + o, a, b, o + kLanes < out_w, stream);
    }
  } else {
    for (int64_t o = 0; o < out_w; o += kLanes) {
      Floats sum = {};
      for (int j = 0; j < kTaps; j += 2) {
        const Floats a = load(row + 2 * o + j), b = load(row + 2 * o + j + kLanes);
        sum += evens(a, b) * w[j];
        if (j + 1 < kTaps) sum += odds(a, b) * w[j + 1];
      }
      store(out + o, sum, stream);
    }
  }
}

// The same from even and odd columns in rows of their own.
template <int kDown, int kTaps>
INLINE void filter_row_apart(const float* even, const float* odd, const float* weights, int64_t out_w, BFloat16* out, bool stream) {
  float w[kTaps];
  std::copy_n(weights, kTaps, w);
  const auto along_from = [&](int first, int64_t i) {  // From column 2 * i + first on.
    Floats sum = load((first % 2 ? odd : even) + i + first / 2) * w[0];
    for (int j = 1; j < kTaps; j++) sum += load(((first + j) % 2 ? odd : even) + i + (first + j) / 2) * w[j];
    return sum;
  };
  for (int64_t o = 0; o < out_w; o += 2 * kLanes) {
    const bool both = o + kLanes < out_w;
    if constexpr (kDown == 1) store_zipped(out + o, along_from(0, o / 2), along_from(1, o / 2), both, stream);
    else if (both) store_as(out + o, to_bfloat16(along_from(0, o), along_from(0, o + kLanes)), stream);
    else store(out + o, along_from(0, o), stream);
  }
}

template <typename T, int kUp, int kDown, int kTaps>
void single_channel_band(const UpfirdnParams& p, const float* wy, const float* wx, const T* x, T* y, int64_t y0, int64_t y1, const T* zeros,
                         bool stream) {
  const Axis axis_y(kUp, kDown, p.pad_y0, p.k_h), axis_x(kUp, kDown, p.pad_x0, p.k_w);  // Known to the compiler: `locate` divides.
  int tap, tap1;
  int64_t left, left1;
  axis_x.locate(0, &left, &tap);
  axis_x.locate(1, &left1, &tap1);
  const int64_t shift = std::max<int64_t>(0, -left);  // Zeros before the first column, or columns that are skipped.
  const int64_t skip = std::max<int64_t>(0, left), columns = std::max<int64_t>(0, p.in_w - skip);
  constexpr bool kApart = std::is_same_v<T, BFloat16> && kUp == 1;
  const int64_t half = (shift + p.in_w + kTaps) / 2 + p.out_w + 3 * kLanes;  // Of a row of sums: room for its even, or odd, columns.
  const int64_t width = 2 * half;
  Buffer<float> sums(4 * width);  // Two pairs of rows: one is filtered when the next is there, or its reads would wait for its writes.
  Buffer<T> staging(p.out_w + 2 * kLanes);
  const bool direct = p.out_w % kLanes == 0;

  const auto finish = [&](int64_t oy) {
    for (int i = 0; i < 2; i++) {
      T* out = y + (oy + i) * p.out_w;
      const float* row = sums.data() + (oy / 2 % 2 * 2 + i) * width;
      T* target = direct ? out : staging.data();
      if constexpr (kApart) filter_row_apart<kDown, kTaps>(row, row + half, wx, p.out_w, target, direct && stream);
      else filter_row<T, kUp, kDown, kTaps>(row, wx + tap * kTaps, wx + tap1 * kTaps, left1 - left, p.out_w, target, direct && stream);
      if (!direct) std::copy_n(staging.data(), p.out_w, out);
    }
  };
  int64_t waiting = -1;
  for (int64_t oy = y0; oy < y1; oy += 2) {
    if (oy + 1 == y1) {  // The last row of an odd number: once more, with the one before.
      if (waiting >= 0) finish(waiting);
      waiting = -1;
      oy--;
    }
    int tap0, tap1;
    int64_t first0, first1;
    axis_y.locate(oy, &first0, &tap0);
    axis_y.locate(oy + 1, &first1, &tap1);
    const T* rows[kTaps + 2];
    for (int j = 0; j < kTaps + 2; j++) rows[j] = (first0 + j >= 0 && first0 + j < p.in_h ? x + (first0 + j) * p.in_w : zeros) + skip;
    constexpr int kNew = kNewRows<kUp, kDown>;
    const T* ahead[kNew];
    // Only a hint: it may lie behind the end.
    for (int j = 0; j < kNew; j++) ahead[j] = x + (first0 + kTaps + j) * p.in_w + kAhead / sizeof(T);
    float* row = sums.data() + oy / 2 % 2 * 2 * width;
    const float *wy0 = wy + tap0 * kTaps, *wy1 = wy + tap1 * kTaps;
    if constexpr (kApart) {
      // Even and odd columns as they will be filtered, those of the input therefore in the other row if `shift` is odd.
      float* const targets[2] = {row + (shift % 2 ? half + shift / 2 : shift / 2), row + (shift % 2 ? shift / 2 + 1 : half + shift / 2)};
      down_columns<Pair, kUp, kDown, kTaps, true>(rows, first1 - first0, wy0, wy1, columns, ahead, [=](int64_t i, auto sum0, auto sum1) {
        if constexpr (std::is_same_v<decltype(sum0), float>) {
          float* sums0 = targets[i % 2] + i / 2;
          *sums0 = sum0, sums0[width] = sum1;
        } else {
          float *even0 = targets[0] + i / 2, *odd0 = targets[1] + i / 2;
          store(even0, sum0.a, false);
          store(odd0, sum0.b, false);
          store(even0 + width, sum1.a, false);
          store(odd0 + width, sum1.b, false);
        }
      });
    } else {
      float* sums0 = row + shift;
      down_columns<Floats, kUp, kDown, kTaps, true>(rows, first1 - first0, wy0, wy1, columns, ahead, [=](int64_t i, auto sum0, auto sum1) {
        store(sums0 + i, sum0, false);
        store(sums0 + width + i, sum1, false);
      });
    }
    if (waiting >= 0) finish(waiting);
    waiting = oy;
  }
  if (waiting >= 0) finish(waiting);
}

// ---- The choice ----

template <typename T, typename V>
FastBand<T> channels_last(int up, int down, int taps) {
  if (up == 1 && down == 1 && taps == 4) return channels_last_band<T, V, 1, 1, 4>;
  if (up == 2 && down == 1 && taps == 2) return channels_last_band<T, V, 2, 1, 2>;
  if (up == 2 && down == 1 && taps == 1) return channels_last_band<T, V, 2, 1, 1>;
  if (up == 1 && down == 2 && taps == 4) return channels_last_band<T, V, 1, 2, 4>;
  if (up == 1 && down == 2 && taps == 2) return channels_last_band<T, V, 1, 2, 2>;
  return nullptr;
}

template <typename T>
FastBand<T> single_channel(int up, int down, int taps) {
  if (up == 1 && down == 1 && taps == 4) return single_channel_band<T, 1, 1, 4>;
  if (up == 2 && down == 1 && taps == 2) return single_channel_band<T, 2, 1, 2>;
  if (up == 2 && down == 1 && taps == 1) return single_channel_band<T, 2, 1, 1>;
  if (up == 1 && down == 2 && taps == 4) return single_channel_band<T, 1, 2, 4>;
  if (up == 1 && down == 2 && taps == 2) return single_channel_band<T, 1, 2, 2>;
  return nullptr;
}

}  // namespace

template <typename T>
FastBand<T> fast_band(const UpfirdnParams& p, int taps_y, int taps_x) {
  if (p.up_y != p.up_x || p.down_y != p.down_x || taps_y != taps_x || p.out_h < 2) return nullptr;
  if (p.minor == 1) return single_channel<T>(p.up_y, p.down_y, taps_y);
  if (p.minor % kLanes != 0) return nullptr;
  if constexpr (std::is_same_v<T, BFloat16>)
    if (p.minor % (2 * kLanes) == 0) return channels_last<T, Pair>(p.up_y, p.down_y, taps_y);
  return channels_last<T, Floats>(p.up_y, p.down_y, taps_y);
}

template FastBand<float> fast_band<float>(const UpfirdnParams& p, int taps_y, int taps_x);
template FastBand<BFloat16> fast_band<BFloat16>(const UpfirdnParams& p, int taps_y, int taps_x);
template FastBand<Half> fast_band<Half>(const UpfirdnParams& p, int taps_y, int taps_x);

}  // namespace stylegan2
