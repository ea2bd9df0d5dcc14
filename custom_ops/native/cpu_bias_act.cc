// fused_bias_act and its derivatives on the CPU: one pass over memory, in blocks that stay in the first-level cache.

#include "cpu_common.h"
#include "cpu_curves.h"
#include "cpu_kernels.h"

namespace stylegan2 {
namespace {

// sums[i] += x[i].
template <typename A>
INLINE void add_row(const A* x, A* sums, int64_t n) {
  int64_t i = 0;
  if constexpr (std::is_same_v<A, float>)
    for (; i + kLanes <= n; i += kLanes) store(sums + i, load(sums + i) + load(x + i), false);
  for (; i < n; i++) sums[i] += x[i];
}

template <typename T>
class BiasAct {
  using A = Accumulator<T>;

 public:
  explicit BiasAct(const BiasActParams& p)
      : p(p), slab(p.inner == 1 ? p.outer * p.channels : p.channels * p.inner), slabs(p.inner == 1 ? 1 : p.outer),
        stream(p.outer * p.channels * p.inner * static_cast<int64_t>(sizeof(T)) >= kStreamBytes) {
    // Channels last, a block is a whole number of pixels, so that one copy of the bias fits all blocks; of sixteen pixels, if they are
    // small, so that each block begins where sixteen elements do. Otherwise it is of one channel.
    const int64_t group = p.inner > 1 ? 1 : p.channels * kLanes <= kBlock ? p.channels * kLanes : p.channels;
    block = std::min(p.inner > 1 ? p.inner : slab, std::max<int64_t>(kBlock / group, 1) * group);
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
      for (int64_t i = first; i < last; i++) work.part(i, p.db ? partial.data() + i * p.channels : nullptr);
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
    for (int64_t c = 0; c < p.channels; c++) from_float(static_cast<A>(sums[c]), db + c);
  }

  // What one thread needs.
  struct Work {
    const BiasAct& u;
    const BiasActParams& p;
    const bool curved;        // More than a slope on each side of zero.
    Buffer<A> b, c, z, sums;  // Of a block: biases, what is added to dy, points of a curve, sums over the blocks (channels last).

    explicit Work(const BiasAct& u)
        : u(u), p(u.p), curved(p.order > 1 || (p.act != kLinear && p.act != kRelu && p.act != kLeakyRelu)),
          b(u.block, A(0)), c(p.order ? u.block : 0, A(0)), z(curved ? u.block : 0), sums(p.db && p.inner == 1 ? u.block : 0) {
      if (p.inner == 1) fill(0);
    }

    void part(int64_t index, A* row) {
      const int64_t offset = index / u.units * u.slab, start = index % u.units * u.unit, end = std::min(u.slab, start + u.unit);
      std::fill(sums.begin(), sums.end(), A(0));
      int64_t filled = -1;
      for (int64_t i = start, n; i < end; i += n) {
        n = std::min(u.block, end - i);
        if (p.inner == 1) {
          block(offset + i, n);
          continue;
        }
        const int64_t channel = i / p.inner;
        n = std::min(n, p.inner - i % p.inner);
        if (channel != filled) fill(filled = channel);
        const A total = block(offset + i, n);
        if (row) row[channel] += total;
      }
      if (!row || p.inner != 1) return;
      for (int64_t pixels = u.block / p.channels, half; pixels > 1; pixels = half) {  // Folded until one pixel is left.
        half = (pixels + 1) / 2;
        add_row<A>(sums.data() + half * p.channels, sums.data(), (pixels - half) * p.channels);
      }
      std::copy_n(sums.data(), p.channels, row);
    }

    // Biases of a block: of one channel or, channels last, of all in turn.
    void fill(int64_t channel) {
      if (p.b) spread(static_cast<const T*>(p.b), channel, b);
      if (p.c) spread(static_cast<const T*>(p.c), channel, c);
    }

    void spread(const T* values, int64_t channel, Buffer<A>& out) {
      if (p.inner > 1) return std::fill(out.begin(), out.end(), to_float(values[channel]));
      load_row<T>(values, out.data(), p.channels);
      const int64_t n = out.size();  // One pixel, then twice as many each time.
      for (int64_t done = p.channels; done < n; done *= 2) std::copy_n(out.data(), std::min(done, n - done), out.data() + done);
    }

    // The sum of a block's results, unless it went to `sums`.
    A block(int64_t start, int64_t n) { return p.order == 0 ? forward(start, n) : backward(start, n); }

    // An element, or sixteen.
    template <typename V, typename S>
    static INLINE V get(const S* source) {
      if constexpr (std::is_same_v<V, Floats>) return load(source);
      else return to_float(*source);
    }

