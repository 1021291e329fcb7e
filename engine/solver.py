"""Every solver as one table of coefficients.

All samplers in use (Euler on sigmas, DDIM with any eta, DPM-Solver++(2M) SDE) are linear in the same few tensors, so a
step needs no code of its own, only eight numbers a step (`COEFFICIENTS`), worked out in float64 on the host:

    v        = network(c_in * x, timestep)                    one guidance half
    guided   = uncond + guidance[f] * (cond - uncond)
    x0       = c_skip * x + c_out * guided                    the estimate of the clean latent
    x_next   = k_x * x + k_x0 * x0 + k_noise * noise + k_previous * x0_previous

`export/step.py` holds the same arithmetic as a graph.
"""

import numpy as np
import numpy.typing as npt

COEFFICIENTS = ("c_in", "timestep", "c_skip", "c_out", "k_x", "k_x0", "k_noise", "k_previous")

Table = npt.NDArray[np.float64]  # [steps, 8], columns as in COEFFICIENTS
