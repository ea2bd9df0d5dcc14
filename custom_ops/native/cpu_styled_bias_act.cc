// What follows a modulated convolution, on the CPU: demodulation, noise, bias, activation, gain and clamp in one pass over memory.

#include "cpu_kernels.h"

#include <cmath>
#include <vector>

namespace stylegan2 {
namespace {

constexpr int64_t kPart = 1 << 16;  // Elements that a thread takes at a time, about.

INLINE void limit(float* RESTRICT row, int64_t n, float clamp) {
  for (int64_t i = 0; i < n; i++) row[i] = row[i] < -clamp ? -clamp : row[i] > clamp ? clamp : row[i];  // Keeps NaN.
}

template <typename T>
void run(const StyledBiasActParams& p, const ParallelFor& parallel) {
  const bool stream = p.images * p.pixels * p.channels * static_cast<int64_t>(sizeof(T)) >= kStreamBytes;
  const int64_t block = std::max<int64_t>(1, kBlock / p.channels);  // Pixels that are converted and written together.
  const int64_t part = std::max<int64_t>(1, kPart / (p.channels * block)) * block;
  const int64_t parts = (p.pixels + part - 1) / part;
  parallel(p.images * parts, part * p.channels, [&](int64_t first, int64_t last) {
    const int64_t channels = p.channels;
    const float gain = p.gain, below = p.gain * p.alpha;
    std::vector<float> ones(channels, 1.0f), zeros(channels, 0.0f), row(block * channels);
    std::vector<T> staging(stream ? kBlock : 0);
    const float* RESTRICT bias = p.b ? p.b : zeros.data();
    for (int64_t index = first; index < last; index++) {
      const int64_t image = index / parts, end = std::min(p.pixels, (index % parts + 1) * part);
      const float* RESTRICT scale = p.scale ? p.scale + image * channels : ones.data();
      const float* noise = p.noise ? p.noise + (p.one_noise ? 0 : image * p.pixels) : nullptr;
      for (int64_t begin = index % parts * part; begin < end; begin += block) {
        const int64_t offset = (image * p.pixels + begin) * channels, count = std::min(block, end - begin);
        const T* RESTRICT x = static_cast<const T*>(p.x) + offset;
        for (int64_t pixel = 0; pixel < count; pixel++) {
          const float added = noise ? noise[begin + pixel] : 0.0f;
          const T* RESTRICT in = x + pixel * channels;
          float* RESTRICT out = row.data() + pixel * channels;
#pragma GCC ivdep
          for (int64_t c = 0; c < channels; c++) {
            const float sum = to_float(in[c]) * scale[c] + (added + bias[c]);
            out[c] = sum * (sum > 0 ? gain : below);
          }
        }
        if (std::isfinite(p.clamp)) limit(row.data(), count * channels, p.clamp);
        store_row<T>(row.data(), static_cast<T*>(p.y) + offset, count * channels, stream, staging.data());
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
    case kBFloat16: return run<Eigen::bfloat16>(p, parallel);
    case kFloat16: return run<Eigen::half>(p, parallel);
    case kFloat64: return;  // Not registered.
  }
}

}  // namespace stylegan2
