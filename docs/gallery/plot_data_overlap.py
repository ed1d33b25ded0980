"""
Data overlap
============

The share of neighbours that two token positions have in common, layer by layer.
"""

import actstore

found = actstore.open("demo/fusion").measure.overlap(roles=["last-image", "image-mean"], with_role="eoi", k=10)
figure = found.figure.chart
print(found.command)
