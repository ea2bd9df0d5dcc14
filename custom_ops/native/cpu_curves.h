// Smooth activations and their derivatives, applied in place to a block of numbers. Implemented in cpu_curves.cc.
#pragma once

#include "params.h"

namespace stylegan2 {

// z -> act(z), for a smooth activation (tanh .. swish).
void apply_activation(const BiasActParams& p, float* data, int64_t n);
void apply_activation(const BiasActParams& p, double* data, int64_t n);

// z -> act^(order)(z), for a smooth activation, or for any activation if order > 1.
void apply_derivative(const BiasActParams& p, float* data, int64_t n);
void apply_derivative(const BiasActParams& p, double* data, int64_t n);

}  // namespace stylegan2
