"""Known causes put in on purpose, and what the instruments recover of them.

One module an instrument, each with `bars()`, which yields a `lab.model.calibration.Bar` as soon as it is known.
"""
