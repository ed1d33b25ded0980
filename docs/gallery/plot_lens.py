"""
Logit lens
==========

What the model would say if its stream ended at a layer.
"""

import actstore

found = actstore.open("demo/fusion").measure.lens(roles=["eoi", "last"])
figure = found.figure.chart
print(found.command)
