// fused_bias_act and its derivatives on the CPU: one pass over memory, in blocks that stay in the first-level cache.

#include "cpu_kernels.h"

#include <cmath>
#include <vector>

namespace stylegan2 {
namespace {

constexpr double kSeluScale = 1.0507009873554804934193349852946;
constexpr double kSeluAlpha = 1.6732632423543772848170429916717;

template <typename A> using Array = Eigen::Map<Eigen::Array<A, Eigen::Dynamic, 1>>;

// Eigen computes what lies before the first aligned element one by one, and its scalar functions round differently from those on
// vectors. With aligned buffers results depend on the shape alone, not on where the memory happens to lie.
template <typename A> using Buffer = std::vector<A, Eigen::aligned_allocator<A>>;

// ---- Activations of a block, in place ----

template <typename A>
A polynomial(const double* coef, A x) {
  A y = A(coef[kMaxOrder + 1]);
  for (int i = kMaxOrder; i >= 0; i--) y = y * x + A(coef[i]);
  return y;
}

template <typename A>
INLINE void polynomials(const double* coef, A* x, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] = polynomial(coef, x[i]);
}

// z -> act(z).
template <typename A>
void activate(const BiasActParams& p, A* data, int64_t n) {
  Array<A> z(data, n);
  const A alpha = p.alpha;
  switch (p.act) {
    case kLinear: break;
    case kRelu: for (int64_t i = 0; i < n; i++) data[i] = data[i] <= 0 ? A(0) : data[i]; break;  // Keeps NaN.
    case kLeakyRelu: for (int64_t i = 0; i < n; i++) data[i] = data[i] > 0 ? data[i] : data[i] * alpha; break;
    case kTanh: z = z.tanh(); break;
    case kSigmoid: z = z.logistic(); break;
    case kElu: z = (z < A(0)).select(z.min(A(0)).expm1(), z); break;
    case kSelu: z = A(kSeluScale) * (z < A(0)).select(A(kSeluAlpha) * z.min(A(0)).expm1(), z); break;
    case kSoftplus: z = z.max(A(0)) + (-z.abs()).exp().log1p(); break;
    case kSwish: z *= z.logistic(); break;
  }
}

// z -> act^(order)(z).
template <typename A>
void derive(const BiasActParams& p, A* data, int64_t n) {
  Array<A> z(data, n);
  const A alpha = p.alpha;
  const bool first = p.order == 1;
  switch (p.act) {
    case kLinear: z.setConstant(first ? A(1) : A(0)); break;
    case kRelu: for (int64_t i = 0; i < n; i++) data[i] = first && data[i] > 0 ? A(1) : A(0); break;
    case kLeakyRelu: for (int64_t i = 0; i < n; i++) data[i] = !first ? A(0) : data[i] > 0 ? A(1) : alpha; break;
    case kTanh: z = z.tanh(); polynomials(p.coef, data, n); break;
    case kSigmoid: case kSoftplus: z = z.logistic(); polynomials(p.coef, data, n); break;
    case kElu: z = (z < A(0)).select(z.min(A(0)).exp(), first ? A(1) : A(0)); break;
    case kSelu: z = A(kSeluScale) * (z < A(0)).select(A(kSeluAlpha) * z.min(A(0)).exp(), first ? A(1) : A(0)); break;
    case kSwish:
      for (int64_t i = 0; i < n; i++) {
        const A s = A(1) / (A(1) + std::exp(-data[i]));
        data[i] = data[i] * polynomial(p.coef, s) + A(p.order) * polynomial(p.coef2, s);
      }
      break;
  }
}

// ---- The passes ----

template <typename T>
class BiasAct {
  using A = Accumulator<T>;

 public:
  explicit BiasAct(const BiasActParams& p)
      : p(p), slab(p.inner == 1 ? p.outer * p.channels : p.channels * p.inner), slabs(p.inner == 1 ? 1 : p.outer),
        stream(p.outer * p.channels * p.inner * static_cast<int64_t>(sizeof(T)) >= kStreamBytes) {
    // A block is a whole number of pixels, if they are small enough, so that one copy of the bias fits all blocks.
    block = p.inner == 1 && p.channels <= kBlock ? kBlock / p.channels * p.channels : kBlock;
    block = std::min(block, slab);
    // Parts of about 2^16 elements and of one size.
    const int64_t blocks = (slab + block - 1) / block, parts = (slab + (1 << 16) - 1) >> 16;
    unit = (blocks + parts - 1) / parts * block;
    units = (slab + unit - 1) / unit;
  }

