// upfirdn_2d on the CPU.
//
// Along an axis, an output sample is a weighted sum of a few input samples whose weights depend only on its phase. A separable
// filter is applied in two passes per strip of output columns: down the columns into a row of floats that stays in the first-level
// cache, then along that row. Both passes are sums of shifted rows, so both run over contiguous memory in either layout; where
// channels are few, the samples of each phase are kept in a row of their own and interleaved at the end. A filter of any other
// kind is the sum of its rows, each of which is separable.

#include "cpu_kernels.h"
#include "cpu_upfirdn.h"

#include <cmath>
#include <vector>

namespace stylegan2 {
namespace {

// weights[phase * taps + j] of a filter of `size` taps, zeros behind its end.
template <typename A>
std::vector<A> phase_weights(const std::vector<A>& filter, int up, int taps) {
  std::vector<A> weights(static_cast<size_t>(up) * taps, A(0));
  for (size_t t = 0; t < filter.size(); t++) weights[(t % up) * taps + t / up] = filter[t];
  return weights;
}

// ---- Sums of weighted rows ----

template <typename A, typename T, int N, bool kAdd>
INLINE void sum_rows_fixed(A* RESTRICT out, const T* const* rows, const A* w, int64_t n) {
  const T* r[N];
  A c[N];
  for (int j = 0; j < N; j++) r[j] = rows[j], c[j] = w[j];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    A sum = c[0] * to_float(r[0][i]);
    for (int j = 1; j < N; j++) sum += c[j] * to_float(r[j][i]);
    out[i] = kAdd ? out[i] + sum : sum;
  }
}

template <typename A, typename T, bool kAdd>
INLINE void sum_rows_some(A* out, const T* const* rows, const A* w, int count, int64_t n) {
  switch (count) {
    case 1: return sum_rows_fixed<A, T, 1, kAdd>(out, rows, w, n);
    case 2: return sum_rows_fixed<A, T, 2, kAdd>(out, rows, w, n);
    case 3: return sum_rows_fixed<A, T, 3, kAdd>(out, rows, w, n);
    default: return sum_rows_fixed<A, T, 4, kAdd>(out, rows, w, n);
  }
}

// out[i] (+)= sum over j of w[j] * rows[j][i]. Not inline: its loops are many, and compiled once for each pair of types.
template <typename A, typename T>
__attribute__((noinline)) void sum_rows(A* out, const T* const* rows, const A* w, int count, int64_t n, bool add) {
  if (count == 0 && !add) std::fill(out, out + n, A(0));
  for (int j = 0; j < count; j += 4) {
    if (add || j > 0) sum_rows_some<A, T, true>(out, rows + j, w + j, std::min(4, count - j), n);
    else sum_rows_some<A, T, false>(out, rows + j, w + j, std::min(4, count - j), n);
  }
}

// ---- Along a row ----

// Rows of single channels or of pixels with few of them.
constexpr int64_t kFewChannels = 15;

template <typename A>
INLINE void interleave2(const A* RESTRICT even, const A* RESTRICT odd, A* RESTRICT out, int64_t pixels, int64_t c) {
  if (c == 1) {
    for (int64_t i = 0; i < pixels; i++) out[2 * i] = even[i], out[2 * i + 1] = odd[i];
  } else if (c == 3) {
    for (int64_t i = 0; i < pixels; i++)
      for (int j = 0; j < 3; j++) out[6 * i + j] = even[3 * i + j], out[6 * i + 3 + j] = odd[3 * i + j];
  } else {
    for (int64_t i = 0; i < pixels; i++)
      for (int64_t j = 0; j < c; j++) out[2 * c * i + j] = even[c * i + j], out[2 * c * i + c + j] = odd[c * i + j];
  }
}

template <typename A>
INLINE void deinterleave2(const A* RESTRICT row, A* RESTRICT even, A* RESTRICT odd, int64_t pixels, int64_t c) {
  if (c == 1) {
    for (int64_t i = 0; i < pixels; i++) even[i] = row[2 * i], odd[i] = row[2 * i + 1];
  } else if (c == 3) {
    for (int64_t i = 0; i < pixels; i++)
      for (int j = 0; j < 3; j++) even[3 * i + j] = row[6 * i + j], odd[3 * i + j] = row[6 * i + 3 + j];
  } else {
    for (int64_t i = 0; i < pixels; i++)
      for (int64_t j = 0; j < c; j++) even[c * i + j] = row[2 * c * i + j], odd[c * i + j] = row[2 * c * i + c + j];
  }
}

// The second pass. `row` holds all input columns that outputs [o0, o1) read, zeros where they lie outside; its first is column `left`.
template <typename A>
struct RowFilter {
  const Axis& axis;
  int64_t c;
  std::vector<A> scratch;  // Rows of phases.
  std::vector<const A*> sources;

