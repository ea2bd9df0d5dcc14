// styled_bias_act on the CPU: what follows a modulated convolution (demodulation, noise, bias, activation, gain and
// clamp) in one pass over memory.

#include "cpu_common.h"
#include "cpu_kernels.h"

#include <cmath>
#include <vector>

namespace stylegan2 {
namespace {

constexpr int64_t kUnitElements = 1 << 16;  // About what a thread computes at a time.

// One pixel: y[c] = gain * act(x[c] * scale[c] + noise + bias[c]), clipped.
template <typename T>
INLINE void compute_pixel(const StyledBiasActParams& p, const T* x, const float* scale, float noise, const float* bias,
                          T* y, bool nontemporal) {
  const float gain = p.gain, below = p.gain * p.alpha, clamp = p.clamp;
  int64_t c = 0;
  for (; c + kLanes <= p.channels; c += kLanes) {
    __builtin_prefetch(x + c + kPrefetchBytes / sizeof(T));
    const Floats z = load(x + c) * load(scale + c) + (noise + load(bias + c));
    store(y + c, clip(Floats(z * select_by_sign(z, gain, below)), clamp), nontemporal);
  }
  for (; c < p.channels; c++) {
    const float z = to_float(x[c]) * scale[c] + (noise + bias[c]);
    const float value = clip(z * select_by_sign(z, gain, below), clamp);
    convert_row<T>(&value, y + c, 1);
  }
}

template <typename T>
void run(const StyledBiasActParams& p, const ParallelFor& parallel) {
  const int64_t bytes = p.images * p.pixels * p.channels * static_cast<int64_t>(sizeof(T));
  const bool nontemporal = bytes >= kNontemporalBytes && can_store_nontemporal(static_cast<const T*>(p.y), p.channels);
  const int64_t unit = std::max<int64_t>(1, kUnitElements / p.channels);  // Pixels of a unit.
  const int64_t units = (p.pixels + unit - 1) / unit;                     // Units of an image.
  parallel(p.images * units, unit * p.channels, [&](int64_t first, int64_t last) {
    const StyledBiasActParams params = p;  // A copy that no store can alias, so that its numbers stay in registers.
    const std::vector<float> ones(p.channels, 1.0f), zeros(p.channels, 0.0f);
    const float* bias = p.b ? p.b : zeros.data();
    for (int64_t index = first; index < last; index++) {
      const int64_t image = index / units;
      const int64_t begin = index % units * unit, end = std::min(p.pixels, begin + unit);
      const float* scale = p.scale ? p.scale + image * p.channels : ones.data();
      const float* noise = p.noise ? p.noise + (p.one_noise ? 0 : image * p.pixels) : nullptr;
      for (int64_t pixel = begin; pixel < end; pixel++) {
        const int64_t offset = (image * p.pixels + pixel) * p.channels;
        compute_pixel(params, static_cast<const T*>(p.x) + offset, scale, noise ? noise[pixel] : 0.0f, bias,
                      static_cast<T*>(p.y) + offset, nontemporal);
      }
    }
    if (nontemporal) nontemporal_fence();
  });
}

}  // namespace

void styled_bias_act_cpu(const StyledBiasActParams& p, const ParallelFor& parallel) {
  if (p.images * p.pixels * p.channels == 0) return;
  switch (p.dtype) {
    case kFloat32: return run<float>(p, parallel);
    case kBFloat16: return run<BFloat16>(p, parallel);
    case kFloat16: return run<Half>(p, parallel);
    case kFloat64: return;  // Not registered.
  }
}

}  // namespace stylegan2