  void run(const ParallelFor& parallel) {
    // Parts depend on the shape alone, so sums are the same whatever the number of threads.
    if (p.db) partial.assign(slabs * units * p.channels, A(0));
    parallel(slabs * units, unit, [&](int64_t first, int64_t last) {
      Work work(*this);
      for (int64_t i = first; i < last; i++) work.part(i);
      if (stream) stream_fence();
    });
    if (p.db) add_up();
  }

 private:
  const BiasActParams& p;
  const int64_t slab, slabs;   // Elements that follow one another before the channels start anew, and how many such runs.
  const bool stream;
  int64_t block, unit, units;  // Elements of a block, of a part of a slab, parts of a slab.
  std::vector<A> partial;      // [slabs * units, channels].

  void add_up() const {
    T* db = static_cast<T*>(p.db);
    std::vector<double> sums(p.channels, 0.0);
    const A* row = partial.data();
    for (int64_t i = 0; i < slabs * units; i++, row += p.channels)
      for (int64_t c = 0; c < p.channels; c++) sums[c] += row[c];
    for (int64_t c = 0; c < p.channels; c++) db[c] = static_cast<T>(static_cast<A>(sums[c]));
  }

  // What one thread needs.
  struct Work {
    const BiasAct& u;
    const BiasActParams& p;
    const bool patterned;     // The same biases in every block.
    const bool reads_x;
    const bool curved;        // More than a slope on each side of zero.
    Buffer<A> b, c, z, g, sums;
    std::vector<T> staging;

    explicit Work(const BiasAct& u)
        : u(u), p(u.p), patterned(p.inner == 1 && u.block % p.channels == 0),
          reads_x(p.order == 0 || p.act != kLinear || p.clamp >= 0),
          curved(p.order > 1 || (p.act != kLinear && p.act != kRelu && p.act != kLeakyRelu)),
          b(u.block, A(0)), c(p.order ? u.block : 0, A(0)), z(curved ? u.block : 0), g(u.block),
          sums(p.db && patterned ? u.block : 0), staging(u.stream ? kBlock : 0) {
      if (patterned) fill(0, u.block);
    }

    // Where a block is computed: in its place, or where it is converted or streamed from, and curves always find it aligned.
    A* target(int64_t start) {
      if constexpr (std::is_same_v<T, A>)
        if (p.y && !u.stream && !curved) return static_cast<T*>(p.y) + start;
      return g.data();
    }

    // Biases of the elements [start, start + n) of a slab.
    void fill(int64_t start, int64_t n) {
      if (p.b) spread(static_cast<const T*>(p.b), start, n, b.data());
      if (p.c) spread(static_cast<const T*>(p.c), start, n, c.data());
    }

    void spread(const T* values, int64_t start, int64_t n, A* out) {
      if (patterned) {  // One pixel, then twice as many each time.
        load_row<T>(values, out, p.channels);
        for (int64_t done = p.channels; done < n; done *= 2) std::copy_n(out, std::min(done, n - done), out + done);
        return;
      }
      int64_t channel = start / p.inner % p.channels, rest = p.inner - start % p.inner;
      for (int64_t i = 0; i < n; rest = p.inner, channel = channel + 1 == p.channels ? 0 : channel + 1) {
        const int64_t m = std::min(rest, n - i);
        std::fill(out + i, out + i + m, to_float(values[channel]));
        i += m;
      }
    }

    void part(int64_t index) {
      const int64_t offset = index / u.units * u.slab, start = index % u.units * u.unit, end = std::min(u.slab, start + u.unit);
      A* row = p.db ? u_partial() + index * p.channels : nullptr;
      std::fill(sums.begin(), sums.end(), A(0));
      for (int64_t i = start; i < end; i += u.block) {
        const int64_t n = std::min(u.block, end - i);
        if (!patterned) fill(i, n);
        A* out = target(offset + i);
        p.order == 0 ? forward(offset + i, n, out) : backward(offset + i, n, out);
        if (p.y && out == g.data()) store_row<T>(out, static_cast<T*>(p.y) + offset + i, n, u.stream, staging.data());
        if (row && !patterned) count(i, n, out, row);
      }
      if (!row || !patterned) return;
      for (int64_t pixels = u.block / p.channels, half; pixels > 1; pixels = half) {  // Folded until one pixel is left.
        half = (pixels + 1) / 2;
        A* first = sums.data();
        const A* second = first + half * p.channels;
#pragma GCC ivdep
        for (int64_t i = 0; i < (pixels - half) * p.channels; i++) first[i] += second[i];
      }
      std::copy_n(sums.data(), p.channels, row);
    }

    A* u_partial() { return const_cast<A*>(u.partial.data()); }

