// Activations of a block, in place: cpu_curves.cc.
#pragma once

#include "params.h"

namespace stylegan2 {

// z -> act(z), of a curve.
void activate(const BiasActParams& p, float* data, int64_t n);
void activate(const BiasActParams& p, double* data, int64_t n);

// z -> act^(order)(z), of a curve, or of anything where that is not the first.
void derive(const BiasActParams& p, float* data, int64_t n);
void derive(const BiasActParams& p, double* data, int64_t n);

}  // namespace stylegan2
