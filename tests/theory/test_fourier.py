"""All of appendix F.4 is to be found in one place."""

from __future__ import annotations

import inspect

from lnpjax.theory import fourier
from lnpjax.theory.fourier import factors as fourier_factors
from lnpjax.theory.fourier import modes as fourier_modes
from lnpjax.theory.fourier import (
    orthogonal_updates,
    shift_equivariance,
    smooth_spectrum,
    tied_heads,
)
from lnpjax.theory.fourier import times as fourier_times


def test_everything_public_is_reexported():
    modules = (
        fourier_modes,
        fourier_times,
        smooth_spectrum,
        fourier_factors,
        shift_equivariance,
        tied_heads,
        orthogonal_updates,
    )
    public = {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if inspect.getmodule(value) is module and not name.startswith("_")
    }
    assert sorted(public) == sorted(fourier.__all__)
    assert all(getattr(fourier, name) is value for name, value in public.items())