  RowFilter(const Axis& axis, int64_t c, int64_t columns) : axis(axis), c(c), sources(axis.taps) {
    if (c <= kFewChannels) scratch.resize(2 * (columns + axis.taps + 4) * c);
  }

  void run(const A* row, int64_t left, const A* weights, A* out, int64_t o0, int64_t o1, bool add) {
    if (axis.up == 1 && axis.down == 1) shifted(row, left, weights, out, o0, o1, add);
    else if (c <= kFewChannels && !add && axis.up == 2 && axis.down == 1) doubled(row, left, weights, out, o0, o1);
    else if (c <= kFewChannels && axis.up == 1 && axis.down == 2) halved(row, left, weights, out, o0, o1, add);
    else if (axis.taps == 2) by_pixel<2>(row, left, weights, out, o0, o1, add);
    else if (axis.taps == 4) by_pixel<4>(row, left, weights, out, o0, o1, add);
    else by_pixel<0>(row, left, weights, out, o0, o1, add);
  }

  const A* at(const A* row, int64_t left, int64_t o, int* tap) const {
    int64_t first;
    axis.locate(o, &first, tap);
    return row + (first - left) * c;
  }

  void shifted(const A* row, int64_t left, const A* weights, A* out, int64_t o0, int64_t o1, bool add) {
    int tap;
    const A* source = at(row, left, o0, &tap);
    for (int j = 0; j < axis.taps; j++) sources[j] = source + j * c;
    sum_rows<A, A>(out, sources.data(), weights, axis.taps, (o1 - o0) * c, add);
  }

  void doubled(const A* row, int64_t left, const A* weights, A* out, int64_t o0, int64_t o1) {
    const int64_t pairs = (o1 - o0) / 2;
    for (int p = 0; p < 2; p++) {
      int tap;
      const A* source = at(row, left, o0 + p, &tap);
      for (int j = 0; j < axis.taps; j++) sources[j] = source + j * c;
      sum_rows<A, A>(scratch.data() + p * (pairs + 1) * c, sources.data(), weights + tap * axis.taps, axis.taps, (pairs + 1 - p) * c, false);
    }
    interleave2(scratch.data(), scratch.data() + (pairs + 1) * c, out, pairs, c);
    if ((o1 - o0) % 2) std::copy_n(scratch.data() + pairs * c, c, out + 2 * pairs * c);
  }

  void halved(const A* row, int64_t left, const A* weights, A* out, int64_t o0, int64_t o1, bool add) {
    int tap;
    const int64_t pixels = o1 - o0 + axis.taps / 2;
    A* even = scratch.data();
    A* odd = even + pixels * c;
    deinterleave2(at(row, left, o0, &tap), even, odd, pixels, c);
    for (int j = 0; j < axis.taps; j++) sources[j] = (j % 2 ? odd : even) + (j / 2) * c;
    sum_rows<A, A>(out, sources.data(), weights, axis.taps, (o1 - o0) * c, add);
  }

