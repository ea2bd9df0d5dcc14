// fused_bias_act and its derivatives on the CPU: one pass over memory, in blocks that stay in the L1 cache.

#include "cpu_common.h"
#include "cpu_curves.h"
#include "cpu_kernels.h"

namespace stylegan2 {
namespace {

constexpr int64_t kUnitElements = 1 << 16;  // About what a thread computes at a time.

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// sums[i] += x[i].
template <typename A>
INLINE void add_row(const A* x, A* sums, int64_t n) {
  int64_t i = 0;
  if constexpr (std::is_same_v<A, float>)
    for (; i + kLanes <= n; i += kLanes) store(sums + i, load(sums + i) + load(x + i), false);
  for (; i < n; i++) sums[i] += x[i];
}

// How a tensor is divided. A slab is a contiguous range after which the channels start again: the whole tensor in NHWC,
// one image in NCHW. It is divided into units of equal size, one for a thread at a time, and those into blocks.
struct Division {
  int64_t slab, slabs;   // Elements of a slab, number of slabs.
  int64_t block;         // Elements of a block.
  int64_t unit, units;   // Elements of a unit, units of a slab.

  // It depends on the shape alone, so that sums are the same for any number of threads.
  explicit Division(const BiasActParams& p) {
    const bool nhwc = p.inner == 1;
    slab = nhwc ? p.outer * p.channels : p.channels * p.inner;
    slabs = nhwc ? 1 : p.outer;
    // NHWC: a block is a number of whole pixels, so that all blocks have the same biases. Small pixels come in groups
    // of kLanes, so that every block begins at a whole vector. NCHW: a block lies within one channel.
    const int64_t group = !nhwc ? 1 : p.channels * kLanes <= kBlockElements ? p.channels * kLanes : p.channels;
    block = std::min(nhwc ? slab : p.inner, std::max<int64_t>(kBlockElements / group, 1) * group);
    unit = ceil_div(ceil_div(slab, block), ceil_div(slab, kUnitElements)) * block;
    units = ceil_div(slab, unit);
  }
};

template <typename T>
class BiasAct {
  using A = Accumulator<T>;

 public:
  explicit BiasAct(const BiasActParams& p)
      : p(p), division(p),
        nontemporal(p.outer * p.channels * p.inner * static_cast<int64_t>(sizeof(T)) >= kNontemporalBytes) {}

  void run(const ParallelFor& parallel) {
    const int64_t units = division.slabs * division.units;
    if (p.db) partial_db.assign(units * p.channels, A(0));
    parallel(units, division.unit, [&](int64_t first, int64_t last) {
      Worker worker(*this);
      for (int64_t i = first; i < last; i++)
        worker.compute_unit(i, p.db ? partial_db.data() + i * p.channels : nullptr);
      if (nontemporal) nontemporal_fence();
    });
    if (p.db) sum_partial_db(units);
  }

 private:
  const BiasActParams& p;
  const Division division;
  const bool nontemporal;
  std::vector<A> partial_db;  // [units of all slabs, channels].

  void sum_partial_db(int64_t units) const {
    T* db = static_cast<T*>(p.db);
    std::vector<double> sums(p.channels, 0.0);
    const A* row = partial_db.data();
    for (int64_t i = 0; i < units; i++, row += p.channels)
      for (int64_t c = 0; c < p.channels; c++) sums[c] += row[c];
    for (int64_t c = 0; c < p.channels; c++) from_float(static_cast<A>(sums[c]), db + c);
  }

  // A thread's buffers, and what it does with them.
  class Worker {
   public:
    explicit Worker(const BiasAct& op)
        : op(op), p(op.p), division(op.division), nhwc(p.inner == 1),
          smooth(p.order > 1 || (p.act != kLinear && p.act != kRelu && p.act != kLeakyRelu)),
          bias(division.block, A(0)), added(p.order ? division.block : 0, A(0)), points(smooth ? division.block : 0),
          block_sums(p.db && nhwc ? division.block : 0) {
      if (nhwc) load_channels(0);
    }

