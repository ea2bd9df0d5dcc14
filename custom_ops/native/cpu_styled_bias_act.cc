// What follows a modulated convolution, on the CPU: demodulation, noise, bias, activation, gain and clamp in one pass over memory.

#include "cpu_common.h"
#include "cpu_kernels.h"

#include <cmath>
#include <vector>

namespace stylegan2 {
namespace {

constexpr int64_t kPart = 1 << 16;  // Elements that a thread takes at a time, about.

template <typename T>
void run(const StyledBiasActParams& p, const ParallelFor& parallel) {
  const bool stream = p.images * p.pixels * p.channels * static_cast<int64_t>(sizeof(T)) >= kStreamBytes
      && can_stream(static_cast<const T*>(p.y), p.channels);
  const int64_t part = std::max<int64_t>(1, kPart / p.channels);
  const int64_t parts = (p.pixels + part - 1) / part;
  parallel(p.images * parts, part * p.channels, [&](int64_t first, int64_t last) {
    const int64_t channels = p.channels;
    const float gain = p.gain, below = p.gain * p.alpha, clamp = p.clamp;
    const std::vector<float> ones(channels, 1.0f), zeros(channels, 0.0f);
    const float* bias = p.b ? p.b : zeros.data();
    for (int64_t index = first; index < last; index++) {
      const int64_t image = index / parts, begin = index % parts * part, end = std::min(p.pixels, begin + part);
      const float* scale = p.scale ? p.scale + image * channels : ones.data();
      const float* noise = p.noise ? p.noise + (p.one_noise ? 0 : image * p.pixels) : nullptr;
      for (int64_t pixel = begin; pixel < end; pixel++) {
        const T* x = static_cast<const T*>(p.x) + (image * p.pixels + pixel) * channels;
        T* y = static_cast<T*>(p.y) + (image * p.pixels + pixel) * channels;
        const float added = noise ? noise[pixel] : 0.0f;
        int64_t c = 0;
        for (; c + kLanes <= channels; c += kLanes) {
          __builtin_prefetch(x + c + kAhead / sizeof(T));
          const Floats sum = load(x + c) * load(scale + c) + (added + load(bias + c));
          store(y + c, clamped(Floats(sum * slope(sum, gain, below)), clamp), stream);
        }
        for (; c < channels; c++) {
          const float sum = to_float(x[c]) * scale[c] + (added + bias[c]), value = clamped(sum * slope(sum, gain, below), clamp);
          convert_row<T>(&value, y + c, 1);
        }
      }
    }
    if (stream) stream_fence();
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
