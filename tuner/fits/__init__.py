"""Fits models for the study server, in processes of their own.

    with Fits(processes=4) as fits:
        point = fits.solve(fit, deadline)         a proposal, or a FitError that says why not
        fits.prepare()                            one will be asked for soon

A process is given a problem and answers with a point; it knows nothing of studies. It is started
when it is first needed, and ends with the server, however that ends.
"""

from tuner.fits.pool import FitError, Fits

__all__ = ["FitError", "Fits"]
