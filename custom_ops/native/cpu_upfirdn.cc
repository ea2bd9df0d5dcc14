// upfirdn_2d on the CPU, for every filter, factor, layout and dtype. cpu_upfirdn_nhwc.cc has faster kernels for the
// cases that networks use most.
//
// Along an axis, an output sample is a weighted sum of a few input samples; cpu_upfirdn.h gives an example in numbers.
// A separable filter is applied in two passes per strip of output columns: down the columns into a row that stays in
// the L1 cache, then along that row. A filter that is not separable is the sum of its rows, each of which is applied
// along the rows of the image. All passes are sums of shifted rows, so they run over contiguous memory in either
// layout. Where there are few channels, the samples of each phase are computed in a row of their own and interleaved at
// the end.

#include "cpu_kernels.h"
#include "cpu_upfirdn.h"

#include <cmath>
#include <vector>

namespace stylegan2 {
namespace {

// ---- Filters ----

// The taps of a filter as they are laid on the image.
template <typename A>
struct Filter {
  bool separable;
  std::vector<std::vector<A>> rows;  // Taps along image rows: one list if separable, else one for each row of k.
  std::vector<A> column;             // Factors of that list for each row of k, if separable.
};

template <typename A>
Filter<A> split_filter(const UpfirdnParams& p) {
  std::vector<std::vector<A>> taps(p.k_h, std::vector<A>(p.k_w));
  int pivot_y = 0, pivot_x = 0;  // The largest tap: divisions by it are accurate.
  for (int y = 0; y < p.k_h; y++) {
    for (int x = 0; x < p.k_w; x++) {
      taps[y][x] = p.flip ? p.k[y * p.k_w + x] : p.k[(p.k_h - 1 - y) * p.k_w + (p.k_w - 1 - x)];
      if (std::abs(taps[y][x]) > std::abs(taps[pivot_y][pivot_x])) pivot_y = y, pivot_x = x;
    }
  }
  Filter<A> filter{true, {taps[pivot_y]}, std::vector<A>(p.k_h, A(0))};
  const A pivot = taps[pivot_y][pivot_x];
  for (int y = 0; y < p.k_h && pivot != 0; y++) {
    filter.column[y] = taps[y][pivot_x] / pivot;
    for (int x = 0; x < p.k_w; x++) {
      const A difference = taps[y][x] - filter.column[y] * taps[pivot_y][x];
      if (std::abs(difference) > 1e-6f * std::abs(pivot)) filter.separable = false;
    }
  }
  if (!filter.separable) filter.rows = taps;
  return filter;
}

// Taps -> weights [up, taps of a phase], where weights[phase * taps + j] belongs to taps[phase + j * up]. Phases that
// have fewer taps end with zeros.
template <typename A>
std::vector<A> weights_by_phase(const std::vector<A>& filter, int up, int taps) {
  std::vector<A> weights(static_cast<size_t>(up) * taps, A(0));
  for (size_t t = 0; t < filter.size(); t++) weights[(t % up) * taps + t / up] = filter[t];
  return weights;
}

// ---- Sums of weighted rows ----

template <typename A, typename T, int N, bool kAdd>
INLINE void sum_n_rows(A* RESTRICT out, const T* const* rows, const A* weights, int64_t n) {
  const T* r[N];
  A w[N];
  for (int j = 0; j < N; j++) r[j] = rows[j], w[j] = weights[j];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    A sum = w[0] * to_float(r[0][i]);
    for (int j = 1; j < N; j++) sum += w[j] * to_float(r[j][i]);
    out[i] = kAdd ? out[i] + sum : sum;
  }
}

template <typename A, typename T, bool kAdd>
INLINE void sum_up_to_4_rows(A* out, const T* const* rows, const A* weights, int count, int64_t n) {
  switch (count) {
    case 1: return sum_n_rows<A, T, 1, kAdd>(out, rows, weights, n);
    case 2: return sum_n_rows<A, T, 2, kAdd>(out, rows, weights, n);
    case 3: return sum_n_rows<A, T, 3, kAdd>(out, rows, weights, n);
    default: return sum_n_rows<A, T, 4, kAdd>(out, rows, weights, n);
  }
}

// out[i] = sum over j of weights[j] * rows[j][i], or with `add`, out[i] += that sum. Not inlined, because it contains
// many loops and is called in many places.
template <typename A, typename T>
__attribute__((noinline)) void sum_rows(A* out, const T* const* rows, const A* weights, int count, int64_t n,
                                        bool add) {
  if (count == 0 && !add) std::fill(out, out + n, A(0));
  for (int j = 0; j < count; j += 4) {
    const int group = std::min(4, count - j);
    if (add || j > 0) sum_up_to_4_rows<A, T, true>(out, rows + j, weights + j, group, n);
    else sum_up_to_4_rows<A, T, false>(out, rows + j, weights + j, group, n);
  }
}

// ---- The pass along a row ----

// Pixels with at most so many channels are filtered phase by phase, not pixel by pixel.
constexpr int64_t kFewChannels = 15;

// Even and odd pixels, each in a row of its own <-> the row of all pixels. C is the number of channels, or 0 for any.
template <int C, typename A>
INLINE void interleave_channels(const A* RESTRICT even, const A* RESTRICT odd, A* RESTRICT row, int64_t pairs,
                                int64_t c) {
  if (C > 0) c = C;
  for (int64_t i = 0; i < pairs; i++)
    for (int64_t j = 0; j < c; j++) row[2 * c * i + j] = even[c * i + j], row[2 * c * i + c + j] = odd[c * i + j];
}

template <int C, typename A>
INLINE void separate_channels(const A* RESTRICT row, A* RESTRICT even, A* RESTRICT odd, int64_t pairs,
                              int64_t c) {
  if (C > 0) c = C;
  for (int64_t i = 0; i < pairs; i++)
    for (int64_t j = 0; j < c; j++) even[c * i + j] = row[2 * c * i + j], odd[c * i + j] = row[2 * c * i + c + j];
}

template <typename A>
INLINE void interleave(const A* even, const A* odd, A* row, int64_t pairs, int64_t c) {
  if (c == 1) interleave_channels<1>(even, odd, row, pairs, c);
  else if (c == 3) interleave_channels<3>(even, odd, row, pairs, c);
  else interleave_channels<0>(even, odd, row, pairs, c);
}

template <typename A>
INLINE void separate(const A* row, A* even, A* odd, int64_t pairs, int64_t c) {
  if (c == 1) separate_channels<1>(row, even, odd, pairs, c);
  else if (c == 3) separate_channels<3>(row, even, odd, pairs, c);
  else separate_channels<0>(row, even, odd, pairs, c);
}

// Output columns [begin, end) from a row of input columns. `row` begins with input column `left`, holds all columns
// that the outputs read, and zeros in place of those outside the image. `add` adds to `out` instead of overwriting it.
template <typename A>
class RowFilter {
 public:
  // Rows have up to `columns` input columns of `c` channels.
  RowFilter(const Axis& axis, int64_t c, int64_t columns) : axis(axis), c(c), sources(axis.taps) {
    if (c <= kFewChannels) phases.resize(2 * (columns + axis.taps + 4) * c);
  }