    // `db`: this unit's part of the bias gradient, [channels]. Null = not computed.
    void compute_unit(int64_t index, A* db) {
      const int64_t offset = index / division.units * division.slab;
      const int64_t begin = index % division.units * division.unit;
      const int64_t end = std::min(division.slab, begin + division.unit);
      std::fill(block_sums.begin(), block_sums.end(), A(0));
      int64_t loaded_channel = -1;
      for (int64_t i = begin, n; i < end; i += n) {
        n = std::min(division.block, end - i);
        if (nhwc) {
          compute_block(offset + i, n);
          continue;
        }
        const int64_t channel = i / p.inner;
        n = std::min(n, p.inner - i % p.inner);
        if (channel != loaded_channel) load_channels(loaded_channel = channel);
        const A total = compute_block(offset + i, n);
        if (db) db[channel] += total;
      }
      if (db && nhwc) sum_pixels(db);
    }

   private:
    const BiasAct& op;
    const BiasActParams& p;
    const Division& division;
    const bool nhwc;
    const bool smooth;     // The result is not just a slope on each side of zero.
    // Of a block: the biases, what is added to dy, x + b of a smooth activation, and NHWC: sums over all blocks of a
    // unit.
    Buffer<A> bias, added, points, block_sums;

    // Adds the second half of the pixels to the first until one pixel is left.
    void sum_pixels(A* db) {
      for (int64_t pixels = division.block / p.channels, half; pixels > 1; pixels = half) {
        half = (pixels + 1) / 2;
        add_row<A>(block_sums.data() + half * p.channels, block_sums.data(), (pixels - half) * p.channels);
      }
      std::copy_n(block_sums.data(), p.channels, db);
    }

    // Fills `bias` and `added`: NHWC with all channels in turn, NCHW with this channel.
    void load_channels(int64_t channel) {
      if (p.b) repeat(static_cast<const T*>(p.b), channel, bias);
      if (p.dy_bias) repeat(static_cast<const T*>(p.dy_bias), channel, added);
    }

    void repeat(const T* values, int64_t channel, Buffer<A>& out) {
      if (!nhwc) return std::fill(out.begin(), out.end(), to_float(values[channel]));
      load_row<T>(values, out.data(), p.channels);
      const int64_t n = out.size();
      for (int64_t done = p.channels; done < n; done *= 2)
        std::copy_n(out.data(), std::min(done, n - done), out.data() + done);
    }

    // Returns the sum of the block's results, or 0 if they were added to `block_sums`.
    A compute_block(int64_t start, int64_t n) { return p.order == 0 ? forward(start, n) : backward(start, n); }

    // y[i] = value(V(), i), where V() only tells the type: a number or Floats. Sums the results in the same pass. y may
    // be the memory of x or dy. Returns as `compute_block`.
    template <typename Value>
    INLINE A write_block(int64_t start, int64_t n, const Value& value) {
      T* y = p.y ? static_cast<T*>(p.y) + start : nullptr;
      const T* next_x = p.x ? static_cast<const T*>(p.x) + start + kPrefetchBytes / sizeof(T) : nullptr;
      const T* next_dy = p.dy ? static_cast<const T*>(p.dy) + start + kPrefetchBytes / sizeof(T) : nullptr;
      A* sums = block_sums.empty() ? nullptr : block_sums.data();
      int64_t i = 0;
      A total = 0;
      if constexpr (std::is_same_v<A, float>) {
        const bool nontemporal = op.nontemporal && can_store_nontemporal(y, 0);
        Floats totals = {};
        for (; i + kLanes <= n; i += kLanes) {
          if (next_x) __builtin_prefetch(next_x + i);
          if (next_dy) __builtin_prefetch(next_dy + i);
          const Floats v = value(Floats(), i);
          if (y) store(y + i, v, nontemporal);
          if (sums) store(sums + i, load(sums + i) + v, false);
          else totals += v;
        }
        for (int lane = 0; lane < kLanes; lane++) total += totals[lane];
      }
      for (; i < n; i++) {
        const A v = value(A(), i);
        if (y) convert_row<T>(&v, y + i, 1);
        if (sums) sums[i] += v;
        else total += v;
      }
      return total;
    }

