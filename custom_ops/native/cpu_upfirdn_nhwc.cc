// upfirdn_2d for the cases that networks on the CPU spend nearly all their filtering time in: NHWC with a multiple of
// 16 channels, the same factor of 1 or 2 along both axes, and a separable filter of up to four taps per phase.
//
// Two rows of the result are computed at once, because they share most of their input. Both passes of the separable
// filter run over a short piece of these rows, so that the sums of the first pass stay in the L1 cache, while memory is
// still read and written sequentially.

#include "cpu_upfirdn.h"

namespace stylegan2 {
namespace {

constexpr int64_t kPieceBytes = 4096;  // Of input, per row.

// V is the vector type: Floats, or FloatsPair, which is faster for bfloat16.
template <typename V> constexpr int64_t kWidth = sizeof(V) / sizeof(float);

// Input rows that a pair of output rows reads and the pair before it did not.
template <int kUp, int kDown> constexpr int kNewRows = 2 * kDown / kUp;

// The first pass, down the columns, for two output rows whose first input rows are kStep rows apart:
//     sums0[i] = sum over j of weights0[j] * rows[j][i]
//     sums1[i] = sum over j of weights1[j] * rows[kStep + j][i]
// `n` is a multiple of the vector width. Meanwhile the kNew rows that follow, which the next call reads, are prefetched
// into the L2 cache.
template <typename V, int kStep, int kTaps, int kNew, typename T>
INLINE void filter_columns(const T* const* rows, const float* weights0, const float* weights1, int64_t n, float* sums0,
                           float* sums1) {
  float w0[kTaps], w1[kTaps];  // Copies that no store can alias, so that they stay in registers.
  std::copy_n(weights0, kTaps, w0);
  std::copy_n(weights1, kTaps, w1);
  for (int64_t i = 0; i < n; i += kWidth<V>) {
    for (int j = 0; j < kNew; j++) __builtin_prefetch(rows[kTaps + kStep + j] + i, 0, 2);
    V sum0 = {}, sum1 = {};
    for (int j = 0; j < kTaps + kStep; j++) {
      const V x = load<V>(rows[j] + i);
      if (j < kTaps) sum0 += x * w0[j];
      if (j >= kStep) sum1 += x * w1[j - kStep];
    }
    store(sums0 + i, sum0, false);
    store(sums1 + i, sum1, false);
  }
}

// The second pass, along a row: out[o] for o in [begin, end), from the sums of input column `left` and those after it.
template <typename T, typename V, int kUp, int kTaps>
INLINE void filter_row(const float* sums, int64_t left, const Axis& axis, const float* weights, int64_t channels,
                       int64_t begin, int64_t end, T* out, bool nontemporal) {
  float w[kTaps];  // A copy that no store can alias, so that it stays in registers.
  std::copy_n(weights, kTaps, w);
  int tap;
  int64_t first;
  axis.locate(begin, &first, &tap);
  out += begin * channels;
  for (int64_t o = begin; o < end; o++, out += channels, axis.advance(&first, &tap)) {
    const float* source = sums + (first - left) * channels;
    if (kUp > 1) std::copy_n(weights + tap * kTaps, kTaps, w);
    for (int64_t c = 0; c < channels; c += kWidth<V>) {
      V sum = load<V>(source + c) * w[0];
      for (int j = 1; j < kTaps; j++) sum += load<V>(source + j * channels + c) * w[j];
      store(out + c, sum, nontemporal);
    }
  }
}

// Two output rows that begin at row `oy`.
template <typename T, typename V, int kUp, int kDown, int kTaps>
class RowPair {
  static constexpr int kNew = kNewRows<kUp, kDown>;
  static constexpr int kMaxStep = 2;
  static constexpr int kRows = kTaps + kMaxStep + kNew;  // Input rows that are read or prefetched.

 public:
  RowPair(const UpfirdnParams& p, const NhwcBand<T>& band)
      : p(p), band(band), axis_y(kUp, kDown, p.pad_y0, p.k_h), axis_x(kUp, kDown, p.pad_x0, p.k_w),
        piece(std::max<int64_t>(kPieceBytes / sizeof(T) / p.minor, 8) * kUp / kDown),
        width((piece * kDown / kUp + kTaps + 2) * p.minor), sums(2 * width) {}

  INLINE void run(int64_t oy) {
    int tap0, tap1;
    int64_t first0, first1;
    axis_y.locate(oy, &first0, &tap0);
    axis_y.locate(oy + 1, &first1, &tap1);
    const T* rows[kRows];
    for (int j = 0; j < kRows; j++) {
      const int64_t row = first0 + j;
      rows[j] = row >= 0 && row < p.in_h ? band.x + row * p.in_w * p.minor : band.zeros;
    }
    const float *weights0 = band.weights_y + tap0 * kTaps, *weights1 = band.weights_y + tap1 * kTaps;
    for (int64_t begin = 0; begin < p.out_w; begin += piece)
      run_piece(rows, first1 - first0, weights0, weights1, oy, begin, std::min(p.out_w, begin + piece));
  }