  void run(const A* row, int64_t left, const A* weights, A* out, int64_t begin, int64_t end, bool add) {
    const bool few = c <= kFewChannels;
    if (axis.up == 1 && axis.down == 1) keep_size(row, left, weights, out, begin, end, add);
    else if (few && !add && axis.up == 2 && axis.down == 1) upsample_by_2(row, left, weights, out, begin, end);
    else if (few && axis.up == 1 && axis.down == 2) downsample_by_2(row, left, weights, out, begin, end, add);
    else if (axis.taps == 2) pixel_by_pixel<2>(row, left, weights, out, begin, end, add);
    else if (axis.taps == 4) pixel_by_pixel<4>(row, left, weights, out, begin, end, add);
    else pixel_by_pixel<0>(row, left, weights, out, begin, end, add);
  }

 private:
  const Axis& axis;
  const int64_t c;
  std::vector<A> phases;          // Even pixels, then odd pixels.
  std::vector<const A*> sources;  // The rows of a sum.

  // The first pixel of `row` that output o reads, and its tap.
  const A* first_pixel(const A* row, int64_t left, int64_t o, int* tap) const {
    int64_t first;
    axis.locate(o, &first, tap);
    return row + (first - left) * c;
  }

  void keep_size(const A* row, int64_t left, const A* weights, A* out, int64_t begin, int64_t end, bool add) {
    int tap;
    const A* source = first_pixel(row, left, begin, &tap);
    for (int j = 0; j < axis.taps; j++) sources[j] = source + j * c;
    sum_rows<A, A>(out, sources.data(), weights, axis.taps, (end - begin) * c, add);
  }

  // Outputs begin, begin + 2, ... have one phase, those between them the other.
  void upsample_by_2(const A* row, int64_t left, const A* weights, A* out, int64_t begin, int64_t end) {
    const int64_t pairs = (end - begin) / 2;
    A* even = phases.data();
    A* odd = even + (pairs + 1) * c;
    for (int i = 0; i < 2; i++) {
      int tap;
      const A* source = first_pixel(row, left, begin + i, &tap);
      for (int j = 0; j < axis.taps; j++) sources[j] = source + j * c;
      sum_rows<A, A>(i ? odd : even, sources.data(), weights + tap * axis.taps, axis.taps, (pairs + 1 - i) * c, false);
    }
    interleave(even, odd, out, pairs, c);
    if ((end - begin) % 2) std::copy_n(even + pairs * c, c, out + 2 * pairs * c);
  }

