// The measure of the other ops: a copy around the caches.

#include "cpu_common.h"
#include "cpu_kernels.h"

namespace stylegan2 {

void stream_copy_cpu(const void* x, void* y, int64_t bytes, const ParallelFor& parallel) {
  const char* src = static_cast<const char*>(x);
  char* dst = static_cast<char*>(y);
  constexpr int64_t part = 1 << 18;
  parallel((bytes + part - 1) / part, part / 16, [&](int64_t first, int64_t last) {
    stream_bytes(src + first * part, dst + first * part, std::min(bytes, last * part) - first * part);
    stream_fence();
  });
}

}  // namespace stylegan2
