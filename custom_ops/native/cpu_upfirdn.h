// What the two files of upfirdn_2d on the CPU share: cpu_upfirdn.cc, which handles every case, and cpu_upfirdn_nhwc.cc,
// which handles the frequent ones faster.
#pragma once

#include "cpu_common.h"
#include "params.h"

namespace stylegan2 {

// ---- Positions along an axis ----

// Which input samples and which taps an output sample is computed from, along one axis. The zeros that upsampling
// inserts contribute nothing, so they are never stored: only every up-th tap falls on an input sample.
//     y[o] = sum over j of taps[tap(o) + j * up] * x[first(o) + j]
// tap(o), between 0 and up - 1, is the phase of the output. All outputs of a phase have the same weights.
//
// Example: the row x = [4 8 12 16], up 2, down 1, pad0 2, pad1 1, and the 4 taps [1 3 3 1] / 4. The row with its
// inserted zeros and its padding, which is not stored, has 2 * 4 + 2 + 1 = 11 samples and gives 11 - 4 + 1 = 8 outputs:
//     0 0 4 0 8 0 12 0 16 0 0
// Even outputs have tap 0, so their weights are taps 0 and 2: [1/4 3/4]. Odd outputs have tap 1: [3/4 1/4].
//     o   first(o)  y[o]                            o   first(o)  y[o]
//     0   -1        1/4 *  0 + 3/4 *  4 =  3        1   0         3/4 *  4 + 1/4 *  8 =  5
//     2    0        1/4 *  4 + 3/4 *  8 =  7        3   1         3/4 *  8 + 1/4 * 12 =  9
//     4    1        1/4 *  8 + 3/4 * 12 = 11        5   2         3/4 * 12 + 1/4 * 16 = 13
//     6    2        1/4 * 12 + 3/4 * 16 = 15        7   3         3/4 * 16 + 1/4 *  0 = 12
// y[0] reads x[-1] and y[7] reads x[4]: samples outside the row are zeros.
struct Axis {
  int up, down;
  int taps;      // Of a phase, at most: 2 in the example.
  int64_t pad0;

  Axis(int up, int down, int64_t pad0, int size) : up(up), down(down), taps((size + up - 1) / up), pad0(pad0) {}

  // first(o), which may lie outside the input, and tap(o).
  void locate(int64_t o, int64_t* first, int* tap) const {
    const int64_t position = o * down - pad0;
    const int64_t remainder = ((-position) % up + up) % up;
    *tap = static_cast<int>(remainder);
    *first = (position + remainder) / up;
  }

  // From first(o) and tap(o) to those of o + 1, without a division.
  INLINE void advance(int64_t* first, int* tap) const {
    for (*tap -= down; *tap < 0; *tap += up) ++*first;
  }
};

// ---- The kernels of cpu_upfirdn_nhwc.cc ----

// Some rows of the result of one image, and what they are computed from.
template <typename T>
struct NhwcBand {
  const T* x;                  // The image, [in_h, in_w, minor].
  T* y;                        // Its result, [out_h, out_w, minor].
  int64_t row_begin, row_end;  // The rows of the result to compute, at least two.
  const float* weights_y;      // [up_y, taps of a phase], down the columns.
  const float* weights_x;      // [up_x, taps of a phase], along the rows.
  const T* zeros;              // [in_w, minor], in place of the rows outside the image.
  bool nontemporal;            // Whether to write y with non-temporal stores, for which it must be aligned.
};

template <typename T>
using NhwcKernel = void (*)(const UpfirdnParams& p, const NhwcBand<T>& band);

// The kernel for a separable filter with so many taps per phase, or null if there is none for these parameters.
template <typename T>
NhwcKernel<T> find_nhwc_kernel(const UpfirdnParams& p, int taps_y, int taps_x);

}  // namespace stylegan2