    template <typename Value>
    INLINE A write_clipped_block(int64_t start, int64_t n, const Value& value) {
      if (p.clamp < 0) return write_block(start, n, value);
      const A clamp = p.clamp;
      return write_block(start, n, [=](auto v, int64_t i) { return clip(decltype(v)(value(v, i)), clamp); });
    }

    // points[i] = x[i] + b[i].
    void load_points(int64_t start, int64_t n) {
      if (p.x) load_row<T>(static_cast<const T*>(p.x) + start, points.data(), n);
      add_row(bias.data(), points.data(), n);
    }

    // y = gain * act(x + b).
    A forward(int64_t start, int64_t n) {
      const T* x = static_cast<const T*>(p.x) + start;
      const A* b = bias.data();
      const A gain = p.gain, below = p.act == kLinear ? gain : gain * A(p.alpha);
      if (p.act == kLinear || p.act == kLeakyRelu)
        return write_clipped_block(start, n, [=](auto v, int64_t i) {
          using V = decltype(v);
          const V z = get<V>(x + i) + get<V>(b + i);
          return V(z * select_by_sign(z, gain, below));
        });
      if (p.act == kRelu)
        return write_clipped_block(start, n, [=](auto v, int64_t i) {
          using V = decltype(v);
          const V z = get<V>(x + i) + get<V>(b + i);
          return V(z <= 0 ? V{} : V(z * gain));  // NaN stays NaN.
        });
      load_points(start, n);
      apply_activation(p, points.data(), n);
      const A* point = points.data();
      return write_clipped_block(start, n, [=](auto v, int64_t i) { return get<decltype(v)>(point + i) * gain; });
    }

    // y = gain * (dy + dy_bias) * act^(order)(x + b). Each lambda loads both itself, because a lambda that calls
    // another one, which could share this line, compiles to slower code.
    A backward(int64_t start, int64_t n) {
      const T* x = static_cast<const T*>(p.x) + (p.x ? start : 0);
      const T* dy = static_cast<const T*>(p.dy) + start;
      const A *b = bias.data(), *dy_bias = added.data();
      const A gain = p.gain, below = p.act == kLinear ? gain : p.act == kRelu ? A(0) : gain * A(p.alpha);
      if (p.order == 1 && p.clamp >= 0) {  // x is the result of order 0.
        const A clamp = p.clamp;
        return write_block(start, n, [=](auto v, int64_t i) {
          using V = decltype(v);
          const V y = get<V>(x + i), high = V{} + clamp, rate = select_by_sign(y, gain, below);
          return V((get<V>(dy + i) + get<V>(dy_bias + i)) * (y >= high ? V{} : V(y <= -high ? V{} : rate)));
        });
      }
      if (p.order == 1 && p.act == kLinear)
        return write_block(start, n, [=](auto v, int64_t i) {
          using V = decltype(v);
          return V((get<V>(dy + i) + get<V>(dy_bias + i)) * gain);
        });
      if (!smooth && p.ref_is_y)
        return write_block(start, n, [=](auto v, int64_t i) {
          using V = decltype(v);
          return V((get<V>(dy + i) + get<V>(dy_bias + i)) * select_by_sign(get<V>(x + i), gain, below));
        });
      if (!smooth)
        return write_block(start, n, [=](auto v, int64_t i) {
          using V = decltype(v);
          const V point = get<V>(x + i) + get<V>(b + i);
          return V((get<V>(dy + i) + get<V>(dy_bias + i)) * select_by_sign(point, gain, below));
        });
      load_points(start, n);
      apply_derivative(p, points.data(), n);
      const A* point = points.data();
      return write_block(start, n, [=](auto v, int64_t i) {
        using V = decltype(v);
        return V((get<V>(dy + i) + get<V>(dy_bias + i)) * get<V>(point + i) * gain);
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
