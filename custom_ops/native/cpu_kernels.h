// The kernels of cpu_upfirdn.cc and cpu_bias_act.cc. See params.h for what they compute.
#pragma once

#include "cpu_common.h"
#include "params.h"

namespace stylegan2 {

void upfirdn_cpu(const UpfirdnParams& p, const ParallelFor& parallel);
void bias_act_cpu(const BiasActParams& p, const ParallelFor& parallel);

}  // namespace stylegan2