  template <int N>
  void by_pixel(const A* row, int64_t left, const A* weights, A* out, int64_t o0, int64_t o1, bool add) {
    int tap;
    int64_t first;
    axis.locate(o0, &first, &tap);
    for (int64_t o = o0; o < o1; o++, out += c, axis.advance(&first, &tap)) {
      const A* source = row + (first - left) * c;
      const A* w = weights + tap * axis.taps;
      if (N > 0 && !add) {
        const A* pixels[N + 1];
        for (int j = 0; j < N; j++) pixels[j] = source + j * c;
        sum_rows_fixed<A, A, N ? N : 1, false>(out, pixels, w, c);
      } else {
        for (int j = 0; j < axis.taps; j++) sources[j] = source + j * c;
        sum_rows<A, A>(out, sources.data(), w, axis.taps, c, add);
      }
    }
  }
};

// ---- The whole ----

template <typename A>
struct Filter {
  bool separable;
  std::vector<std::vector<A>> rows;     // Filters along a row: one if separable, else one per row of the kernel.
  std::vector<A> column;                // Filter down the columns, if separable.
};

template <typename A>
Filter<A> analyze(const UpfirdnParams& p) {
  std::vector<std::vector<A>> taps(p.k_h, std::vector<A>(p.k_w));
  int best_y = 0, best_x = 0;
  for (int y = 0; y < p.k_h; y++) {
    for (int x = 0; x < p.k_w; x++) {
      taps[y][x] = p.flip ? p.k[y * p.k_w + x] : p.k[(p.k_h - 1 - y) * p.k_w + (p.k_w - 1 - x)];
      if (std::abs(taps[y][x]) > std::abs(taps[best_y][best_x])) best_y = y, best_x = x;
    }
  }
  Filter<A> filter{true, {taps[best_y]}, std::vector<A>(p.k_h, A(0))};
  const A pivot = taps[best_y][best_x];
  for (int y = 0; y < p.k_h && pivot != 0; y++) {
    filter.column[y] = taps[y][best_x] / pivot;
    for (int x = 0; x < p.k_w; x++)
      if (std::abs(taps[y][x] - filter.column[y] * taps[best_y][x]) > 1e-6f * std::abs(pivot)) filter.separable = false;
  }
  if (!filter.separable) filter.rows = taps;
  return filter;
}

template <typename T>
class Upfirdn {
  using A = Accumulator<T>;

 public:
  explicit Upfirdn(const UpfirdnParams& p)
      : p(p), filter(analyze<A>(p)),
        rows(p.up_y, p.down_y, p.pad_y0, p.k_h), columns(p.up_x, p.down_x, p.pad_x0, p.k_w),
        column_weights(phase_weights(filter.column, p.up_y, rows.taps)),
        stream(p.major * p.out_h * p.out_w * p.minor * static_cast<int64_t>(sizeof(T)) >= kStreamBytes) {
    for (const auto& row : filter.rows) row_weights.push_back(phase_weights(row, p.up_x, columns.taps));
    // Strips of an even number of columns, so that each starts at the same phase of an upsampled row.
    const int64_t wide = std::max(p.up_x, p.down_x) == p.up_x ? 1 : p.down_x;
    strip = std::max<int64_t>(kBlock / (p.minor * wide) / (2 * p.up_x) * (2 * p.up_x), 2 * p.up_x);
    strip = std::min(strip, p.out_w);
  }

  void run(const ParallelFor& parallel) {
    // Bands of output rows. Each reads a few rows of its neighbours again, so they should not be too low.
    const int64_t row_elements = std::max<int64_t>(p.out_w * p.minor, 1);
    const int64_t band = std::min(p.out_h, std::max<int64_t>(32, (1 << 16) / row_elements / 2 * 2));
    const int64_t bands = (p.out_h + band - 1) / band;
    const int64_t cost = band * std::max(row_elements, p.in_w * p.minor) * filter.rows.size();
    if constexpr (std::is_same_v<A, float>) {
      const FastBand<T> fast = filter.separable ? fast_band<T>(p, rows.taps, columns.taps) : nullptr;
      if (fast != nullptr) return run_fast(fast, parallel, cost, band, bands);
    }
    parallel(p.major * bands, cost, [&](int64_t first, int64_t last) {
      Work work(*this);
      for (int64_t i = first; i < last; i++) work.band(i / bands, i % bands * band, std::min(p.out_h, (i % bands + 1) * band));
      if (stream) stream_fence();
    });
  }