    // y[i] = value(V(), i), where V is the type of an element or of sixteen, added up on the way: memory is read without a pause. y may
    // be the place of x or of dy, element by element.
    template <typename Value>
    INLINE A each(int64_t start, int64_t n, const Value& value) {
      T* y = p.y ? static_cast<T*>(p.y) + start : nullptr;
      const T* x_ahead = p.x ? static_cast<const T*>(p.x) + start + kAhead / sizeof(T) : nullptr;
      const T* dy_ahead = p.dy ? static_cast<const T*>(p.dy) + start + kAhead / sizeof(T) : nullptr;
      A* block_sums = sums.empty() ? nullptr : sums.data();
      int64_t i = 0;
      A total = 0;
      if constexpr (std::is_same_v<A, float>) {
        const bool stream = u.stream && can_stream(y, 0);
        Floats lanes = {};
        for (; i + kLanes <= n; i += kLanes) {
          if (x_ahead) __builtin_prefetch(x_ahead + i);
          if (dy_ahead) __builtin_prefetch(dy_ahead + i);
          const Floats v = value(Floats(), i);
          if (y) store(y + i, v, stream);
          if (block_sums) store(block_sums + i, load(block_sums + i) + v, false);
          else lanes += v;
        }
        for (int lane = 0; lane < kLanes; lane++) total += lanes[lane];
      }
      for (; i < n; i++) {
        const A v = value(A(), i);
        if (y) convert_row<T>(&v, y + i, 1);
        if (block_sums) block_sums[i] += v;
        else total += v;
      }
      return total;
    }

    A forward(int64_t start, int64_t n) {
      const T* x = static_cast<const T*>(p.x) + start;
      const A* bias = b.data();
      const A gain = p.gain, below = p.act == kLinear ? gain : gain * A(p.alpha);
      if (p.act == kLinear || p.act == kLeakyRelu)
        return clamped_each(start, n, [=](auto v, int64_t i) {
          using V = decltype(v);
          const V sum = get<V>(x + i) + get<V>(bias + i);
          return V(sum * slope(sum, gain, below));
        });
      if (p.act == kRelu)
        return clamped_each(start, n, [=](auto v, int64_t i) {
          using V = decltype(v);
          const V sum = get<V>(x + i) + get<V>(bias + i);
          return V(sum <= 0 ? V{} : V(sum * gain));  // Keeps NaN.
        });
      A* point = z.data();
      load_row<T>(x, point, n);
      add_row(bias, point, n);
      activate(p, point, n);
      return clamped_each(start, n, [=](auto v, int64_t i) { return get<decltype(v)>(point + i) * gain; });
    }

    template <typename Value>
    INLINE A clamped_each(int64_t start, int64_t n, const Value& value) {
      if (p.clamp < 0) return each(start, n, value);
      const A clamp = p.clamp;
      return each(start, n, [=](auto v, int64_t i) { return clamped(decltype(v)(value(v, i)), clamp); });
    }

    A backward(int64_t start, int64_t n) {
      const T* x = static_cast<const T*>(p.x) + (p.x ? start : 0);
      const T* dy = static_cast<const T*>(p.dy) + start;
      const A* bias = b.data();
      const A* added = c.data();
      const A gain = p.gain, below = p.act == kLinear ? gain : p.act == kRelu ? A(0) : gain * A(p.alpha);
      if (p.order == 1 && p.clamp >= 0) {  // x is the result.
        const A clamp = p.clamp;
        return each(start, n, [=](auto v, int64_t i) {
          using V = decltype(v);
          const V y = get<V>(x + i), high = V{} + clamp, rate = slope(y, gain, below);
          return V((get<V>(dy + i) + get<V>(added + i)) * (y >= high ? V{} : V(y <= -high ? V{} : rate)));
        });
      }
      if (p.order == 1 && p.act == kLinear)
        return each(start, n, [=](auto v, int64_t i) {
          using V = decltype(v);
          return V((get<V>(dy + i) + get<V>(added + i)) * gain);
        });
      if (!curved && p.ref_is_y)
        return each(start, n, [=](auto v, int64_t i) {
          using V = decltype(v);
          return V((get<V>(dy + i) + get<V>(added + i)) * slope(get<V>(x + i), gain, below));
        });
      if (!curved)
        return each(start, n, [=](auto v, int64_t i) {
          using V = decltype(v);
          return V((get<V>(dy + i) + get<V>(added + i)) * slope(V(get<V>(x + i) + get<V>(bias + i)), gain, below));
        });
      A* point = z.data();
      if (p.x) load_row<T>(x, point, n);
      add_row(bias, point, n);
      derive(p, point, n);
      return each(start, n, [=](auto v, int64_t i) {
        using V = decltype(v);
        return V((get<V>(dy + i) + get<V>(added + i)) * get<V>(point + i) * gain);
      });
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
    case kBFloat16: return BiasAct<BFloat16>(p).run(parallel);
    case kFloat16: return BiasAct<Half>(p).run(parallel);
  }
}

}  // namespace stylegan2
