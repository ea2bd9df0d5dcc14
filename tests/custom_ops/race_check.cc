// Runs the CPU kernels with each unit of work in a thread of its own, and once more in a single thread. test_native.py
// builds this program with -fsanitize=thread: ThreadSanitizer reports memory that two units access without
// synchronisation, in whatever order they happened to run, and makes the exit status differ from 0. The program itself
// prints 'same results' if both runs give the same bytes. With the argument `fault` it contains a race.

#include <cmath>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "cpu_kernels.h"

using namespace stylegan2;

namespace {

void one_thread_per_unit(int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& body) {
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < total; i++) threads.emplace_back([&body, i] { body(i, i + 1); });
  for (std::thread& thread : threads) thread.join();
}

void single_thread(int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& body) { body(0, total); }

// `run(output, parallel)` fills the output. Both ways of running it must give the same bytes.
template <typename Run>
bool same_results(const char* what, int64_t size, const Run& run) {
  std::vector<float> expected(size, -1.0f), actual(size, -2.0f);
  run(expected.data(), single_thread);
  run(actual.data(), one_thread_per_unit);
  if (std::memcmp(expected.data(), actual.data(), size * sizeof(float)) == 0) return true;
  std::printf("results depend on the threads: %s\n", what);
  return false;
}

std::vector<float> numbers(int64_t size) {
  std::vector<float> values(size);
  for (int64_t i = 0; i < size; i++) values[i] = std::sin(0.37f * i);
  return values;
}

// Filters images of `h` rows, which must be wide enough for bands of the least height.
bool check_upfirdn(int64_t h, int64_t w, int64_t channels, int up, int down, bool separable) {
  const float taps[] = {0.125f, 0.375f, 0.375f, 0.125f};
  std::vector<float> k(16);
  for (int i = 0; i < 16; i++) k[i] = taps[i / 4] * taps[i % 4] + (separable || i % 5 ? 0.0f : 0.25f);
  UpfirdnParams p = {};
  p.dtype = kFloat32;
  p.k = k.data(), p.k_h = p.k_w = 4;
  p.up_y = p.up_x = up, p.down_y = p.down_x = down;
  p.pad_y0 = p.pad_x0 = 2;
  p.major = 2, p.in_h = h, p.in_w = w, p.minor = channels;
  p.out_h = (h * up + 3 - 4) / down + 1, p.out_w = (w * up + 3 - 4) / down + 1;
  const std::vector<float> x = numbers(p.major * h * w * channels);
  p.x = x.data();
  char what[100];
  std::snprintf(what, sizeof(what), "upfirdn_2d, %ld rows, %ld channels, up %d, down %d, separable %d",
                static_cast<long>(h), static_cast<long>(channels), up, down, separable);
  return same_results(what, p.major * p.out_h * p.out_w * channels, [&](float* y, const ParallelFor& parallel) {
    UpfirdnParams run = p;
    run.y = y;
    upfirdn_cpu(run, parallel);
  });
}

bool check_bias_act(int64_t outer, int64_t channels, int64_t inner, int order) {
  BiasActParams p = {};
  p.dtype = kFloat32, p.act = kLeakyRelu, p.order = order;
  p.alpha = 0.2f, p.gain = 1.5f, p.clamp = -1;
  p.outer = outer, p.channels = channels, p.inner = inner;
  const int64_t size = outer * channels * inner;
  const std::vector<float> x = numbers(size), dy = numbers(size), b = numbers(channels);
  p.x = x.data(), p.b = b.data(), p.dy = order > 0 ? dy.data() : nullptr;
  return same_results("fused_bias_act", size + channels, [&](float* y, const ParallelFor& parallel) {
    BiasActParams run = p;
    run.y = y, run.db = y + size;
    if (order == 0) run.db = nullptr, std::fill(y + size, y + size + channels, 0.0f);
    bias_act_cpu(run, parallel);
  });
}

bool check_styled_bias_act(int64_t images, int64_t pixels, int64_t channels, bool nchw) {
  StyledBiasActParams p = {};
  p.dtype = kFloat32, p.nchw = nchw;
  p.alpha = 0.2f, p.gain = 1.5f, p.clamp = INFINITY;
  p.images = images, p.pixels = pixels, p.channels = channels;
  const std::vector<float> x = numbers(images * pixels * channels);
  const std::vector<float> scale = numbers(images * channels), noise = numbers(images * pixels);
  p.x = x.data(), p.scale = scale.data(), p.noise = noise.data();
  return same_results("styled_bias_act", x.size(), [&](float* y, const ParallelFor& parallel) {
    StyledBiasActParams run = p;
    run.y = y;
    styled_bias_act_cpu(run, parallel);
  });
}

bool check_styled_bias_act_grad(int64_t images, int64_t pixels, int64_t channels, bool nchw, bool one_noise) {
  StyledBiasActGradParams p = {};
  p.dtype = kFloat32, p.nchw = nchw, p.one_noise = one_noise;
  p.alpha = 0.2f, p.gain = 1.5f, p.clamp = INFINITY;
  p.images = images, p.pixels = pixels, p.channels = channels;
  const int64_t size = images * pixels * channels, noises = one_noise ? pixels : images * pixels;
  const std::vector<float> x = numbers(size), scale = numbers(images * channels);
  p.dy = p.y = p.x = x.data(), p.scale = scale.data();
  const int64_t total = size + images * channels + noises + channels;
  return same_results("gradient of styled_bias_act", total, [&](float* results, const ParallelFor& parallel) {
    StyledBiasActGradParams run = p;
    run.dx = results, run.dscale = results + size;
    run.dnoise = run.dscale + images * channels, run.db = run.dnoise + noises;
    styled_bias_act_grad_cpu(run, parallel);
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "fault") == 0) {
    int shared = 0;
    one_thread_per_unit(2, 1, [&shared](int64_t, int64_t) { shared = 1; });
    return 0;
  }
  bool ok = true;
  // Bands are 32 rows high: the last one may have a single row left (33, 65), all rows but one, or several. Channels: a
  // whole vector, few, one.
  for (int64_t h : {1, 2, 31, 33, 34, 65, 66}) {
    for (int up : {1, 2}) {
      for (int down : {1, 2}) {
        ok &= check_upfirdn(h, 140, 32, up, down, true);
        ok &= check_upfirdn(h, 1400, 3, up, down, true);
        ok &= check_upfirdn(h, 4200, 1, up, down, true);
      }
    }
    ok &= check_upfirdn(h, 140, 32, 1, 1, false);
  }
  for (int order : {0, 1}) {
    ok &= check_bias_act(9000, 40, 1, order);
    ok &= check_bias_act(3, 5, 40000, order);
  }
  for (bool nchw : {false, true}) {
    ok &= check_styled_bias_act(3, 5000, 40, nchw);
    for (bool one_noise : {false, true}) ok &= check_styled_bias_act_grad(3, 5000, 40, nchw, one_noise);
  }
  if (ok) std::puts("same results");
  return ok ? 0 : 1;
}