  // Even taps meet even pixels, odd taps odd ones.
  void downsample_by_2(const A* row, int64_t left, const A* weights, A* out, int64_t begin, int64_t end, bool add) {
    int tap;
    const int64_t pairs = end - begin + axis.taps / 2;
    A* even = phases.data();
    A* odd = even + pairs * c;
    separate(first_pixel(row, left, begin, &tap), even, odd, pairs, c);
    for (int j = 0; j < axis.taps; j++) sources[j] = (j % 2 ? odd : even) + (j / 2) * c;
    sum_rows<A, A>(out, sources.data(), weights, axis.taps, (end - begin) * c, add);
  }

  // kTaps is the number of taps of a phase, or 0 for any.
  template <int kTaps>
  void pixel_by_pixel(const A* row, int64_t left, const A* weights, A* out, int64_t begin, int64_t end, bool add) {
    int tap;
    int64_t first;
    axis.locate(begin, &first, &tap);
    for (int64_t o = begin; o < end; o++, out += c, axis.advance(&first, &tap)) {
      const A* source = row + (first - left) * c;
      const A* w = weights + tap * axis.taps;
      if (kTaps > 0 && !add) {
        const A* pixels[kTaps + 1];
        for (int j = 0; j < kTaps; j++) pixels[j] = source + j * c;
        sum_n_rows<A, A, kTaps ? kTaps : 1, false>(out, pixels, w, c);
      } else {
        for (int j = 0; j < axis.taps; j++) sources[j] = source + j * c;
        sum_rows<A, A>(out, sources.data(), w, axis.taps, c, add);
      }
    }
  }
};

// ---- Bands: what a thread computes at a time ----

// The rows of a result are split into bands of `rows` rows, which threads compute independently: no row is written by
// two of them. The last band has up to one row more, so that no band has a single row unless the image has (see
// NhwcBand).
struct Bands {
  int64_t height, rows, count;

  Bands(int64_t height, int64_t row_elements) : height(height) {
    // Each band reads a few input rows of its neighbours again, so bands should not be too low.
    rows = std::min(height, std::max<int64_t>(32, (1 << 16) / std::max<int64_t>(row_elements, 1) / 2 * 2));
    count = std::max<int64_t>(1, (height - 1 + rows - 1) / rows);
  }

  int64_t begin(int64_t band) const { return band * rows; }
  int64_t end(int64_t band) const { return band + 1 == count ? height : (band + 1) * rows; }
};

// ---- The operation ----

template <typename T>
class Upfirdn {
  using A = Accumulator<T>;

 public:
  explicit Upfirdn(const UpfirdnParams& p)
      : p(p), filter(split_filter<A>(p)), bands(p.out_h, p.out_w * p.minor),
        axis_y(p.up_y, p.down_y, p.pad_y0, p.k_h), axis_x(p.up_x, p.down_x, p.pad_x0, p.k_w),
        weights_y(weights_by_phase(filter.column, p.up_y, axis_y.taps)),
        nontemporal(p.major * p.out_h * p.out_w * p.minor * static_cast<int64_t>(sizeof(T)) >= kNontemporalBytes) {
    for (const auto& row : filter.rows) weights_x.push_back(weights_by_phase(row, p.up_x, axis_x.taps));
    // A strip's inputs and outputs both fit into a block. Strips start at the same phase, hence the multiple of up_x.
    const int64_t inputs_per_output = p.down_x > p.up_x ? p.down_x : 1;
    const int64_t step = 2 * p.up_x;
    strip = std::max<int64_t>(kBlockElements / (p.minor * inputs_per_output) / step * step, step);
    strip = std::min(strip, p.out_w);
  }

  void run(const ParallelFor& parallel) {
    const int64_t cost = bands.rows * std::max({p.out_w * p.minor, p.in_w * p.minor, int64_t(1)}) * filter.rows.size();
    if constexpr (std::is_same_v<A, float>) {
      const NhwcKernel<T> kernel = filter.separable ? find_nhwc_kernel<T>(p, axis_y.taps, axis_x.taps) : nullptr;
      if (kernel != nullptr) return run_nhwc(kernel, parallel, cost);
    }
    parallel(p.major * bands.count, cost, [&](int64_t first, int64_t last) {
      Worker worker(*this);
      for (int64_t i = first; i < last; i++) worker.compute_band(i / bands.count, i % bands.count);
      if (nontemporal) nontemporal_fence();
    });
  }

