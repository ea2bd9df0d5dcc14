// The kernels of cpu_upfirdn.cc, cpu_bias_act.cc and cpu_styled_bias_act.cc. See params.h for what they compute.
#pragma once

#include "cpu_common.h"
#include "params.h"

namespace stylegan2 {

void upfirdn_cpu(const UpfirdnParams& p, const ParallelFor& parallel);
void bias_act_cpu(const BiasActParams& p, const ParallelFor& parallel);
void styled_bias_act_cpu(const StyledBiasActParams& p, const ParallelFor& parallel);

}  // namespace stylegan2
