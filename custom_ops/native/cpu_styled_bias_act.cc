// styled_bias_act on the CPU: what follows a modulated convolution (demodulation, noise, bias, activation, gain and
// clamp) in one pass over memory, and its gradient in another.

#include "cpu_common.h"
#include "cpu_kernels.h"

#include <cmath>

namespace stylegan2 {
namespace {

// How an image is divided: a thread computes so many pixels with all their channels at a time. It depends on the shape
// alone, so that sums are the same for any number of threads.
struct Units {
  int64_t pixels, count;

  template <typename Params>
  explicit Units(const Params& p)
      // NHWC: about 64 K elements. NCHW: a whole number of cache lines of each channel.
      : pixels(p.nchw ? 1024 : std::clamp<int64_t>((1 << 16) / p.channels, 1, 1024)),
        count((p.pixels + pixels - 1) / pixels) {}
};

template <typename T>
bool store_nontemporal(T* result, int64_t size, int64_t row) {
  return size * static_cast<int64_t>(sizeof(T)) >= kNontemporalBytes && can_store_nontemporal(result, row);
}

// ---- y ----
// A row is a pixel in NHWC and some pixels of a channel in NCHW. What belongs to the columns of a row is an array, what
// belongs to the row a number.

template <typename T, bool kNchw>
INLINE void compute_row(const StyledBiasActParams& p, const T* x, const float* scale, const float* added, float constant,
                        T* y, int64_t n, bool nontemporal) {
  using A = Accumulator<T>;
  const A gain = p.gain, below = gain * A(p.alpha), clamp = p.clamp, more = constant;
  const A factor = kNchw ? *scale : 0;
  const auto value = [=](auto v, int64_t i) {
    using V = decltype(v);
    V z = get<V>(x + i);
    if constexpr (kNchw) z = z * factor;
    else z = z * get<V>(scale + i);
    z = z + (get<V>(added + i) + more);
    return clip(V(z * select_by_sign(z, gain, below)), clamp);
  };
  int64_t i = 0;
  if constexpr (std::is_same_v<A, float>)
    for (; i + kLanes <= n; i += kLanes) {
      __builtin_prefetch(x + i + kPrefetchBytes / sizeof(T));
      store(y + i, value(Floats(), i), nontemporal);
    }
  for (; i < n; i++) {
    const A v = value(A(), i);
    convert_row<T>(&v, y + i, 1);
  }
}

template <typename T, bool kNchw>
void run(const StyledBiasActParams& p, const ParallelFor& parallel) {
  const Units units(p);
  const int64_t columns = kNchw ? p.pixels : p.channels;
  const bool nontemporal =
      store_nontemporal(static_cast<const T*>(p.y), p.images * p.pixels * p.channels, columns);
  parallel(p.images * units.count, units.pixels * p.channels, [&](int64_t first, int64_t last) {
    const StyledBiasActParams params = p;  // A copy that no store can alias, so that its numbers stay in registers.
    const int64_t longest = kNchw ? units.pixels : p.channels;
    const std::vector<float> ones(p.channels, 1.0f), zeros(longest, 0.0f);
    for (int64_t index = first; index < last; index++) {
      const int64_t image = index / units.count, begin = index % units.count * units.pixels;
      const int64_t end = std::min(p.pixels, begin + units.pixels);
      const float* scale = p.scale ? p.scale + image * p.channels : ones.data();
      const float* noise = p.noise ? p.noise + (p.one_noise ? 0 : image * p.pixels) : nullptr;
      const auto compute = [&](int64_t offset, const float* scale, const float* added, float constant, int64_t n) {
        compute_row<T, kNchw>(params, static_cast<const T*>(p.x) + offset, scale, added, constant,
                              static_cast<T*>(p.y) + offset, n, nontemporal);
      };
      if constexpr (kNchw)
        for (int64_t c = 0; c < p.channels; c++)
          compute((image * p.channels + c) * p.pixels + begin, scale + c, noise ? noise + begin : zeros.data(),
                  p.b ? p.b[c] : 0.0f, end - begin);
      else
        for (int64_t pixel = begin; pixel < end; pixel++)
          compute((image * p.pixels + pixel) * p.channels, scale, p.b ? p.b : zeros.data(), noise ? noise[pixel] : 0.0f,
                  p.channels);
    }
    if (nontemporal) nontemporal_fence();
  });
}

// ---- The gradient ----

// Sums of dz and of dz * x.
template <typename V> struct Sums { V dz, product; };

template <typename A, typename V>
INLINE void add_to(A* sum, V value) {
  if constexpr (std::is_same_v<V, Floats>) store(sum, load(sum) + value, false);
  else *sum += value;
}

// Writes dx and returns the sums over the row. Adds dz to the columns of `sums` and, NHWC, dz * x to those of `products`.
template <typename T, bool kNchw, typename A = Accumulator<T>>
INLINE Sums<A> compute_gradient_row(const StyledBiasActGradParams& p, int64_t offset, const float* scale, A* sums,
                                    A* products, int64_t n, bool nontemporal) {
  const T *dy = static_cast<const T*>(p.dy) + offset, *y = static_cast<const T*>(p.y) + offset;
  const T* x = p.x ? static_cast<const T*>(p.x) + offset : nullptr;
  T* dx = static_cast<T*>(p.dx) + offset;
  const A gain = p.gain, below = gain * A(p.alpha), clamp = p.clamp;
  const A factor = kNchw ? *scale : 0;
  const auto value = [=](int64_t i, auto& total) {
    using V = std::remove_reference_t<decltype(total.dz)>;
    const V result = get<V>(y + i), high = V{} + clamp, rate = select_by_sign(result, gain, below);
    const V dz = get<V>(dy + i) * (result >= high ? V{} : V(result <= -high ? V{} : rate));
    total.dz += dz;
    add_to(sums + i, dz);
    if (x) {
      const V product = dz * get<V>(x + i);
      if constexpr (kNchw) total.product += product;
      else add_to(products + i, product);
    }
    if constexpr (kNchw) return V(dz * factor);
    else return V(dz * get<V>(scale + i));
  };
  Sums<A> total = {};
  int64_t i = 0;
  if constexpr (std::is_same_v<A, float>) {
    Sums<Floats> totals = {};
    for (; i + kLanes <= n; i += kLanes) {
      __builtin_prefetch(dy + i + kPrefetchBytes / sizeof(T));
      __builtin_prefetch(y + i + kPrefetchBytes / sizeof(T));
      store(dx + i, value(i, totals), nontemporal);
    }
    for (int lane = 0; lane < kLanes; lane++) total.dz += totals.dz[lane], total.product += totals.product[lane];
  }
  for (; i < n; i++) {
    const A v = value(i, total);
    convert_row<T>(&v, dx + i, 1);
  }
  return total;
}

template <typename T, bool kNchw>
void run(const StyledBiasActGradParams& p, const ParallelFor& parallel) {
  using A = Accumulator<T>;
  const Units units(p);
  const int64_t num_units = p.images * units.count, columns = kNchw ? p.pixels : p.channels;
  const bool nontemporal =
      store_nontemporal(static_cast<const T*>(p.dx), p.images * p.pixels * p.channels, columns);
  std::vector<A> dz_sums(num_units * p.channels), product_sums(p.dscale ? num_units * p.channels : 0);
  std::vector<float> noises(p.dnoise && p.one_noise ? p.images * p.pixels : 0);
  parallel(num_units, 2 * units.pixels * p.channels, [&](int64_t first, int64_t last) {
    const StyledBiasActGradParams params = p;
    const std::vector<float> ones(p.channels, 1.0f);
    std::vector<A> pixel_sums(units.pixels);
    for (int64_t index = first; index < last; index++) {
      const int64_t image = index / units.count, begin = index % units.count * units.pixels;
      const int64_t end = std::min(p.pixels, begin + units.pixels);
      const float* scale = p.scale ? p.scale + image * p.channels : ones.data();
      A* sums = dz_sums.data() + index * p.channels;
      A* products = p.dscale ? product_sums.data() + index * p.channels : nullptr;
      if constexpr (kNchw) {
        std::fill(pixel_sums.begin(), pixel_sums.end(), A(0));
        for (int64_t c = 0; c < p.channels; c++) {
          const Sums<A> total =
              compute_gradient_row<T, kNchw>(params, (image * p.channels + c) * p.pixels + begin, scale + c,
                                             pixel_sums.data(), static_cast<A*>(nullptr), end - begin, nontemporal);
          sums[c] = total.dz;
          if (products) products[c] = total.product;
        }
      } else {
        for (int64_t pixel = begin; pixel < end; pixel++)
          pixel_sums[pixel - begin] =
              compute_gradient_row<T, kNchw>(params, (image * p.pixels + pixel) * p.channels, scale, sums, products,
                                             p.channels, nontemporal).dz;
      }
      if (p.dnoise)
        std::copy_n(pixel_sums.data(), end - begin,
                    (p.one_noise ? noises.data() : p.dnoise) + image * p.pixels + begin);
    }
    if (nontemporal) nontemporal_fence();
  });

  // out[i] = sum of sums[row, i] over `rows` rows of n numbers.
  const auto add_rows = [](const auto* sums, int64_t rows, int64_t n, float* out) {
    std::vector<double> totals(n, 0.0);
    for (int64_t row = 0; row < rows; row++)
      for (int64_t i = 0; i < n; i++) totals[i] += sums[row * n + i];
    std::copy_n(totals.data(), n, out);
  };
  if (p.db) add_rows(dz_sums.data(), num_units, p.channels, p.db);
  if (p.dscale)
    for (int64_t image = 0; image < p.images; image++)
      add_rows(product_sums.data() + image * units.count * p.channels, units.count, p.channels,
               p.dscale + image * p.channels);
  if (!noises.empty()) add_rows(noises.data(), p.images, p.pixels, p.dnoise);
}

template <typename Params>
void run_dtype(const Params& p, const ParallelFor& parallel) {
  switch (p.dtype) {
    case kFloat32: return p.nchw ? run<float, true>(p, parallel) : run<float, false>(p, parallel);
    case kFloat64: return p.nchw ? run<double, true>(p, parallel) : run<double, false>(p, parallel);
    case kBFloat16: return p.nchw ? run<BFloat16, true>(p, parallel) : run<BFloat16, false>(p, parallel);
    case kFloat16: return p.nchw ? run<Half, true>(p, parallel) : run<Half, false>(p, parallel);
  }
}

}  // namespace

void styled_bias_act_cpu(const StyledBiasActParams& p, const ParallelFor& parallel) {
  if (p.images * p.pixels * p.channels > 0) run_dtype(p, parallel);
}

void styled_bias_act_grad_cpu(const StyledBiasActGradParams& p, const ParallelFor& parallel) {
  if (p.images * p.pixels * p.channels > 0) return run_dtype(p, parallel);
  // Sums of nothing.
  if (p.dscale) std::fill_n(p.dscale, p.images * p.channels, 0.0f);
  if (p.dnoise) std::fill_n(p.dnoise, p.one_noise ? p.pixels : p.images * p.pixels, 0.0f);
  if (p.db) std::fill_n(p.db, p.channels, 0.0f);
}

}  // namespace stylegan2