 private:
  const UpfirdnParams& p;
  const NhwcBand<T>& band;
  const Axis axis_y, axis_x;  // With factors that the compiler knows, because `locate` divides by them.
  const int64_t piece;        // Output columns that are computed at once.
  const int64_t width;        // Elements of a row of sums.
  Buffer<float> sums;         // [2, width]

  // Columns [begin, end) of both output rows, whose first input rows are `step` rows apart.
  INLINE void run_piece(const T* const* rows, int64_t step, const float* weights0, const float* weights1, int64_t oy,
                        int64_t begin, int64_t end) {
    int tap;
    int64_t left, right;  // This piece reads input columns [left, right), of which [a, b) lie within the image.
    axis_x.locate(begin, &left, &tap);
    axis_x.locate(end - 1, &right, &tap);
    right += kTaps;
    const int64_t a = std::clamp<int64_t>(0, left, right), b = std::clamp(p.in_w, a, right);
    const T* inside[kRows];
    for (int j = 0; j < kRows; j++) inside[j] = rows[j] + a * p.minor;

    float* sums0 = sums.data() + (a - left) * p.minor;
    float* sums1 = sums0 + width;
    const int64_t n = (b - a) * p.minor;
    if constexpr (kUp == 1) filter_columns<V, kDown, kTaps, kNew>(inside, weights0, weights1, n, sums0, sums1);
    else if (step == 0) filter_columns<V, 0, kTaps, kNew>(inside, weights0, weights1, n, sums0, sums1);
    else filter_columns<V, 1, kTaps, kNew>(inside, weights0, weights1, n, sums0, sums1);

    for (int i = 0; i < 2; i++) {
      float* row = sums.data() + i * width;
      std::fill(row, row + (a - left) * p.minor, 0.0f);
      std::fill(row + (b - left) * p.minor, row + (right - left) * p.minor, 0.0f);
      filter_row<T, V, kUp, kTaps>(row, left, axis_x, band.weights_x, p.minor, begin, end,
                                   band.y + (oy + i) * p.out_w * p.minor, band.nontemporal);
    }
  }
};

template <typename T, typename V, int kUp, int kDown, int kTaps>
void nhwc_kernel(const UpfirdnParams& p, const NhwcBand<T>& band) {
  RowPair<T, V, kUp, kDown, kTaps> pair(p, band);
  // If the number of rows is odd, the row before the last is computed twice.
  for (int64_t oy = band.row_begin; oy < band.row_end; oy += 2) pair.run(std::min(oy, band.row_end - 2));
}

template <typename T, typename V>
NhwcKernel<T> kernel_for(int up, int down, int taps) {
  if (up == 1 && down == 1 && taps == 4) return nhwc_kernel<T, V, 1, 1, 4>;
  if (up == 2 && down == 1 && taps == 2) return nhwc_kernel<T, V, 2, 1, 2>;
  if (up == 2 && down == 1 && taps == 1) return nhwc_kernel<T, V, 2, 1, 1>;
  if (up == 1 && down == 2 && taps == 4) return nhwc_kernel<T, V, 1, 2, 4>;
  if (up == 1 && down == 2 && taps == 2) return nhwc_kernel<T, V, 1, 2, 2>;
  return nullptr;
}

}  // namespace

template <typename T>
NhwcKernel<T> find_nhwc_kernel(const UpfirdnParams& p, int taps_y, int taps_x) {
  if (p.up_y != p.up_x || p.down_y != p.down_x || taps_y != taps_x || p.out_h < 2) return nullptr;
  if (p.minor % kLanes != 0) return nullptr;
  if constexpr (std::is_same_v<T, BFloat16>)
    if (p.minor % (2 * kLanes) == 0) return kernel_for<T, FloatsPair>(p.up_y, p.down_y, taps_y);
  return kernel_for<T, Floats>(p.up_y, p.down_y, taps_y);
}

template NhwcKernel<float> find_nhwc_kernel<float>(const UpfirdnParams& p, int taps_y, int taps_x);
template NhwcKernel<BFloat16> find_nhwc_kernel<BFloat16>(const UpfirdnParams& p, int taps_y, int taps_x);
template NhwcKernel<Half> find_nhwc_kernel<Half>(const UpfirdnParams& p, int taps_y, int taps_x);

}  // namespace stylegan2
