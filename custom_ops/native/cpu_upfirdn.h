// What the two files of upfirdn_2d on the CPU share.
#pragma once

#include "cpu_common.h"
#include "params.h"

namespace stylegan2 {

// ---- Positions along an axis ----

// Where the samples of an axis come from: output o is the sum over j of filter[tap(o) + j * up] * input[first(o) + j].
struct Axis {
  int up, down, taps;  // taps: of a phase, at most.
  int64_t pad0;

  Axis(int up, int down, int64_t pad0, int size) : up(up), down(down), taps((size + up - 1) / up), pad0(pad0) {}

  // The first input sample that output o reads (may lie outside), and the index of the filter's tap on it.
  void locate(int64_t o, int64_t* first, int* tap) const {
    const int64_t position = o * down - pad0;
    const int64_t remainder = ((-position) % up + up) % up;
    *tap = static_cast<int>(remainder);
    *first = (position + remainder) / up;
  }

  // The same for the next output, without a division.
  INLINE void advance(int64_t* first, int* tap) const {
    for (*tap -= down; *tap < 0; *tap += up) ++*first;
  }
};

// ---- The fast functions of cpu_upfirdn_fast.cc ----

// Output rows [y0, y1) of the images x and y; at least two. Weights are those of the phases.
template <typename T>
using FastBand = void (*)(const UpfirdnParams& p, const float* wy, const float* wx, const T* x, T* y, int64_t y0, int64_t y1, const T* zeros,
                          bool stream);

// The function for a separable filter of so many taps a phase; null where none fits.
template <typename T>
FastBand<T> fast_band(const UpfirdnParams& p, int taps_y, int taps_x);

}  // namespace stylegan2