 private:
  const UpfirdnParams& p;
  const Filter<A> filter;
  const Bands bands;
  const Axis axis_y, axis_x;
  const std::vector<A> weights_y;           // [up_y, taps of a phase], of filter.column.
  std::vector<std::vector<A>> weights_x;    // [up_x, taps of a phase], for each of filter.rows.
  const bool nontemporal;
  int64_t strip;                            // Output columns that are computed at once.

  const T* input(int64_t image) const { return static_cast<const T*>(p.x) + image * p.in_h * p.in_w * p.minor; }
  T* output(int64_t image) const { return static_cast<T*>(p.y) + image * p.out_h * p.out_w * p.minor; }

  void run_nhwc(NhwcKernel<T> kernel, const ParallelFor& parallel, int64_t cost) {
    const std::vector<T> zeros(p.in_w * p.minor, T{});
    const bool aligned = can_store_nontemporal(static_cast<const T*>(p.y), p.out_w * p.minor);
    parallel(p.major * bands.count, cost, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; i++) {
        const int64_t image = i / bands.count, band = i % bands.count;
        kernel(p, {input(image), output(image), bands.begin(band), bands.end(band), weights_y.data(),
                   weights_x[0].data(), zeros.data(), nontemporal && aligned});
      }
      if (nontemporal && aligned) nontemporal_fence();
    });
  }

  // A thread's buffers, and what it does with them.
  class Worker {
   public:
    explicit Worker(const Upfirdn& op)
        : op(op), p(op.p), columns(op.strip * p.down_x / p.up_x + op.axis_x.taps + 2 * p.down_x + 2),
          row((columns + 2) * p.minor), out(op.strip * p.minor), staging(kBlockElements), sources(op.axis_y.taps),
          row_filter(op.axis_x, p.minor, columns) {}

    void compute_band(int64_t image, int64_t band) {
      for (int64_t begin = 0; begin < p.out_w; begin += op.strip) {
        const int64_t end = std::min(p.out_w, begin + op.strip);
        int tap;
        int64_t last;
        op.axis_x.locate(begin, &left, &tap);
        op.axis_x.locate(end - 1, &last, &tap);
        // Where phases are computed separately, one pixel more is read than is used.
        const int64_t right = std::max(last, left) + op.axis_x.taps + p.down_x;
        in_begin = std::clamp<int64_t>(left, 0, p.in_w);
        in_end = std::clamp<int64_t>(right, in_begin, p.in_w);
        std::fill(row.begin(), row.end(), A(0));
        for (int64_t oy = op.bands.begin(band); oy < op.bands.end(band); oy++) {
          compute_row(op.input(image), oy, begin, end);
          T* target = op.output(image) + (oy * p.out_w + begin) * p.minor;
          store_row<T>(out.data(), target, (end - begin) * p.minor, op.nontemporal, staging.data());
        }
      }
    }

   private:
    const Upfirdn& op;
    const UpfirdnParams& p;
    const int64_t columns;            // Input columns of a strip, at most.
    int64_t left;                     // The input column that `row` begins with, which may lie outside the image.
    int64_t in_begin, in_end;         // The input columns of the strip that lie in the image.
    std::vector<A> row, out;          // An input row or the sums down its columns; an output row.
    std::vector<T> staging;
    std::vector<const T*> sources;    // The input rows of a sum.
    RowFilter<A> row_filter;

    // Columns [begin, end) of output row oy, into `out`.
    void compute_row(const T* x, int64_t oy, int64_t begin, int64_t end) {
      int tap;
      int64_t first;
      op.axis_y.locate(oy, &first, &tap);
      // Taps [j0, j1) fall on rows of the image.
      const int j0 = static_cast<int>(std::clamp<int64_t>(-first, 0, op.axis_y.taps));
      const int j1 = static_cast<int>(std::clamp<int64_t>(p.in_h - first, j0, op.axis_y.taps));
      const int64_t n = (in_end - in_begin) * p.minor;
      A* inside = row.data() + (in_begin - left) * p.minor;
      const T* source = x + ((first + j0) * p.in_w + in_begin) * p.minor;
      if (op.filter.separable) {
        for (int j = j0; j < j1; j++) sources[j - j0] = source + (j - j0) * p.in_w * p.minor;
        const A* weights = op.weights_y.data() + tap * op.axis_y.taps + j0;
        sum_rows<A, T>(inside, sources.data(), weights, j1 - j0, n, false);
        row_filter.run(row.data(), left, op.weights_x[0].data(), out.data(), begin, end, false);
        return;
      }
      std::fill(out.begin(), out.end(), A(0));
      for (int j = j0; j < j1; j++) {
        const size_t ky = tap + static_cast<size_t>(j) * p.up_y;
        if (ky >= op.weights_x.size()) continue;
        load_row<T>(source + (j - j0) * p.in_w * p.minor, inside, n);
        row_filter.run(row.data(), left, op.weights_x[ky].data(), out.data(), begin, end, true);
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