    void count(int64_t start, int64_t n, const A* out, A* row) {
      int64_t channel = start / p.inner % p.channels, rest = p.inner - start % p.inner;
      for (int64_t i = 0; i < n; rest = p.inner, channel = channel + 1 == p.channels ? 0 : channel + 1) {
        const int64_t m = std::min(rest, n - i);
        row[channel] += Eigen::Map<const Eigen::Array<A, Eigen::Dynamic, 1>>(out + i, m).sum();
        i += m;
      }
    }

    // out[i] = value(i), added up on the way where every block has the same channels: memory is read without a pause. `out` may be the
    // place of x or of dy, element by element.
    template <typename Value>
    INLINE void each(int64_t n, A* out, const Value& value) {
      A* total = sums.data();
      if (sums.empty()) {
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) out[i] = value(i);
      } else {
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) {
          const A v = value(i);
          out[i] = v;
          total[i] += v;
        }
      }
    }

    void forward(int64_t start, int64_t n, A* out) {
      const T* x = static_cast<const T*>(p.x) + start;
      const A* bias = b.data();
      const A gain = p.gain;
      if (p.act == kLinear || p.act == kLeakyRelu) {
        const A below = p.act == kLinear ? gain : gain * A(p.alpha);
        each(n, out, [=](int64_t i) {
          const A sum = to_float(x[i]) + bias[i];
          return sum * (sum > 0 ? gain : below);
        });
        if (p.clamp >= 0) limit(out, n);
        return;
      }
      load_row<T>(x, out, n);
      for (int64_t i = 0; i < n; i++) out[i] += bias[i];
      activate<A>(p, out, n);
      for (int64_t i = 0; i < n; i++) out[i] *= gain;
      if (p.clamp >= 0) limit(out, n);
    }

    void limit(A* out, int64_t n) {
      const A clamp = p.clamp;
      for (int64_t i = 0; i < n; i++) out[i] = out[i] < -clamp ? -clamp : out[i] > clamp ? clamp : out[i];  // Keeps NaN.
    }

    void backward(int64_t start, int64_t n, A* out) {
      const T* x = static_cast<const T*>(p.x) + (reads_x ? start : 0);
      const T* dy = static_cast<const T*>(p.dy) + start;
      const A* bias = b.data();
      const A* added = c.data();
      const A gain = p.gain;
      if (p.order == 1 && p.clamp >= 0) {  // x is the result.
        const A clamp = p.clamp, below = p.act == kLinear ? gain : p.act == kRelu ? A(0) : gain * A(p.alpha);
        return each(n, out, [=](int64_t i) {
          const A y = to_float(x[i]), slope = y > 0 ? gain : below;
          return (to_float(dy[i]) + added[i]) * (std::abs(y) >= clamp ? A(0) : slope);
        });
      }
      if (p.order == 1 && p.act == kLinear) return each(n, out, [=](int64_t i) { return (to_float(dy[i]) + added[i]) * gain; });
      if (p.order == 1 && (p.act == kRelu || p.act == kLeakyRelu)) {
        const A below = p.act == kRelu ? A(0) : gain * A(p.alpha);
        if (p.ref_is_y)
          each(n, out, [=](int64_t i) { return (to_float(dy[i]) + added[i]) * (to_float(x[i]) > 0 ? gain : below); });
        else
          each(n, out, [=](int64_t i) { return (to_float(dy[i]) + added[i]) * (to_float(x[i]) + bias[i] > 0 ? gain : below); });
        return;
      }
      A* RESTRICT point = z.data();
      if (reads_x) load_row<T>(x, point, n);
      for (int64_t i = 0; i < n; i++) point[i] += bias[i];
      derive<A>(p, point, n);
      load_row<T>(dy, out, n);
      each(n, out, [=](int64_t i) { return (out[i] + added[i]) * point[i] * gain; });
    }
  };
};

}  // namespace

void bias_act_cpu(const BiasActParams& p, const ParallelFor& parallel) {
  if (p.outer * p.channels * p.inner == 0) {
    const int64_t size = p.dtype == kFloat64 ? 8 : p.dtype == kFloat32 ? 4 : 2;
    if (p.db) std::memset(p.db, 0, p.channels * size);  // Sums of nothing.
    return;
  }
  switch (p.dtype) {
    case kFloat32: return BiasAct<float>(p).run(parallel);
    case kFloat64: return BiasAct<double>(p).run(parallel);
    case kBFloat16: return BiasAct<Eigen::bfloat16>(p).run(parallel);
    case kFloat16: return BiasAct<Eigen::half>(p).run(parallel);
  }
}

}  // namespace stylegan2
