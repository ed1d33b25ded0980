"""
Modality gap
============

Cosines between text vectors and image vectors: median and quartiles by layer.
"""

import actstore

found = actstore.open("demo/fusion").measure.gap(text="role = 'last'", image="role = 'image-mean'")
figure = found.figure.chart
print(found.command)