  void run_fast(FastBand<T> fast, const ParallelFor& parallel, int64_t cost, int64_t band, int64_t bands) {
    const std::vector<T> zeros(p.in_w * p.minor, T{});
    const bool streams = stream && can_stream(static_cast<const T*>(p.y), p.out_w * p.minor);
    parallel(p.major * bands, cost, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; i++) {
        const T* x = static_cast<const T*>(p.x) + i / bands * p.in_h * p.in_w * p.minor;
        T* y = static_cast<T*>(p.y) + i / bands * p.out_h * p.out_w * p.minor;
        const int64_t y0 = i % bands * band, y1 = std::min(p.out_h, y0 + band);
        // Never one row alone: the fast functions take two at a time.
        fast(p, column_weights.data(), row_weights[0].data(), x, y, y1 - y0 == 1 ? y0 - 1 : y0, y1, zeros.data(), streams);
      }
      if (streams) stream_fence();
    });
  }

 private:
  const UpfirdnParams& p;
  const Filter<A> filter;
  const Axis rows, columns;
  const std::vector<A> column_weights;
  std::vector<std::vector<A>> row_weights;
  const bool stream;
  int64_t strip;

  // What one thread needs.
  struct Work {
    const Upfirdn& u;
    const UpfirdnParams& p;
    const int64_t widest;    // Input columns of a strip at most.
    std::vector<A> row, out;
    std::vector<T> staging;
    std::vector<const T*> sources;
    RowFilter<A> row_filter;

    explicit Work(const Upfirdn& u)
        : u(u), p(u.p), widest(u.strip * p.down_x / p.up_x + u.columns.taps + 2 * p.down_x + 2), row((widest + 2) * p.minor),
          out(u.strip * p.minor), staging(kBlock), sources(u.rows.taps), row_filter(u.columns, p.minor, widest) {}

    void band(int64_t major, int64_t y0, int64_t y1) {
      const T* x = static_cast<const T*>(p.x) + major * p.in_h * p.in_w * p.minor;
      T* y = static_cast<T*>(p.y) + major * p.out_h * p.out_w * p.minor;
      for (int64_t o0 = 0; o0 < p.out_w; o0 += u.strip) {
        const int64_t o1 = std::min(p.out_w, o0 + u.strip);
        int tap;
        int64_t left, last;
        u.columns.locate(o0, &left, &tap);
        u.columns.locate(o1 - 1, &last, &tap);
        // One pixel more is computed than is used where phases are filtered apart.
        const int64_t right = std::max(last, left) + u.columns.taps + p.down_x;
        const int64_t a = std::clamp<int64_t>(left, 0, p.in_w), b = std::clamp<int64_t>(right, a, p.in_w);
        std::fill(row.begin(), row.end(), A(0));
        for (int64_t oy = y0; oy < y1; oy++) {
          output_row(x, oy, left, a, b, o0, o1);
          store_row<T>(out.data(), y + (oy * p.out_w + o0) * p.minor, (o1 - o0) * p.minor, u.stream, staging.data());
        }
      }
    }

    void output_row(const T* x, int64_t oy, int64_t left, int64_t a, int64_t b, int64_t o0, int64_t o1) {
      int tap;
      int64_t first;
      u.rows.locate(oy, &first, &tap);
      const int j0 = static_cast<int>(std::clamp<int64_t>(-first, 0, u.rows.taps));
      const int j1 = static_cast<int>(std::clamp<int64_t>(p.in_h - first, j0, u.rows.taps));
      const int64_t n = (b - a) * p.minor;
      A* middle = row.data() + (a - left) * p.minor;
      const T* source = x + ((first + j0) * p.in_w + a) * p.minor;
      if (u.filter.separable) {
        for (int j = j0; j < j1; j++) sources[j - j0] = source + (j - j0) * p.in_w * p.minor;
        sum_rows<A, T>(middle, sources.data(), u.column_weights.data() + tap * u.rows.taps + j0, j1 - j0, n, false);
        row_filter.run(row.data(), left, u.row_weights[0].data(), out.data(), o0, o1, false);
        return;
      }
      std::fill(out.begin(), out.end(), A(0));
      for (int j = j0; j < j1; j++) {
        const size_t ky = tap + static_cast<size_t>(j) * p.up_y;
        if (ky >= u.row_weights.size()) continue;
        load_row<T>(source + (j - j0) * p.in_w * p.minor, middle, n);
        row_filter.run(row.data(), left, u.row_weights[ky].data(), out.data(), o0, o1, true);
      }
    }
  };
};

}  // namespace

void upfirdn_cpu(const UpfirdnParams& p, const ParallelFor& parallel) {
  if (p.major * p.out_h * p.out_w * p.minor == 0) return;
  switch (p.dtype) {
    case kFloat32: return Upfirdn<float>(p).run(parallel);
    case kFloat64: return Upfirdn<double>(p).run(parallel);
    case kBFloat16: return Upfirdn<BFloat16>(p).run(parallel);
    case kFloat16: return Upfirdn<Half>(p).run(parallel);
  }
}

}  // namespace stylegan2
